"""``python -m benchmarks.evidence.run A`` (then B, D): what of it has not run yet.

With --task, --optimizer, --rate and --seed instead: one run, printed and not written.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
from tqdm import tqdm

from benchmarks.evidence import plan, results
from benchmarks.evidence.plan import Cell, Frames, Group
from benchmarks.evidence.results import Record
from benchmarks.evidence.task import digest
from benchmarks.evidence.tasks import MAKERS, task
from benchmarks.evidence.train import Program

RunCell = Callable[[Cell], Record]


class Runner:
    """Runs cells. The program of a task and an optimizer is compiled once for those in a row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key: tuple[str, str] | None = None

    def __call__(self, cell: Cell) -> Record:
        """Run one cell."""
        if self.key != (cell.task, cell.optimizer):
            jax.clear_caches()
            of = task(cell.task)
            self.program = Program(of, plan.row_of(cell.optimizer), of.steps)
            self.data = digest(of.data)
            results.check_data(cell.task, self.data, self.folder)
            self.key = (cell.task, cell.optimizer)
        result, _ = self.program.run(cell.rate, cell.seed)
        return Record(*cell, plan=plan.VERSION, data=self.data, **result)


def of_a(folder: Path) -> Frames:
    """The results of tasks A."""
    return {task: results.read(task, folder) for task in plan.CENTRES["A"]}


def work(todo: list[Group], run_cell: RunCell, folder: Path) -> Iterator[Record]:
    """Run what is missing, group after group; each record is written before it is yielded."""
    for group in todo:
        while cells := plan.next_cells(group, results.read(group.task, folder)):
            for cell in cells:
                record = run_cell(cell)
                results.append(record, folder)
                yield record


def pin(number: int) -> None:
    """Keep this process on one core: on a small machine that is 15 % faster than one thread.

    To be called before JAX has started.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if hasattr(os, "sched_setaffinity"):  # Linux
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[number % len(cores)]})


def study(name: str, number: int, of: int, folder: Path) -> None:
    """Run a shard of a study under a progress bar. What A has left may depend on what it found."""
    runner = Runner(folder)
    while True:
        groups = plan.groups_of(name, of_a(folder))[number::of]
        left = [g for g in groups if plan.next_cells(g, results.read(g.task, folder))]
        if not left:
            return
        done = sum(len(plan.losses(g, results.read(g.task, folder))) for g in groups)
        with tqdm(total=max(plan.size(groups), done), initial=done, unit="run") as bar:
            for record in work(left, runner, folder):
                bar.set_description(f"{record.task}, {record.optimizer}: {record.best:.4f}")
                bar.update()


def main() -> None:
    """Run a study, or print one run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.run", description=__doc__)
    add = parser.add_argument
    add("study", nargs="?", choices=tuple(plan.SEEDS), help="which part of the plan")
    add("--shard", default="0/1", help="part i of n, i/n with i from 0 on: one for each process")
    add("--folder", type=Path, default=results.FOLDER, help="where the results are")
    add("--task", choices=tuple(MAKERS))
    add("--optimizer")
    add("--rate", type=float)
    add("--seed", type=int)
    args = parser.parse_args()
    cell = (args.task, args.optimizer, args.rate, args.seed)
    number, of = map(int, args.shard.split("/"))
    pin(number)
    if args.study:
        study(args.study, number, of, args.folder)
    elif None in cell:
        parser.error("name a study, or all of --task, --optimizer, --rate and --seed.")
    else:
        record = Runner(args.folder)(Cell(*cell))
        print(results.line(Record._fields) + results.line(record), end="")


if __name__ == "__main__":
    main()
