"""The page of tables, made of all CSV files that there are."""

from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.compiled.cases import ADAM
from benchmarks.compiled.rows import Row, load
from benchmarks.compiled.words import ALL, HEADING, NOTES, SHORT, Short
from benchmarks.labels import label
from benchmarks.report import write_whole

Column = tuple[str, Callable[[Row, Row | None], str]]


def save(folder: Path) -> None:
    """Write `tables.md` beside the CSV files."""
    write_whole(folder / "tables.md", text(folder).encode())


def text(folder: Path) -> str:
    """The page."""
    parts = [HEADING]
    for short in SHORT:
        parts += _short(load(folder / f"{short.file}.csv"), short)
    parts.append(NOTES)
    for (title, note, names), columns in zip(ALL, (UPDATE, MESH, STEP), strict=True):
        rows = [row for name in names for row in load(folder / f"{name}.csv")]
        if rows:
            parts += [f"## {title}\n", note, *_tables(rows, columns)]
            versions = dict.fromkeys(row.versions for row in rows)
            parts.append(f"Compiled with {'; and with '.join(versions)}.\n")
    return "\n".join(parts)


def _short(rows: list[Row], short: Short) -> Iterable[str]:
    """A table of the rows that most readers look for; none if there are none of this model."""
    rows = [row for row in rows if row.model == short.model and not row.in_front]
    by_name = {row.optimizer: row for row in rows}
    chosen = [by_name[name] for name in short.optimizers if name in by_name]
    if chosen:
        yield f"## {short.title}\n"
        yield short.note
        yield _table(chosen, by_name.get(ADAM), [*MOVED, PEAK if short.whole_step else STATE])
        yield ""


def _tables(rows: list[Row], columns: list[Column]) -> Iterable[str]:
    """A table for each chip and model, with Adam's row for comparison."""
    for chips, model in dict.fromkeys((row.chips, row.model) for row in rows):
        chosen = [row for row in rows if (row.chips, row.model) == (chips, model)]
        adam = next((row for row in chosen if (row.optimizer, row.in_front) == (ADAM, "")), None)
        yield f"### {chips[0].upper()}{chips[1:]}: {model}\n"
        yield _table(chosen, adam, columns)
        yield ""


def _table(rows: list[Row], adam: Row | None, columns: list[Column]) -> str:
    return "\n".join(
        [
            f"| optimizer | {' | '.join(name for name, _ in columns)} |",
            f"|---|{'---:|' * len(columns)}",
            *(_line(row, adam, columns) for row in rows),
        ]
    )


def _line(row: Row, adam: Row | None, columns: list[Column]) -> str:
    name = label(row.optimizer)
    name = f"{name}, after `{row.in_front}`" if row.in_front else name
    return f"| {' | '.join([name, *(show(row, adam) for _, show in columns)])} |"


def _per_parameter(n: int, row: Row) -> str:
    return f"{n / row.parameters:.2f}"


def _over_adam(row: Row, adam: Row | None) -> str:
    return f"{row.moved / adam.moved:.2f}" if adam else ""


MOVED: list[Column] = [
    ("moved, bytes / parameter", lambda row, adam: f"{row.moved:.1f}"),
    ("moved / Adam's", _over_adam),
]
STATE: Column = ("state, bytes / parameter", lambda row, adam: _per_parameter(row.state, row))
PEAK: Column = ("peak memory, MB / chip", lambda row, adam: f"{row.peak / 1e6:.0f}")
COPIES: Column = ("copies", lambda row, adam: str(row.copies))
REST: list[Column] = [
    ("temporaries, bytes / parameter", lambda row, adam: _per_parameter(row.temporaries, row)),
    COPIES,
]
UPDATE: list[Column] = [
    *MOVED,
    STATE,
    ("kernels", lambda row, adam: str(row.kernels)),
    *REST,
]
MESH: list[Column] = [
    *MOVED,
    ("state, MB / chip", lambda row, adam: f"{row.state / 1e6:.1f}"),
    *REST,
    ("all-reduces", lambda row, adam: str(row.all_reduces)),
    ("numbers in them", lambda row, adam: str(row.reduced)),
    ("waits", lambda row, adam: "yes" if row.waits else "no"),
]
STEP: list[Column] = [
    *MOVED,
    PEAK,
    ("joined", lambda row, adam: f"{row.joined} of {row.matrices}"),
    COPIES,
]
