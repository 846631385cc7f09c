"""The harness of the study: its plan, its rule, its resuming runner, its statistics."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("pandas")
pytest.importorskip("tokenizers")

import pandas as pd

from benchmarks.evidence import finetune, plan, results
from benchmarks.evidence.optimizers import LIBRARY, Row, candidate, recipe
from benchmarks.evidence.report import of_choice, of_means, of_single, of_task, shortened
from benchmarks.evidence.results import Record
from benchmarks.evidence.run import work
from benchmarks.evidence.statistics import compared, finished_rows, left, over_tasks, percent, tuned
from benchmarks.evidence.task import Task, digest, generator
from benchmarks.evidence.tasks import MAKERS
from benchmarks.evidence.train import Program

pytestmark = pytest.mark.all_only
STEPS, TASKS_A = 20, tuple(plan.CENTRES["A"])


def record(cell, best=1.0, diverged=False):
    numbers = (best, best, np.nan, diverged, 0.5, 4.0)
    return Record(*cell, 10, *numbers, plan.VERSION, "0", "[1.0, null]")


def valley(cell):
    """A run whose loss is least at a rate of 0.01, and which diverges above 0.1."""
    return record(cell, 1 + abs(plan.point_of(cell.rate) + 8), diverged=cell.rate > 0.1)


def frame(records):
    return pd.DataFrame(records, columns=Record._fields)


def finished(score=lambda row: 1.0):
    """Results of tasks A, in which every group has the losses of `valley` times its score."""
    frames = {task: frame([]) for task in TASKS_A}
    for _ in range(2):  # with kappa 1, then what that has chosen
        for group in plan.groups_a(frames):
            mine = [Record(*x) for x in frames[group.task].itertuples(index=False)]
            while cells := plan.next_cells(group, frame(mine)):
                found = map(valley, cells)
                mine += [r._replace(best=r.best * score(r.optimizer)) for r in found]
            frames[group.task] = frame(mine)
    return frames


@pytest.fixture(scope="module")
def chosen():
    """Results in which A has chosen what the library has, and a b1 for Adafactor's recipe."""
    better = {LIBRARY.name: 0.9, recipe(0.5, True).name: 0.95, recipe(0.9).name: 0.95}
    return finished(lambda name: better.get(name, 1.0))


def test_every_cell_is_planned_once_and_every_task_can_be_made(chosen):
    assert {task for centres in plan.CENTRES.values() for task in centres} == MAKERS.keys()
    for name in plan.CENTRES:
        groups = plan.groups_of(name, chosen)
        cells = [(g.task, g.row.name, point) for g in groups for point in g.points]
        assert len(set(cells)) == len(cells)
        assert all(plan.row_of(g.row.name).name == g.row.name for g in groups)
        assert {g.task for g in groups if g.row.name == plan.BASE} == set(plan.CENTRES[name])
        assert {len(g.seeds) for g in groups} <= ({2, 6} if name == "A" else {3, 5})
    names = {g.row.name for g in groups if g.task == "language_d"}
    assert {"recipe nesterov b1=0.5 bfloat16", "recipe plain b1=0.9 bfloat16"} <= names
    assert not {"recipe nesterov b1=0.9", "recipe plain b1=0.5"} & names
    assert not set(plan.SEEDS["A"]) & set(plan.SEEDS["B"] + plan.SEEDS["D"])
    assert [len(g.points) for g in groups if g.task == "larger_d"] == [2] * 8


def test_grids_grow_until_both_neighbours_of_the_best_rate_are_there(chosen):
    for group in plan.groups_a(chosen):
        of_first = [p for p, seed in plan.losses(group, chosen[group.task]) if seed == 0]
        assert sorted(of_first) == list(range(-11, -6))
        assert plan.best_point(group, chosen[group.task]) == -8


def test_the_rule_takes_the_lowest_and_of_equals_the_one_with_fewer_constants(chosen):
    assert plan.winner(chosen) == LIBRARY
    for other, wins in ((0.9026, False), (0.9028, True)):  # 0.3 % of 0.9 is 0.0027
        frames = finished(lambda name, x=other: 0.9 if name == LIBRARY.name else x)
        assert (plan.winner(frames) == LIBRARY) == wins
        assert wins or plan.winner(frames).constants == 0
    kappas = {c for c in plan.candidates(chosen) if c.kappa != 1}
    assert (len(kappas), {c._replace(kappa=1.0) for c in kappas if not c.growing}) == (4, {LIBRARY})
    assert "The rule: candidate nesterov b1=0.8 kappa=1 constant" in of_choice(chosen)


def test_b_waits_for_a_and_for_the_library():
    nothing = {task: frame([]) for task in TASKS_A}
    with pytest.raises(SystemExit, match="A is not finished"):
        plan.groups_of("B", nothing)
    assert (plan.winner(nothing), finished_rows("B", {}, nothing)) == (None, {})
    assert left("B", {}, nothing) == ["A is not finished: run A first."]
    assert left("A", nothing, nothing)[0].startswith("language_a: 22 of 22 rows")
    with pytest.raises(SystemExit, match="change the library"):
        plan.groups_of("B", finished())


