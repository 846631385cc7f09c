"""From the runs of tasks to losses at the best rate, paired ratios, means and intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from benchmarks.evidence import plan
from benchmarks.evidence.plan import Frames


def tuned(frame: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    """The runs of each optimizer at the rate that is best for the first seed.

    Beside the columns of the results: `loss`, infinite where a run diverged; `edge`, whether the
    rate is at an edge of those that were tried; `runs` and `bad`, how many there are at all rates
    and how many of them diverged.
    """
    frame = frame[frame.seed.isin(seeds)]
    frame = frame.assign(loss=frame.best.where(~frame.diverged, np.inf))
    first = frame[frame.seed == seeds[0]].sort_values(["loss", "rate"])
    rates = first.groupby("optimizer").rate.agg(rate="first", low="min", high="max")
    rates["edge"] = (rates.rate == rates.low) | (rates.rate == rates.high)
    counts = frame.groupby("optimizer").agg(runs=("seed", "size"), bad=("diverged", "sum"))
    best = rates.join(counts).drop(columns=["low", "high"]).reset_index()
    return frame.merge(best, on=["optimizer", "rate"])


def compared(rows: pd.DataFrame, base: str = plan.BASE) -> pd.DataFrame:
    """Of each optimizer of a task the mean logarithm of its loss over that of the base.

    Paired by seed. With it the standard error, `half` of the 95 % interval, and the number `n` of
    pairs: NaN where there are too few. Empty if the base has no runs.
    """
    wide = np.log(rows.pivot(index="optimizer", columns="seed", values="loss"))
    ratios = wide - wide.loc[base] if base in wide.index else wide.iloc[:0]
    n = ratios.count(axis=1)
    with np.errstate(invalid="ignore"):  # of a run that diverged
        error = ratios.std(axis=1) / np.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    return pd.DataFrame({"mean": ratios.mean(axis=1), "error": error, "half": half, "n": n})


def over_tasks(tasks: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The means of what `compared` found on several tasks, each over the tasks that it has.

    The degrees of freedom are those of the task with the fewest seeds. `worst` is the task with
    the highest ratio and `highest` that ratio.
    """
    every = pd.concat(tasks, names=["task"]).query("n > 0").reset_index()
    groups = every.groupby("optimizer")
    found = groups.agg(mean=("mean", "mean"), tasks=("mean", "size"), n=("n", "min"))
    error = groups.error.agg(lambda x: np.sqrt((x**2).sum(skipna=False)) / len(x))
    found["half"] = stats.t.ppf(0.975, found.n - 1) * error
    worst = every.loc[groups["mean"].idxmax()].set_index("optimizer")
    return found.assign(worst=worst.task, highest=worst["mean"]).sort_values(["mean", "optimizer"])


def percent(mean: float, half: float = np.nan, digits: int = 2) -> str:
    """A mean ratio as a difference in percent, with its interval. One that holds 0 is marked."""
    if np.isnan(mean):
        return ""
    if not np.isfinite(mean):
        return "diverged"
    text = f"{100 * np.expm1(mean):+z.{digits}f}"
    if np.isnan(half):
        return text
    none = " (none)" if abs(mean) <= half else ""
    return f"{text} ± {100 * np.exp(mean) * half:.{digits}f}{none}"


def finished_rows(study: str, frames: Frames, of_a: Frames) -> Frames:
    """The tuned runs of those rows of a study that have nothing left to run, by task."""
    found: dict[str, list[pd.DataFrame]] = {}
    try:
        groups = plan.groups_of(study, of_a)
    except SystemExit:  # `left` says why
        return {}
    for group in groups:
        frame = frames[group.task]
        if not plan.next_cells(group, frame):
            rows = tuned(frame[frame.optimizer == group.row.name], group.seeds)
            found.setdefault(group.task, []).append(rows)
    return {task: pd.concat(rows) for task, rows in found.items()}


def left(study: str, frames: Frames, of_a: Frames) -> list[str]:
    """What a study has left to run, a line for each task that is not finished."""
    try:
        groups = plan.groups_of(study, of_a)
    except SystemExit as error:
        return [str(error)]
    lines = []
    for task in plan.CENTRES[study]:
        mine = [group for group in groups if group.task == task]
        missing = sum(bool(plan.next_cells(g, frames[task])) for g in mine)
        if missing:
            lines.append(f"{task}: {missing} of {len(mine)} rows are not finished.")
    return lines
