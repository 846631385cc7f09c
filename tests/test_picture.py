"""The picture of the study and the table of the delay: which tasks and which rows they show."""

import itertools
import math

import pytest

from benchmarks.evidence import picture, plan
from benchmarks.evidence.optimizers import B2S, MAIN, ROWS
from benchmarks.evidence.report import draw, finished_tasks, of_delay
from benchmarks.evidence.results import Record, line
from benchmarks.evidence.statistics import finished, tuned

TASK = "language_a"


def record(name, point, best, size=8.0, diverged=False, task=TASK, seed=plan.SEEDS["A"][0]):
    cell = (task, name, plan.rate_of(point), seed)
    numbers = (best, best, math.nan, diverged, 1.0, size)
    return Record(*cell, 100, *numbers, plan=plan.VERSION, data="0", curve="[]")


def grid(name, best, task=TASK):
    """A finished grid, whose best rate is not at its edge."""
    points = [ROWS[name].centre + step for step in plan.GRID_A]
    return [record(name, p, best + (p != ROWS[name].centre), task=task) for p in points]


def of_group(group, best):
    """All runs of a group, whose best rate is the middle one."""
    _, middle, _ = group.points
    cells = [(point, group.seeds[0]) for point in group.points]
    cells += [(middle, seed) for seed in group.seeds[1:]]
    name, task = group.row.name, group.task
    return [
        record(name, point, best + abs(point - middle), task=task, seed=seed)
        for point, seed in cells
    ]


def save(folder, records):
    lines = [line(Record._fields), *map(line, records)]
    (folder / f"{records[0].task}.csv").write_text("".join(lines))


def test_a_task_is_finished_when_nothing_of_it_is_left():
    everything = [r for row in MAIN for r in grid(row.name, 1.0)]
    records = {name: [] for name in plan.TASKS_A} | {TASK: everything}
    assert finished(plan.groups_a(), records) == [TASK]
    records[TASK] = everything[1:]
    assert finished(plan.groups_a(), records) == []


def test_b_is_shown_once_a_is_finished_and_only_its_finished_tasks(tmp_path):
    everything = {
        task: [r for row in MAIN for r in grid(row.name, 1.0, task)] for task in plan.TASKS_A
    }
    for task in plan.TASKS_A:
        assert finished_tasks("B", tmp_path) == {}
        save(tmp_path, everything[task])
    assert list(finished_tasks("A", tmp_path)) == list(plan.TASKS_A)
    with pytest.raises(SystemExit, match="No task of B is finished"):
        draw(tmp_path)

    groups = plan.groups_b([r for rows in everything.values() for r in rows])
    of_b = [r for group in groups if group.task == "heavy_b" for r in of_group(group, 2.0)]
    save(tmp_path, of_b)
    assert list(finished_tasks("B", tmp_path)) == ["heavy_b"]
    assert "counts" in draw(tmp_path).axes[0].get_title()
    save(tmp_path, of_b[1:])
    assert finished_tasks("B", tmp_path) == {}


def test_the_delay_is_shown_where_both_sides_are_finished(tmp_path):
    groups = [g for g in plan.groups_delay() if g.task == "delay_2"]
    losses = {"ours": 2.02, "undelayed": 2.0}
    records = [r for g in groups for r in of_group(g, losses[g.row.name.split()[0]])]
    save(tmp_path, records)
    header, lines = of_delay(tmp_path)
    assert len(header) == len(lines[0]) == 2 + len(B2S)
    assert lines[0] == ["delay_2", "factored", *["+1.00 ± 0.00"] * len(B2S)]
    assert {cell for _, _, *cells in lines[1:] for cell in cells} == {""}
    save(tmp_path, records[:-1])
    assert [cell == "" for cell in of_delay(tmp_path)[1][0]].count(True) == 1


def test_a_family_is_its_best_row_over_the_best_of_8_bytes():
    losses = {"adamw b1=0.9 b2=.999": 2.2, "adamw b1=0.5 b2=.95": 2.0, "lion b1=.9": 2.5}
    rows = tuned([r for name, x in losses.items() for r in grid(name, x)], plan.SEEDS["A"])
    adam, lion = picture.points({TASK: rows})
    assert (adam.family, adam.row) == ("adamw", "adamw b1=0.5 b2=.95")
    assert adam.percent == pytest.approx(0)
    assert lion.percent == pytest.approx(25)
    assert math.isnan(lion.half)


def test_names_that_would_touch_are_moved_apart_and_what_is_off_the_scale_says_so():
    points = [
        picture.Point("adamw", "", 8.0, 0.0, math.nan),
        picture.Point("adopt", "", 8.0, 0.1, math.nan),
        picture.Point("nadam", "", 8.0, 50.0, math.nan),
        picture.Point("schedule_free", "", 8.0, math.inf, math.nan),
    ]
    (axes,) = picture.draw(points, "title").axes
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 0.99 * picture.GAP
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["Adam", "ADOPT", "NAdam +50 %", "schedule-free Adam (diverged)"]


def test_every_family_of_b_has_a_name():
    shown = {row.family for row in MAIN} - plan.NOT_ON_B
    assert shown == picture.NAMES.keys()
