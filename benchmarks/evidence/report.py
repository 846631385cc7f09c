"""``python -m benchmarks.evidence.report``: tables of what has been run, and what is missing."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.evidence import picture, plan, results
from benchmarks.evidence.optimizers import NARROW, OURS, SWITCHED, adam, candidate
from benchmarks.evidence.plan import Frames
from benchmarks.evidence.statistics import compared, finished_rows, left, over_tasks, percent

# The rows of the table that README and docs share, beside what all are compared with. Of the recipe
# one b1 is there.
SHORT = [x.name for x in (OURS, NARROW, adam(0.9), adam(0.9, True), *plan.RECIPES[True])]
PAGE = f"""# The study: all tables

[What the tasks and rows are](../../evidence/plan.md), [how to repeat it](../../evidence/README.md).
A row is here once all of its runs are there. Its rate is the best for the first seed. A mean is
over those tasks that the row has, without {", ".join(plan.OUTSIDE)}; means over
different tasks cannot be compared. "One by one" has tasks that have all of its rows. "(none)": the
interval holds 0.
"""


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    filled = ([cell or "-" for cell in line] for line in lines)
    rows = [columns, ["---", *["---:"] * (len(columns) - 1)], *filled]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def of_task(rows: pd.DataFrame) -> str:
    """The table of one task, the best first."""
    groups = rows.groupby("optimizer")
    found = groups.first().join(compared(rows).drop(columns="n"))
    found = found.assign(loss=groups.loss.mean(), accuracy=groups.accuracy.mean())
    lines = [
        (
            name,
            f"{row.state_bytes:.2f}",
            f"{row.rate:g}" + " (edge)" * row.edge,
            f"{row.loss:.4f}",
            percent(row["mean"], row.half),
            "" if np.isnan(row.accuracy) else f"{100 * row.accuracy:.2f}",
            f"{row.bad}/{row.runs}",
        )
        for name, row in found.sort_values("loss").iterrows()
    ]
    over = f"% over {plan.BASE}"
    return table(("optimizer", "bytes", "rate", "loss", over, "accuracy", "diverged"), lines)


def of_choice(frames: Frames) -> str:
    """The scores of the candidates and of their rivals, and what the rule says."""
    among = plan.candidates(frames)
    constants = {c.name: c.constants for c in among}
    found = plan.scores([*map(candidate, among), *plan.RIVALS], frames)
    lowest = min((x for name, x in found.items() if name in constants), default=np.nan)
    lines = [
        (name, percent(x - lowest), str(constants.get(name, "")))
        for name, x in sorted(found.items(), key=lambda item: item[1])
    ]
    winner = plan.winner(frames)
    said = winner.name if winner else f"nothing yet: {len(lines)} rows are finished"
    return table(("row", "% over the lowest score", "constants"), lines) + f"\nThe rule: {said}\n"


def means_of(tasks: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Means over those tasks that count, with the bytes of state for each parameter."""
    means = over_tasks({task: compared(rows) for task, rows in inside(tasks).items()})
    sizes = pd.concat(tasks.values()).groupby("optimizer").state_bytes.mean()
    return means.join(sizes)


def of_means(tasks: dict[str, pd.DataFrame]) -> str:
    """The table of the means."""
    if not inside(tasks):
        return "No task has all of these rows yet.\n"
    lines = [
        (
            str(name),
            f"{row.state_bytes:.2f}",
            percent(row["mean"], row.half),
            str(row.tasks),
            f"{percent(row.highest)} ({row.worst})",
        )
        for name, row in means_of(tasks).iterrows()
    ]
    return table(("optimizer", "bytes", "mean", "tasks", "worst task"), lines)


def of_single(tasks: dict[str, pd.DataFrame]) -> str:
    """The rows of the short table on each task, then their means without each task."""
    found = {task: compared(rows) for task, rows in tasks.items()}
    parts = {
        f"on {task}{' (in no mean)' * (task in plan.OUTSIDE)}": ratios["mean"]
        for task, ratios in found.items()
    }
    counted = {task: found[task] for task in inside(tasks)}
    for out in counted if len(counted) > 1 else ():
        others = {task: ratios for task, ratios in counted.items() if task != out}
        parts[f"without {out}"] = over_tasks(others)["mean"]
    names = [name for name in SHORT if any(name in part.index for part in parts.values())]
    lines = [
        (title, *(percent(part.get(name, np.nan)) for name in names))
        for title, part in parts.items()
    ]
    return table(("tasks", *names), lines)


def inside(tasks: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Those tasks that count in means, without the rows that only look for a cause."""
    no = [row.name for row in SWITCHED]
    return {t: x[~x.optimizer.isin(no)] for t, x in tasks.items() if t not in plan.OUTSIDE}


def shortened(tasks: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Those tasks on which each row of the short table that is in any of them has been run."""
    rows = {task: rows[rows.optimizer.isin((*SHORT, plan.BASE))] for task, rows in tasks.items()}
    every = {name for found in rows.values() for name in found.optimizer}
    return {task: found for task, found in rows.items() if set(found.optimizer) == every}


def pictures() -> dict[str, Figure]:
    """Loss against bytes, and the curves of the larger model, by file; without what is not there.

    In the first are the rows that have all tasks of the short table.
    """
    _, tasks = read()
    reported, found = {**tasks["B"], **tasks["D"]}, {}
    if of := shortened(inside(reported)):
        means = means_of({task: reported[task] for task in of})
        found["loss.svg"] = picture.of_bytes(means[means.tasks == len(of)])
    if plan.LARGER in of:
        found["larger.svg"] = picture.curves(reported[plan.LARGER])
    return found


def page(frames: dict[str, Frames], tasks: dict[str, Frames]) -> str:
    """All tables, and what is missing."""
    reported, over = {**tasks["B"], **tasks["D"]}, f"% over {plan.BASE}"
    parts = [PAGE, f"## Tasks A: what they choose\n\n{of_choice(frames['A'])}"]
    if reported:
        parts.append(f"## Tasks B and D: {over}\n\n{of_means(reported)}")
        parts.append(f"## Tasks B and D, one by one: {over}\n\n{of_single(shortened(reported))}")
    for study, of in tasks.items():
        parts += [f"## {task}\n\n{of_task(rows)}" for task, rows in of.items()]
        parts += [f"{line}\n" for line in left(study, frames[study], frames["A"])]
    return "\n".join(parts)


def read(folder: Path = results.FOLDER) -> tuple[dict[str, Frames], dict[str, Frames]]:
    """All results of each study by task, and the tuned ones of the rows that are finished."""
    frames = {s: {t: results.read(t, folder) for t in plan.CENTRES[s]} for s in plan.CENTRES}
    return frames, {study: finished_rows(study, of, frames["A"]) for study, of in frames.items()}


def main() -> None:
    """Print what there is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.report")
    parser.add_argument("--folder", type=Path, default=results.FOLDER)
    parser.add_argument("--short", action="store_true", help="only the table of the README")
    args = parser.parse_args()
    frames, tasks = read(args.folder)
    reported = {**tasks["B"], **tasks["D"]}
    print(of_means(shortened(reported)) if args.short else page(frames, tasks), end="")


if __name__ == "__main__":
    main()
