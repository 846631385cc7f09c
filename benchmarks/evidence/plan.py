"""The plan: which optimizer runs on which task, at which rates, from which seeds.

It was committed before the first run. Whoever changes it raises VERSION, and says why in README.md.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.evidence.optimizers import ALONE, DELAY, MAIN, RECOMMENDED, ROWS, Row
from benchmarks.evidence.results import Record

VERSION = 2
TASKS_A = ("language_a", "sparse_a", "images_a")
# The task of A whose best rate is the middle of the grid on a task of B. None: that of all.
TASKS_B = {
    "sparse_b": "sparse_a",
    "heavy_b": None,
    "lstm_b": "language_a",
    "finetune_b": "language_a",
    "images_b": "images_a",
    "language_b": "language_a",
}
# The blocks whose delay is studied at each batch size.
TASKS_DELAY = {
    "delay_2": ("factored",),
    "delay_8": ("factored", "rows", "none"),
    "delay_32": ("factored",),
}
# Planned after B: does a clip_value of 10 beat 3, how far are both from two others, and what is
# lost without the clip of the global norm?
TASKS_C = ("sparse_c", "heavy_c", "language_c", "images_c")
ROWS_C = (
    RECOMMENDED["3"],
    RECOMMENDED["10"],
    ROWS["adamw b1=0.5 b2=.999"],
    ROWS["factored_rms b1=0.5"],
    ALONE,
    ROWS["adamw unclipped"],
)
# And on images: is b1 = 0.5, which MNIST chose, the wrong momentum for all of them?
ROWS_C_IMAGES = tuple(
    ROWS[name]
    for name in (
        "ours factored b1=0.9 b2=.999 clip=3 n=1",
        "adamw b1=0.9 b2=.999",
        "factored_rms b1=0.9",
        "schedule_free",
    )
)
TASKS = {"A": TASKS_A, "B": tuple(TASKS_B), "C": TASKS_C, "delay": tuple(TASKS_DELAY)}
SEEDS = {
    "A": (0,),
    "B": (101, 102, 103),
    "delay": (11, 12, 13),
    "C": (201, 202, 203, 204, 205),
}
GRID_A = (-2, -1, 0, 1)  # half decades about the centre of a row
GRID_B = GRID_C = GRID_DELAY = (-1, 0, 1)
EXTENSIONS = 6  # at most so many rates are added to a grid
# Controls that do not run on B: the study of the delay has the first two, A the others.
NOT_ON_B = {"undelayed none", "undelayed rows", "adamw unclipped", "paper none"}


class Group(NamedTuple):
    """An optimizer on a task: a grid of rates, 10^(point/2), and seeds."""

    study: str
    task: str
    row: Row
    points: tuple[int, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The first is that of the grid; the others run at its best rate only."""
        return SEEDS[self.study]


class Cell(NamedTuple):
    """One run."""

    task: str
    optimizer: str
    rate: float
    seed: int


def rate_of(point: int) -> float:
    """The rate of a point of a grid."""
    return float(f"{10 ** (point / 2):.3g}")


def point_of(rate: float) -> int:
    """The point of a rate."""
    return round(2 * math.log10(rate))


def loss_of(record: Record) -> float:
    """The best validation loss: infinite if the run diverged."""
    return math.inf if record.diverged else record.best


def of_group(group: Group, records: Iterable[Record]) -> dict[tuple[int, int], Record]:
    """The finished runs of a group by point and seed."""
    key = (group.task, group.row.name, VERSION)
    return {(point_of(r.rate), r.seed): r for r in records if (r.task, r.optimizer, r.plan) == key}


