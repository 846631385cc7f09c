"""The harness of the study: its plan, its resuming runner, its controls, its paired seeds."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import make_grads, run

from adashift_optax import scale_by_adashift
from benchmarks.evidence import plan, results
from benchmarks.evidence.control import growing, growing_adam, scale_first
from benchmarks.evidence.optimizers import BLOCKS, MAIN, ROWS, Row
from benchmarks.evidence.report import of_task, over_tasks
from benchmarks.evidence.results import Record, append, check_data
from benchmarks.evidence.run import work
from benchmarks.evidence.statistics import best_of, interval, log_ratios, tuned
from benchmarks.evidence.task import Task, digest, generator
from benchmarks.evidence.train import Program

STEPS = 20
SHAPES = {"embedding": (5, 3), "kernel": (3, 4), "conv": (2, 2, 3, 2), "bias": (4,)}


def record(cell, best=1.0, diverged=False, version=plan.VERSION):
    return Record(*cell, 10, best, best, math.nan, diverged, 0.5, 4.0, version, "0", "[1.0, null]")


def valley(cell):
    """A run whose loss is least at a rate of 0.1, and which diverges above 1."""
    return record(cell, 1 + abs(plan.point_of(cell.rate) + 2), diverged=cell.rate > 1)


def cells_of(groups):
    return [(group.task, group.row.name, point) for group in groups for point in group.points]


@pytest.fixture(scope="module")
def a_done():
    """Records of all that A runs, of the losses of `valley`."""
    done = []
    for group in plan.groups_a():
        mine = []
        while cells := plan.next_cells(group, mine):
            mine += map(valley, cells)
        done += mine
    return done


def test_every_cell_is_planned_once_and_every_grid_is_as_large(a_done):
    b, a, delay, c = plan.groups_b(a_done), plan.groups_a(), plan.groups_delay(), plan.groups_c()
    for groups, size in ((a, 4), (b, 3), (delay, 3), (c, 3)):
        cells = cells_of(groups)
        assert len(set(cells)) == len(cells)
        assert {len(group.points) for group in groups} == {size}
    tasks = [{group.task for group in groups} for groups in (a, b, delay, c)]
    seeds = [set(seeds) for seeds in plan.SEEDS.values()]
    for sets in (tasks, seeds):
        assert all(not one & other for one, other in itertools.combinations(sets, 2))
    assert all(len(group.seeds) >= 3 for group in (*b, *c))
    families = {row.family for row in MAIN} - plan.NOT_ON_B
    assert {(g.task, g.row.family) for g in b} == set(itertools.product(plan.TASKS_B, families))


def test_grids_grow_until_the_best_rate_is_inside(a_done):
    for group in plan.groups_a():
        points = sorted(point for point, _ in plan.of_group(group, a_done))
        assert points[0] < -2 < points[-1]
        assert points == list(range(points[0], points[-1] + 1))
        assert plan.best_point(group, a_done) == -2


def test_b_takes_the_row_with_the_lowest_geometric_mean(a_done):
    wanted = "adamw b1=0.5 b2=.95"
    records = [r._replace(best=r.best * 0.9) if r.optimizer == wanted else r for r in a_done]
    row, points = plan.chosen(records)["adamw"]
    assert (row.name, set(points.values())) == (wanted, {-2})
    with pytest.raises(SystemExit, match="not finished"):
        plan.chosen(records[1:])


def test_a_killed_runner_goes_on_where_it_was(tmp_path):
    groups = [g for g in plan.groups_delay() if g.task == "delay_8"][:4]
    ran = []

    def counted(cell):
        ran.append(cell)
        return valley(cell)

    whole, folder = tmp_path / "whole", tmp_path / "killed"
    list(work(groups, counted, whole))
    lines = (whole / "delay_8.csv").read_bytes()
    assert len(set(ran)) == len(ran) == lines.count(b"\n") - 1

    ran.clear()
    list(itertools.islice(work(groups, counted, folder), 3))
    path = folder / "delay_8.csv"
    path.write_bytes(path.read_bytes()[:-7])  # killed within its third line
    kept, ran[:] = ran[:2], []
    list(work(groups, counted, folder))
    assert not set(ran) & set(kept)
    assert path.read_bytes() == lines


def test_shards_share_one_file_and_no_cell(tmp_path):
    groups = [g for g in plan.groups_delay() if g.task == "delay_8"]
    runners = [work(groups[i::2], valley, tmp_path) for i in (0, 1)]
    for pair in itertools.zip_longest(*runners):  # in turns
        assert pair[0] != pair[1]
    found = results.read("delay_8", tmp_path)
    assert len({r[:4] for r in found}) == len(found)
    assert not [g for g in groups if plan.next_cells(g, found)]


def test_what_another_version_of_the_plan_found_does_not_count():
    group = plan.groups_a()[0]
    cells = plan.next_cells(group, [])
    old = [record(cell, version=plan.VERSION - 1) for cell in cells]
    assert plan.next_cells(group, old) == cells


def linear(in_loop=True, power=1):
    """The loss is the product of a batch with the parameters, to a power."""

    def loss(params, data, batch):
        return jnp.sum((params["w"] * batch) ** power) + 0 * jnp.sum(data)

    return Task(
        "linear",
        lambda key: {"w": jax.random.normal(key, (3,))},
        loss,
        lambda rng, steps: rng.standard_normal((steps, 3)).astype(np.float32),
        np.zeros(1, np.float32),
        lambda params, data: jnp.sum(params["w"] ** 2),
        STEPS,
        clip=1e6,
        in_loop=in_loop,
    )


@pytest.mark.parametrize("in_loop", [True, False])
def test_all_optimizers_start_from_the_same_and_see_the_same_batches(in_loop):
    """Two of them that are SGD, against NumPy: the start, the batches and the schedule."""
    task, seed, rate = linear(in_loop), 3, 0.1
    rows = [ROWS["sgd"], Row("other", "other", lambda: optax.trace(0.0))]
    ends = [Program(task, row, STEPS).run(rate, seed)[1]["w"] for row in rows]

    rng = generator("linear", seed)
    w = np.asarray(task.init(jax.random.key(int(rng.integers(2**31))))["w"], np.float64)
    for t, batch in enumerate(rng.standard_normal((STEPS, 3))):
        down = 0.5 * (1 + math.cos(math.pi * (t - 2) / (STEPS - 2)))
        w = w - rate * ((t + 1) / 2 if t < 2 else down) * batch
    for end in ends:
        np.testing.assert_allclose(end, w, rtol=1e-5)
    assert not np.allclose(Program(task, rows[0], STEPS).run(rate, seed + 1)[1]["w"], w)


@pytest.mark.parametrize("in_loop", [True, False])
def test_a_run_that_diverges_stops_and_is_written(in_loop, tmp_path):
    cell = plan.Cell("linear", "sgd", 1e9, 0)
    program = Program(linear(in_loop, power=4), ROWS["sgd"], STEPS)

    def run_cell(cell):
        result, _ = program.run(cell.rate, cell.seed)
        return Record(*cell, plan=plan.VERSION, data="0", **result._asdict())

    results.append(run_cell(cell), tmp_path)
    results.append(run_cell(cell._replace(rate=1e-3)), tmp_path)
    bad, good = results.read("linear", tmp_path)
    assert bad.diverged
    assert plan.loss_of(bad) == math.inf
    assert bad.curve.count(",") < good.curve.count(",") == 9
    assert not good.diverged
    assert good.best <= good.final
    assert good.state_bytes == pytest.approx(4 / 3, rel=1e-5)  # one counter for three parameters


def numpy_scale_first(blocks, grads, b1, b2, clip):
    """scale_first without a delay, in float64, of one leaf."""
    v, weight, m = 0.0, 0.0, 0.0
    for t, g in enumerate(np.asarray(grads, np.float64), start=1):
        decay = 1 - t**-0.8 if b2 is growing else b2
        rows, columns = np.mean(g**2, 1, keepdims=True), np.mean(g**2, 0, keepdims=True)
        kept = {"none": g**2, "rows": columns, "factored": np.hstack([rows.ravel(), columns[0]])}
        v = decay * v + (1 - decay) * kept[blocks]
        weight = decay * weight + 1 - decay
        vhat = v / weight
        if blocks == "factored":
            r, c = np.split(vhat, [len(rows)])
            vhat = np.outer(r, c) / r.mean()
        s = np.divide(g, np.sqrt(vhat) + 1e-10, out=np.zeros_like(g), where=vhat > 0)
        m = b1 * m + (1 - b1) * np.clip(s, -clip, clip)
        yield m / (1 - b1**t)


@pytest.mark.parametrize("b2", [0.9, growing], ids=["constant", "growing"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_control_without_delay_is_what_it_says(blocks, b2):
    grads = make_grads(12, {"kernel": (3, 4)}, np.float32)
    updates = run(scale_first(blocks, 0.5, b2, 1.2), grads)
    wanted = numpy_scale_first(blocks, [g["kernel"] for g in grads], 0.5, b2, 1.2)
    for u, want in zip(updates, wanted, strict=True):
        np.testing.assert_allclose(u["kernel"], want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("b2", [0.9, growing], ids=["constant", "growing"])
@pytest.mark.parametrize("blocks", BLOCKS)
def test_the_control_differs_from_ours_by_the_delay_alone(blocks, b2):
    grads = make_grads(12, SHAPES, np.float32)
    ours = scale_by_adashift(1, 0.5, b2, window="ema", clip_value=3.0, **BLOCKS[blocks])
    same = run(scale_first(blocks, 0.5, b2, 3.0, delayed=True), grads)
    other = run(scale_first(blocks, 0.5, b2, 3.0), grads)
    for u, v, w in zip(run(ours, grads), same, other, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(u[name], v[name], rtol=2e-5, atol=2e-6)
            assert not np.allclose(u[name], w[name], rtol=1e-3)


def test_adam_whose_b2_grows():
    grads = make_grads(6, {"kernel": (3, 4)}, np.float32)
    m = v = 0.0
    for t, (g, u) in enumerate(zip(grads, run(growing_adam(0.9), grads), strict=True), start=1):
        g, b2 = g["kernel"].astype(np.float64), 1 - t**-0.8
        m, v = 0.9 * m + 0.1 * g, b2 * v + (1 - b2) * g**2
        want = m / (1 - 0.9**t) / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(u["kernel"], want, rtol=2e-5, atol=1e-6)


def test_statistics_are_of_pairs_at_the_best_rate():
    def made(name, losses, rate=0.1):
        cells = [plan.Cell("language_b", name, rate, seed) for seed in plan.SEEDS["B"]]
        found = [record(cell, x) for cell, x in zip(cells, losses, strict=False)]
        return [r._replace(state_bytes=4.1 if name == lion else 8.0) for r in found]

    adam, lion = "adamw b1=0.9 b2=.999", "lion b1=.9"
    records = made(adam, [2.0, 2.2, 2.4]) + made(adam, [2.1], 1.0) + made(lion, [2.2, 2.42, 2.64])
    rows = tuned(records, plan.SEEDS["B"])
    assert rows[adam].rate == 0.1
    mean, half = interval(list(rows[adam].losses.values()))
    assert mean == pytest.approx(2.2)
    assert half == pytest.approx(4.302653 * 0.2 / 3**0.5)  # a table of Student's t, 2 degrees
    assert list(log_ratios(rows[lion], rows[adam]).values()) == pytest.approx([math.log(1.1)] * 3)
    assert "| +10.00 ± 0.00 |" in of_task(rows)
    assert "| +10.00 ± 0.00 |" in over_tasks({"language_b": rows, "lstm_b": rows})
    control = tuned(records + made("adamw unclipped", [1.0] * 3), plan.SEEDS["B"])
    assert best_of(control, 8).optimizer == adam
    muon = tuned(records + made("muon", [1.0] * 3), plan.SEEDS["B"])
    assert best_of(muon, 8).optimizer == "muon"  # where its Adam has every leaf
    assert best_of(muon, 4).optimizer == lion
    lost = record(plan.Cell("language_b", lion, 0.01, plan.SEEDS["B"][0]), 0.5, diverged=True)
    assert tuned([*records, lost], plan.SEEDS["B"])[lion][1:2] == (0.1,)


def test_results_on_other_data_are_not_mixed(tmp_path):
    first = record(plan.Cell("sparse_a", "sgd", 0.1, 0))
    append(first, tmp_path)
    check_data("sparse_a", "0", tmp_path)
    with pytest.raises(SystemExit, match="other data: 0; here they are 1"):
        check_data("sparse_a", "1", tmp_path)
    x = {"a": np.arange(3), "b": np.ones(2)}
    assert digest(x) == digest(dict(x))
    assert digest(x) != digest({**x, "b": np.zeros(2)})
