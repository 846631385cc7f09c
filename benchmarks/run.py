"""``make bench``, or ``python -m benchmarks.run``: see ``--help``."""

import argparse
import sys
import time
from pathlib import Path

import jax

from benchmarks import cases, overview, peers, plots, report, timing, transformer
from benchmarks.measure import measure


def main() -> int:
    """Measure all cases; write the results after each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a glance: few rounds, no lines for the plots")
    add("--only", default="", metavar="TEXT", help="only cases with this in their name or group")
    add(
        "--device-timing",
        choices=("auto", "on", "off"),
        default="auto",
        help="time many enqueued steps instead of single calls (auto: on a GPU or TPU)",
    )
    add(
        "--sharded",
        action="store_true",
        help="only the cases on a mesh of all devices (on a CPU: of JAX_NUM_CPU_DEVICES=8)",
    )
    add("--output", type=Path, help="folder for a folder per machine (default: benchmarks/results)")
    args = parser.parse_args()

    on = {"auto": jax.default_backend() != "cpu", "on": True, "off": False}[args.device_timing]
    rounds, seconds = (5, 0) if args.quick else (20, 2)
    settings = timing.Settings(rounds, seconds, (20, 120) if on else (1,))
    every = cases.sharded() if args.sharded else every_case(args.quick)
    todo = [case for case in every if args.only in f"{case.group}: {case.name}"]
    part = args.quick or args.only
    folder = (args.output or Path("runs/benchmarks" if part else overview.RESULTS)) / report.slug()
    folder.mkdir(parents=True, exist_ok=True)

    csv, table = ("sharded.csv", "sharded.md") if args.sharded else ("results.csv", "table.md")
    title = f"{title_of(args.sharded)}: {report.machine()}"
    heading = describe(settings)
    print(heading)
    rows: list[report.Row] = []
    start = time.perf_counter()
    for number, case in enumerate(todo, start=1):
        row = measure(case, settings)
        rows.append(row)
        report.save_csv(rows, folder / csv)
        shown = [row for row in rows if row.group != cases.SWEEP]
        report.save_tables(shown, title, heading, folder / table)
        elapsed = time.perf_counter() - start
        print(f"{number}/{len(todo)}, {elapsed:.0f} s: {row.name}: {row.ratio:.3f}")
    if not args.only and not args.sharded:
        plots.save_all(rows, report.machine(), folder)
    if folder.parent == overview.RESULTS:
        overview.save()
    print(f"wrote {folder} in {time.perf_counter() - start:.0f} s")
    return 0


def title_of(sharded: bool) -> str:
    """What the tables are of."""
    kind = jax.default_backend().upper()
    return f"Times on a mesh of {kind} devices" if sharded else f"Times on a {kind}"


def every_case(quick: bool) -> list[cases.Case]:
    """All rows, in the order of the tables; the lines of the plots last."""
    return [
        *cases.steps(),
        *cases.programs(),
        *cases.wrappers(),
        *transformer.many_leaves(),
        *peers.cases(),
        *transformer.end_to_end(),
        *([] if quick else cases.sweeps()),
    ]


def describe(settings: timing.Settings) -> str:
    """The machine, the versions, how it was timed."""
    runs = [timing.copy(), timing.copy(donate=False)]
    fresh = timing.ratio(timing.interleave(runs, settings), 1, 0)
    how = (
        "The times are those of the device: the difference between 120 and 20 enqueued steps."
        if len(settings.lengths) == 2
        else "The times are those of single calls."
    )
    return (
        f"{report.versions()}. {how} A ratio is the median over rounds in which both programs run "
        "once, and the quartiles enclose the middle half of the rounds. Scaling an array into "
        f"newly allocated memory took {fresh.median:.1f} times as long as scaling it in place. "
        "[What do the columns mean?](../../README.md#what-do-the-columns-of-the-cpu-tables-mean)"
    )


if __name__ == "__main__":
    sys.exit(main())
