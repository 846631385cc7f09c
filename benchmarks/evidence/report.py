"""``python -m benchmarks.evidence.report``: tables of what has been run, and what is missing."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.evidence import picture, plan, results
from benchmarks.evidence.optimizers import candidate
from benchmarks.evidence.plan import Frames
from benchmarks.evidence.statistics import compared, left, over_tasks, percent, tuned

# The rows of the table that README and docs share. Of the recipe one b1 is there.
SHORT = (
    "ours",
    "ours bfloat16",
    "adam b1=0.9",
    "nadam b1=0.9",
    *(r.name for r in plan.RECIPES[True]),
)


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [columns, ["-" * len(c) for c in columns], *lines]
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


def of_means(tasks: dict[str, pd.DataFrame], names: Iterable[str] | None = None) -> str:
    """Means over tasks, then each task, then the means without each single task."""
    inside = {task: rows for task, rows in tasks.items() if task not in plan.OUTSIDE}
    ratios = {task: compared(rows) for task, rows in tasks.items()}
    means = over_tasks({task: ratios[task] for task in inside})
    without = {
        f"without {out}": over_tasks({task: ratios[task] for task in inside if task != out})
        for out in inside
        if len(inside) > 1
    }
    bytes_ = pd.concat(tasks.values()).groupby("optimizer").state_bytes.mean()
    marks = {task: f"{task} (not in the means)" if task in plan.OUTSIDE else task for task in tasks}
    columns = ["optimizer", "bytes", "mean", "tasks", "worst", *marks.values(), *without]
    lines = []
    for name, row in means.iterrows():
        cells = [f.loc[name] if name in f.index else None for f in ratios.values()]
        others = [f["mean"].get(name, np.nan) for f in without.values()]
        lines.append(
            (
                str(name),
                f"{bytes_[name]:.2f}",
                percent(row["mean"], row.half),
                str(row.tasks),
                f"{percent(row.highest)} ({row.worst})",
                *("" if x is None else percent(x["mean"], x.half) for x in cells),
                *map(percent, others),
            )
        )
    wanted = set(means.index if names is None else names)
    end = None if names is None else 5  # the columns of the short table
    return table(columns[:end], [line[:end] for line in lines if line[0] in wanted])


def main() -> None:
    """Print what there is, or draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.report")
    parser.add_argument("--folder", type=Path, default=results.FOLDER)
    parser.add_argument("--short", action="store_true", help="only the table of the README")
    parser.add_argument("--picture", type=Path, help="draw loss against bytes into this file")
    parser.add_argument("--curves", type=Path, help="draw the curves of the larger model")
    args = parser.parse_args()
    frames = {s: {t: results.read(t, args.folder) for t in plan.CENTRES[s]} for s in plan.CENTRES}
    tasks = {
        study: {t: tuned(f, plan.seeds_of(study, t)) for t, f in of.items() if len(f)}
        for study, of in frames.items()
    }
    reported = {**tasks["B"], **tasks["D"]}
    if args.short:
        print(of_means(reported, SHORT))
    elif args.picture or args.curves:
        if not reported:
            raise SystemExit(f"No run of B or D is in {args.folder}: run A, then B and D first.")
        if args.picture:
            inside = {t: rows for t, rows in reported.items() if t not in plan.OUTSIDE}
            means = over_tasks({t: compared(rows) for t, rows in inside.items()})
            sizes = pd.concat(reported.values()).groupby("optimizer").state_bytes.mean()
            picture.of_bytes(means, sizes).savefig(args.picture, dpi=110)
        if args.curves:
            picture.curves(reported["larger_d"]).savefig(args.curves, dpi=110)
    else:
        for study, of in tasks.items():
            for task, rows in of.items():
                print(f"## {task}\n\n{of_task(rows)}")
            for line in left(study, frames[study], frames["A"]):
                print(f"Study {study} has something left. {line}\n")
        print(f"## Tasks A: what they choose\n\n{of_choice(frames['A'])}")
        if reported:
            print(f"## Tasks B and D: % over {plan.BASE}\n\n{of_means(reported)}")


if __name__ == "__main__":
    main()