def test_a_row_is_reported_once_all_its_runs_are_there(chosen):
    last = chosen["sparse_a"].index[chosen["sparse_a"].optimizer == plan.BASE][-1]
    frames = {**chosen, "sparse_a": chosen["sparse_a"].drop(last)}
    shown = {task: set(rows.optimizer) for task, rows in finished_rows("A", frames, chosen).items()}
    assert shown["language_a"] == shown["sparse_a"] | {plan.BASE} != shown["sparse_a"]


def test_a_killed_runner_goes_on_where_it_was(tmp_path):
    groups = [plan.about("A", "sparse_a", candidate(c)) for c in plan.FIRST[:3]]
    path = tmp_path / "sparse_a.csv"
    whole = [record[:4] for record in work(groups, valley, tmp_path)]
    lines = path.read_bytes()
    assert len(set(whole)) == len(whole) == lines.count(b"\n") - 1
    path.unlink()
    list(itertools.islice(work(groups, valley, tmp_path), 3))
    path.write_bytes(path.read_bytes()[:-7])  # killed within its third line
    assert [record[:4] for record in work(groups, valley, tmp_path)] == whole[2:]
    assert path.read_bytes() == lines


@pytest.mark.usefixtures("standard_promotion")
def test_a_run_of_sgd_with_decay_is_that_of_numpy():
    data = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    task = Task(
        "line",
        init=lambda key: {"w": jax.random.normal(key, (3, 2))},
        loss=lambda params, data, rows: jnp.mean((data[rows] @ params["w"] - 1) ** 2),
        batches=lambda rng, steps: rng.integers(0, 64, (steps, 8)),
        data=data,
        evaluate=lambda params, data: jnp.mean((data @ params["w"] - 1) ** 2),
        steps=STEPS,
        decay=0.1,
    )
    program, rng = Program(task, Row("sgd", optax.identity), STEPS), generator("line", 3)
    result, params = program.run(0.1, 3)
    w = np.asarray(task.init(jax.random.key(int(rng.integers(2**31))))["w"], np.float64)
    for t, rows in enumerate(task.batches(rng, STEPS)):
        x = data[rows].astype(np.float64)
        g = 2 * x.T @ (x @ w - 1) / (8 * 2)
        g *= min(1, 1 / np.sqrt((g**2).sum()))
        rate = 0.1 * ((t + 1) / 2 if t < 2 else 0.5 * (1 + np.cos(np.pi * (t - 2) / 18)))
        w -= rate * (g + 0.1 * w)
    np.testing.assert_allclose(params["w"], w, rtol=2e-5)
    assert (result["diverged"], program.run(1e30, 3)[0]["diverged"]) == (False, True)


def test_runs_from_two_checkpoints_have_two_digests(monkeypatch):
    monkeypatch.setattr(finetune, "checkpoint", iter(([0.0], [1.0])).__next__)
    assert len({digest(MAKERS["finetune_b"]("finetune_b").data) for _ in range(2)}) == 2


def test_statistics_are_of_pairs_at_the_best_rate():
    def made(name, losses, rate=0.1, **kwargs):
        seeded = zip(plan.SEEDS["B"], losses, strict=False)
        return [record(plan.Cell("language_b", name, rate, s), x, **kwargs) for s, x in seeded]

    base, other, cause = plan.BASE, "ours bfloat16", "ours scaled last"
    records = made(base, [2.0, 2.2, 2.4]) + made(base, [2.1], 1.0) + made(base, [9.0], 0.01)
    records += made(other, [2.2, 2.42, 2.7]) + made(other, [0.5], 0.2, diverged=True)
    rows = tuned(frame(records + made(cause, [1.0])), plan.SEEDS["B"])
    kept = {(row.optimizer, row.rate, row.edge) for row in rows.itertuples()}
    assert kept == {(base, 0.1, False), (other, 0.1, True), (cause, 0.1, True)}
    found, logs = compared(rows).loc[other], np.log([1.1, 1.1, 2.7 / 2.4])
    half = 4.302653 * logs.std(ddof=1) / 3**0.5  # a table of Student's t
    assert (found["mean"], found.half) == pytest.approx((logs.mean(), half))
    both = over_tasks({"language_b": compared(rows), "sparse_b": compared(rows)}).loc[other]
    assert (both["mean"], both.half) == pytest.approx((logs.mean(), half / 2**0.5))
    assert re.search(rf"\| {other} \| 4.00 \| 0.1 \(edge\) \| .* \| 1/4 \|", of_task(rows))
    shown = of_means({"language_b": rows, "lstm_b": rows.assign(loss=1.0)})
    assert f"| {other} | 4.00 | {percent(found['mean'], found.half)} | 1 |" in shown
    assert cause not in shown
    single = of_single({"language_b": rows, "lstm_b": rows, "sparse_b": rows})
    for title in ("on language_b", "on lstm_b (in no mean)", "without sparse_b"):
        assert f"| {title} | {percent(found['mean'])} |" in single
    assert list(shortened({"x": rows, "y": rows[rows.optimizer == base]})) == ["x"]
    assert (percent(0.0, 0.01), percent(np.inf)) == ("+0.00 ± 1.00 (none)", "diverged")


def test_the_kept_results_are_those_of_the_plan():
    for name, task in ((name, task) for name, of in plan.CENTRES.items() for task in of):
        found = results.read(task)
        assert len(set(found.data)) <= 1
        assert set(found.seed) <= set(plan.seeds_of(name, task))
        assert all(map(plan.row_of, set(found.optimizer)))
