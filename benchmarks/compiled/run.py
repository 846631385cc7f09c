"""``python -m benchmarks.compiled.run``: compiles for chips that need not be at hand.

Writes a CSV file after each program, and the tables in the end.
"""

import argparse
import sys
import time
from pathlib import Path

from benchmarks.compiled import chips

RESULTS = Path(__file__).parents[1] / "results" / "compiled"


def main() -> int:
    """Compile for the chips that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled.run", description=__doc__)
    parser.add_argument("chips", choices=tuple(chips.PLUGINS), help="whose compiler to use")
    parser.add_argument("--only", default="", metavar="TEXT", help="only files of this name")
    parser.add_argument(
        "--missing", action="store_true", help="keep the rows that are there, and add the others"
    )
    args = parser.parse_args()
    if lacking := chips.missing(args.chips):
        parser.error(f"{lacking}; or run make bench-compiled, which does it")
    chips.prepare(args.chips)

    from benchmarks import overview
    from benchmarks.compiled import cases, page, rows

    RESULTS.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for name, make in cases.files()[args.chips].items():
        if args.only not in name:
            continue
        path = RESULTS / f"{name}.csv"
        done = {row.key: row for row in rows.load(path)} if args.missing else {}
        every = make()
        for case in every:
            if case.key in done:
                continue
            done[case.key] = rows.row_of(case.key, case.compile())
            rows.save([done[case.key] for case in every if case.key in done], path)
            label = ", ".join(filter(None, case.key[1:]))
            print(f"{time.perf_counter() - start:.0f} s: {name}: {label}", flush=True)
    page.save(RESULTS)
    overview.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
