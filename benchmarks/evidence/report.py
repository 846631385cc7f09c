"""``python -m benchmarks.evidence.report``: the tables of the study, from its CSV files."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.evidence import picture, plan, results
from benchmarks.evidence.optimizers import B2S
from benchmarks.evidence.statistics import (
    Tuned,
    best_of,
    finished,
    interval,
    log_ratios,
    percent,
    tuned,
)

Rows = dict[str, Tuned]
COLUMNS = (
    "optimizer",
    "bytes",
    "rate",
    "loss",
    "% over the best of 8 bytes",
    "% over the best of its class",
    "accuracy",
    "diverged",
)


def table(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [columns, ["-" * len(c) for c in columns], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def over(row: Tuned, base: Tuned | None) -> str:
    """How much higher the losses of a row are than those of another, paired by seed."""
    return "" if base is None else percent(list(log_ratios(row, base).values()))


def of_task(rows: Rows) -> str:
    """The table of one task, the best first."""
    lines = []
    for row in sorted(rows.values(), key=lambda row: row.mean):
        mean, half = interval(list(row.losses.values()))
        accuracy = np.mean([r.accuracy for r in row.records])
        lines.append(
            [
                row.optimizer,
                f"{row.records[0].state_bytes:.2f}",
                f"{row.rate:g}" + (" (edge)" if row.edge else ""),
                f"{mean:.4f}" + ("" if np.isnan(half) else f" ± {half:.4f}"),
                over(row, best_of(rows, 8)),
                over(row, best_of(rows, row.size)),
                "" if np.isnan(accuracy) else f"{100 * accuracy:.2f}",
                f"{row.diverged}/{row.runs}",
            ]
        )
    return table(COLUMNS, lines)


def over_tasks(tasks: dict[str, Rows]) -> str:
    """The geometric mean of the ratios over tasks, for the rows that all of them have.

    The interval is over seeds: a seed gives one geometric mean.
    """
    shared = set.intersection(*(set(rows) for rows in tasks.values()))
    lines = []
    for name in shared:
        against = []
        for size in (8, None):  # and that of its class
            pairs = [(r[name], best_of(r, size or r[name].size)) for r in tasks.values()]
            logs = [log_ratios(row, base) for row, base in pairs if base is not None]
            seeds = set.intersection(*(set(log) for log in logs)) if logs else set()
            against.append([float(np.mean([log[s] for log in logs])) for s in sorted(seeds)])
        rows = [rows[name] for rows in tasks.values()]
        bytes_ = np.mean([row.records[0].state_bytes for row in rows])
        diverged = f"{sum(row.diverged for row in rows)}/{sum(row.runs for row in rows)}"
        shown = [percent(logs) if logs else "" for logs in against]
        order = float(np.mean(against[0])) if against[0] else np.inf
        lines.append((order, [name, f"{bytes_:.2f}", *shown, diverged]))
    columns = [c for c in COLUMNS if c not in ("rate", "loss", "accuracy")]
    return table(columns, [line for _, line in sorted(lines)])


def of_delay(folder: Path = results.FOLDER) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The losses with the delay over those without, at the best rate of either: header and rows.

    A cell is empty as long as one of the two has runs left.
    """
    records = {task: results.read(task, folder) for task in plan.TASKS_DELAY}
    groups = plan.groups_delay()
    left = {(g.task, g.row.name) for g in groups if plan.next_cells(g, records[g.task])}
    lines = []
    for task, kinds in plan.TASKS_DELAY.items():
        rows = tuned(records[task], plan.SEEDS["delay"])
        found = {name: row for name, row in rows.items() if (task, name) not in left}
        for blocks in kinds:
            cells = []
            for b2 in B2S:
                ours = found.get(f"ours {blocks} b1=0.5 b2={b2} clip=3 n=1")
                base = found.get(f"undelayed {blocks} b1=0.5 b2={b2} clip=3")
                cells.append(over(ours, base) if ours and base else "")
            lines.append([task, blocks, *cells])
    return ["task", "blocks", *(f"b2={b2}" for b2 in B2S)], lines


def finished_tasks(study: str, folder: Path = results.FOLDER) -> dict[str, Rows]:
    """The rows of each finished task of a study. Of B there is none before all of A is."""
    read = partial(results.read, folder=folder)
    of_a = {name: read(name) for name in plan.TASKS_A}
    if study == "B" and set(finished(plan.groups_a(), of_a)) < set(of_a):
        return {}
    groups = plan.groups_of(study, [record for task in of_a.values() for record in task])
    records = {name: read(name) for name in plan.TASKS[study]}
    return {name: tuned(records[name], plan.SEEDS[study]) for name in finished(groups, records)}


def draw(folder: Path) -> Figure:
    """The picture of the tasks B that are finished."""
    tasks = finished_tasks("B", folder)
    if not tasks:
        raise SystemExit(f"No task of B is finished in {folder}: run A and B first.")
    names = ", ".join(picture.TASKS[task] for task in tasks)
    title = f"Each optimizer at its best learning rate. Mean over tasks:\n{names}"
    return picture.draw(picture.points(tasks), title)


def main() -> None:
    """Print what there is, or draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.report")
    parser.add_argument("--folder", type=Path, default=results.FOLDER)
    parser.add_argument("--picture", type=Path, help="draw the finished tasks B into this file")
    args = parser.parse_args()
    folder = args.folder
    if args.picture:
        draw(folder).savefig(args.picture, dpi=110)
        return
    for study, names in plan.TASKS.items():
        tasks = {name: tuned(results.read(name, folder), plan.SEEDS[study]) for name in names}
        tasks = {name: rows for name, rows in tasks.items() if rows}
        for name, rows in tasks.items():
            print(f"## {name}\n\n{of_task(rows)}")
        if tasks and study == "delay":
            print(f"## % of loss that the delay adds\n\n{table(*of_delay(folder))}")
        elif tasks:
            print(f"## Tasks {study}: geometric means of the ratios\n\n{over_tasks(tasks)}")


if __name__ == "__main__":
    main()
