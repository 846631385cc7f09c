"""What was measured, on which machine: rows, a CSV file, tables."""

import csv
import io
import math
import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.labels import label


class Row(NamedTuple):
    """One line of results.csv. NaN: there is none.

    Attributes:
      group: the table that it belongs to.
      name: what was measured.
      against: what it was compared with.
      variant: the line in the plots; empty if in none.
      n: the delay, where there is a line.
      parameters: how many.
      rounds: how often base and case were timed.
      ratio: median over rounds of the time of the case over the time of the base; for training the
        inverse, a ratio of speeds.
      low: lower quartile of the ratio.
      high: upper quartile of the ratio.
      reach: what the ratio should not exceed.
      stretch: better still.
      state: bytes of state per parameter.
      state_limit: what they should not exceed.
      temporary: bytes per parameter that the compiled program allocates beside its arguments.
      moved: bytes per parameter that a step must move.
      bandwidth: `moved` per second, as a fraction of what a copy in place moves on this machine.
      verdict: "stretch met", "met" or "NOT MET"; empty if nothing was to be reached.
    """

    group: str
    name: str
    against: str
    variant: str
    n: int
    parameters: int
    rounds: int
    ratio: float
    low: float
    high: float
    reach: float
    stretch: float
    state: float
    state_limit: float
    temporary: float
    moved: float
    bandwidth: float
    verdict: str


def verdict(ratio: float, reach: float, stretch: float, state: float, state_limit: float) -> str:
    """How the row stands to its limits; of no limit (NaN) nothing is said."""
    if ratio > reach or state > state_limit:
        return "NOT MET"
    if ratio <= stretch:
        return "stretch met"
    return "met" if ratio <= reach or state <= state_limit else ""


def machine() -> str:
    """The model of what computes: the GPU's, or the processor's and how many cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        model = found[1] if found else model
    return f"{model}, {os.cpu_count()} cores"


def slug() -> str:
    """The machine as the name of a folder."""
    name = f"{jax.default_backend()} {machine()}".lower().replace("(r)", "").replace("(tm)", "")
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def versions() -> str:
    """What the numbers depend on."""
    found = [f"Python {platform.python_version()}"]
    for package in ("jax", "jaxlib", "optax", "flax", "torch", "pytorch_optimizer"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return ", ".join(found)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file such that readers see all of it, or what was there before."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_csv(rows: list[Row], path: Path) -> None:
    """Write the rows under a header line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Row._fields, *rows])
    write_whole(path, text.getvalue().encode())


def load_csv(path: Path) -> list[Row]:
    """The rows that `save_csv` wrote."""
    kinds = Row.__annotations__
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    return [Row(**{name: kinds[name](text) for name, text in line.items()}) for line in lines]


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


Column = tuple[str, Callable[[Row], str]]

COLUMNS: list[Column] = [
    ("optimizer or program", lambda row: label(row.name)),
    ("compared with", lambda row: label(row.against)),
    ("ratio", lambda row: f"{row.ratio:.2f}"),
    ("quartiles", lambda row: f"{row.low:.2f} to {row.high:.2f}"),
    ("state, bytes / parameter", lambda row: _number(row.state, 2)),
    ("temporaries, bytes / parameter", lambda row: _number(row.temporary, 2)),
    ("least moved, bytes / parameter", lambda row: _number(row.moved, 0)),
    ("share of the bandwidth", lambda row: _number(row.bandwidth, 2)),
]


def table(rows: list[Row]) -> list[str]:
    """The lines of a Markdown table, without the columns that have no number."""
    columns = [[name, *map(show, rows)] for name, show in COLUMNS]
    columns = [cells for cells in columns if any(cells[1:])]
    rule = f"|---|---|{'---:|' * (len(columns) - 2)}"
    head, *body = [f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True)]
    return [head, rule, *body]


def save_tables(rows: list[Row], title: str, heading: str, path: Path) -> None:
    """Write a Markdown table for each group."""
    lines = [f"# {title}", "", heading]
    for group in dict.fromkeys(row.group for row in rows):
        lines += ["", f"## {group}", "", *table([row for row in rows if row.group == group])]
    write_whole(path, "\n".join([*lines, ""]).encode())
