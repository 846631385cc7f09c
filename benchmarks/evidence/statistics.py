"""Means, intervals and paired ratios of the records of a task."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmarks.evidence import plan
from benchmarks.evidence.optimizers import ROWS
from benchmarks.evidence.results import Record


class Tuned(NamedTuple):
    """A row on a task, at the best rate of its grid.

    Attributes:
      losses: the best validation loss by seed, infinite where the run diverged.
      records: those at that rate.
      runs: how many there are at all rates, and how many of them diverged.
      edge: whether the best rate is at the edge of its grid.
    """

    optimizer: str
    rate: float
    losses: dict[int, float]
    records: list[Record]
    runs: int
    diverged: int
    edge: bool

    @property
    def size(self) -> int:
        """The class of its bytes of state per parameter: 8, 4, 0 for up to 2, 24 for more than 8.

        That of Muon is 8 where no leaf is a matrix for it, since its Adam then has all of them.
        """
        bytes_ = self.records[0].state_bytes
        return 0 if bytes_ < 2.5 else 4 if bytes_ < 6.5 else 8 if bytes_ < 9 else 24

    @property
    def mean(self) -> float:
        """The mean loss over seeds."""
        return float(np.mean(list(self.losses.values())))


def tuned(records: Iterable[Record], seeds: Sequence[int]) -> dict[str, Tuned]:
    """Each row of a task at the rate that is best for the first seed."""
    by_row: dict[str, list[Record]] = {}
    for record in records:
        if record.plan == plan.VERSION and record.seed in seeds:
            by_row.setdefault(record.optimizer, []).append(record)
    found = {}
    for name, rows in by_row.items():
        tried = {r.rate: plan.loss_of(r) for r in rows if r.seed == seeds[0]}
        if not tried:
            continue
        rate = min(tried, key=lambda rate: (tried[rate], rate))
        at = [r for r in rows if r.rate == rate]
        losses = {r.seed: plan.loss_of(r) for r in at}
        counts = len(rows), sum(r.diverged for r in rows)
        found[name] = Tuned(name, rate, losses, at, *counts, rate in (min(tried), max(tried)))
    return found


def finished(groups: Iterable[plan.Group], records: dict[str, list[Record]]) -> list[str]:
    """The tasks of `groups` of which nothing is left to run."""
    groups = list(groups)
    left = {group.task for group in groups if plan.next_cells(group, records[group.task])}
    return [task for task in dict.fromkeys(group.task for group in groups) if task not in left]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean and half of the 95 % interval by Student's t: NaN for one value."""
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    return float(np.mean(values)), float(half)


def log_ratios(one: Tuned, other: Tuned) -> dict[int, float]:
    """The logarithms of the ratios of losses, for the seeds that both have."""
    seeds = one.losses.keys() & other.losses.keys()
    with np.errstate(invalid="ignore"):
        return {s: float(np.log(one.losses[s]) - np.log(other.losses[s])) for s in sorted(seeds)}


def best_of(rows: dict[str, Tuned], size: int) -> Tuned | None:
    """The best of what people would take instead, among those of a class of bytes."""
    theirs = [row for row in rows.values() if row.size == size and ROWS[row.optimizer].competes]
    return min(theirs, key=lambda row: row.mean, default=None)


def percent(logs: Sequence[float], digits: int = 2) -> str:
    """A mean ratio and its interval, as a difference in percent with so many decimals."""
    mean, half = interval(logs)
    if not np.isfinite(mean):
        return "diverged"
    text = f"{100 * np.expm1(mean):+z.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {100 * np.exp(mean) * half:.{digits}f}"
