"""``python -m benchmarks.redraw``: all tables and plots again, from the kept CSV files.

It measures nothing and compiles nothing.
"""

import sys
from pathlib import Path

from benchmarks import overview, plots, report
from benchmarks.cases import SWEEP
from benchmarks.compiled import page

NAMES = {"results.csv": "table.md", "sharded.csv": "sharded.md"}


def main() -> int:
    """Write the tables and plots beside each CSV file."""
    for csv, table in NAMES.items():
        for path in sorted(overview.RESULTS.glob(f"*/{csv}")):
            redraw(path, path.with_name(table))
    page.save(overview.RESULTS / "compiled")
    overview.save()
    return 0


def redraw(csv: Path, table: Path) -> None:
    """The tables under the heading that the page has; the plots, if there are rows for them."""
    title, heading = table.read_text(encoding="utf-8").split("\n\n## ")[0].split("\n\n", 1)
    title = title.removeprefix("# ")
    rows = report.load_csv(csv)
    shown = [row for row in rows if row.group != SWEEP]
    report.save_tables(shown, title, heading, table)
    if len(shown) < len(rows):
        plots.save_all(rows, title.split(": ", 1)[1], csv.parent)


if __name__ == "__main__":
    sys.exit(main())