def next_cells(group: Group, records: Iterable[Record]) -> list[Cell]:
    """What a group runs next: its grid, then beyond an edge that is best, then the other seeds."""
    done = of_group(group, records)
    first, *others = group.seeds
    wanted = [(point, first) for point in group.points if (point, first) not in done]
    if not wanted:
        tried = {point: loss_of(r) for (point, seed), r in done.items() if seed == first}
        best = min(tried, key=lambda point: (tried[point], point))
        beyond = {min(tried): best - 1, max(tried): best + 1}
        more = best in beyond and len(tried) < len(group.points) + EXTENSIONS
        wanted = [(beyond[best], first)] if more else [(best, seed) for seed in others]
    cells = [(point, seed) for point, seed in wanted if (point, seed) not in done]
    return [Cell(group.task, group.row.name, rate_of(point), seed) for point, seed in cells]


def best_point(group: Group, records: Iterable[Record]) -> int:
    """The point of the best rate of a finished grid."""
    losses = {
        point: loss_of(r)
        for (point, seed), r in of_group(group, records).items()
        if seed == group.seeds[0]
    }
    return min(losses, key=lambda point: (losses[point], point))


def about(study: str, task: str, row: Row, middle: int, grid: Iterable[int]) -> Group:
    """A group whose grid lies about a point."""
    return Group(study, task, row, tuple(middle + step for step in grid))


def groups_a() -> list[Group]:
    """All rows on all tasks A."""
    return [about("A", task, row, row.centre, GRID_A) for task in TASKS_A for row in MAIN]


def groups_delay() -> list[Group]:
    """With and without the delay."""
    return [
        about("delay", task, row, row.centre, GRID_DELAY)
        for task, kinds in TASKS_DELAY.items()
        for blocks in kinds
        for row in DELAY[blocks]
    ]


def groups_c() -> list[Group]:
    """A clip_value of 3 and of 10, beside Adam and Adafactor's recipe; two without the global
    clip; on images also b1 = 0.9.
    """
    return [
        about("C", task, row, row.centre, GRID_C)
        for task in TASKS_C
        for row in ROWS_C + (ROWS_C_IMAGES if task == "images_c" else ())
    ]


def chosen(records: Sequence[Record]) -> dict[str, tuple[Row, dict[str, int]]]:
    """What A says: of each family the row whose losses have the lowest geometric mean over tasks A.

    With it the point of its best rate on each task.
    """
    unfinished = [group for group in groups_a() if next_cells(group, records)]
    if unfinished:
        raise SystemExit(f"{len(unfinished)} groups of A are not finished: run A first.")
    points: dict[str, dict[str, int]] = {}
    scores: dict[str, float] = {}
    for group in groups_a():
        name, point = group.row.name, best_point(group, records)
        points.setdefault(name, {})[group.task] = point
        loss = loss_of(of_group(group, records)[point, group.seeds[0]])
        scores[name] = scores.get(name, 0) + math.log(loss)
    families: dict[str, list[Row]] = {}
    for row in MAIN:
        families.setdefault(row.family, []).append(row)
    best = {name: min(rows, key=lambda row: scores[row.name]) for name, rows in families.items()}
    return {family: (row, points[row.name]) for family, row in best.items()}


def groups_b(records: Sequence[Record]) -> list[Group]:
    """The best row of each family on all tasks B, about the best rate of the related task of A."""
    groups = []
    for task, like in TASKS_B.items():
        for family, (row, points) in chosen(records).items():
            if family in NOT_ON_B:
                continue
            middle = points[like] if like else sorted(points.values())[len(points) // 2]
            groups.append(about("B", task, row, middle, GRID_B))
    return groups


def groups_of(study: str, of_a: Sequence[Record]) -> list[Group]:
    """The groups of a study. Those of B depend on the records of A."""
    if study == "B":
        return groups_b(of_a)
    return {"A": groups_a, "C": groups_c, "delay": groups_delay}[study]()


def size(groups: Iterable[Group]) -> int:
    """How many runs these are, without what is added beyond the edges."""
    return sum(len(group.points) + len(group.seeds) - 1 for group in groups)


def row_of(name: str) -> Row:
    """The row of a name."""
    if name not in ROWS:
        raise SystemExit(f"--optimizer {name!r} is not a row of the plan. Rows: {', '.join(ROWS)}.")
    return ROWS[name]
