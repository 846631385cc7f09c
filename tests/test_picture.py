"""The picture of the study: which tasks and which rows it shows."""

import itertools
import math

import pytest

from benchmarks.evidence import picture, plan
from benchmarks.evidence.optimizers import MAIN, ROWS
from benchmarks.evidence.results import Record
from benchmarks.evidence.statistics import finished, tuned

TASK = "language_a"


def record(name, point, best, size=8.0, diverged=False):
    cell = (TASK, name, plan.rate_of(point), plan.SEEDS["A"][0])
    numbers = (best, best, math.nan, diverged, 1.0, size)
    return Record(*cell, 100, *numbers, plan=plan.VERSION, data="0", curve="[]")


def grid(name, best):
    """A finished grid, whose best rate is not at its edge."""
    return [record(name, ROWS[name].centre + s, best + (s != 0)) for s in plan.GRID_A]


def test_a_task_is_finished_when_nothing_of_it_is_left():
    everything = [r for row in MAIN for r in grid(row.name, 1.0)]
    records = {name: [] for name in plan.TASKS_A} | {TASK: everything}
    assert finished(plan.groups_a(), records) == [TASK]
    records[TASK] = everything[1:]
    assert finished(plan.groups_a(), records) == []


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
