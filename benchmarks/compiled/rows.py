"""What is written down of each program: one line of a CSV file."""

import csv
import io
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from benchmarks.compiled.programs import Compiled
from benchmarks.report import write_whole

PACKAGES = ("jax", "jaxlib", "optax", "libtpu", "jax-cuda13-plugin")


class Row(NamedTuple):
    """One program, on one of its chips.

    Attributes:
      chips: what was compiled for.
      model: what it trains, or the leaves that are updated.
      optimizer: its name.
      in_front: what changes the gradients before it; empty if nothing.
      parameters: how many are on the chip.
      moved: bytes that its kernels read and write, for each of these parameters.
      kernels: those that move at least 64 KiB.
      temporaries: bytes that it allocates beside its arguments.
      copies: of an argument or a result as large as the smallest matrix, e.g. of a queue.
      all_reduces: how many there are.
      reduced: how many numbers are in them.
      waits: whether a new parameter is computed from the result of one.
      state: bytes of the optimizer's state.
      peak: bytes of arguments, of results that replace none of them, and of temporaries.
      joined: matrices that are updated in the kernel of a matrix product.
      matrices: how many there are.
      apart: kernels without a matrix product that make a new matrix, or the state of one.
      versions: of what compiled it.
    """

    chips: str
    model: str
    optimizer: str
    in_front: str
    parameters: int
    moved: float
    kernels: int
    temporaries: int
    copies: int
    all_reduces: int
    reduced: int
    waits: bool
    state: int
    peak: int
    joined: int
    matrices: int
    apart: int
    versions: str

    @property
    def key(self) -> tuple[str, ...]:
        """What no other program has."""
        return self[:4]


def row_of(key: tuple[str, str, str, str], compiled: Compiled) -> Row:
    """The row of a program."""
    program = compiled.program
    return Row(
        *key,
        parameters=compiled.parameters,
        moved=round(program.moved / compiled.parameters, 2),
        kernels=len(program.large_kernels),
        temporaries=compiled.temporaries,
        copies=compiled.copies,
        all_reduces=len(program.all_reduces()),
        reduced=program.reduced(),
        waits=compiled.waits,
        state=compiled.state,
        peak=compiled.peak,
        joined=compiled.joined,
        matrices=len(compiled.matrices),
        apart=compiled.apart,
        versions=versions(),
    )


def save(rows: Iterable[Row], path: Path) -> None:
    """Write a CSV file, all of it or nothing."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Row._fields)
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def load(path: Path) -> list[Row]:
    """The rows of a CSV file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    kinds = Row.__annotations__
    return [Row(**{k: _read(kinds[k], text) for k, text in line.items()}) for line in lines]


def _read(kind: type, text: str) -> object:
    return text == "True" if kind is bool else kind(text)


def versions() -> str:
    """What the rows depend on."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # that of other chips
            continue
    return ", ".join(found)
