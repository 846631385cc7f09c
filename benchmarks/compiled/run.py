"""``python -m benchmarks.compiled.run h100`` or ``tpu``: compiles for chips that are not at hand.

Writes ``benchmarks/results/compiled/h100.csv`` or ``tpu.csv`` after each program.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.compiled import chips

if TYPE_CHECKING:
    from benchmarks.compiled.programs import Compiled

RESULTS = Path(__file__).parents[1] / "results" / "compiled"
PACKAGES = ("jax", "jaxlib", "optax", "libtpu", "jax-cuda13-plugin")
CLIP = "after clip_by_global_norm"


class Case(NamedTuple):
    """One program.

    Attributes:
      chips: what it is compiled for.
      program: what it does.
      optimizer: its row.
      note: what else is in it.
      compile: makes it.
    """

    chips: str
    program: str
    optimizer: str
    note: str
    compile: "Callable[[], Compiled]"


def main() -> int:
    """Compile for the chips that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compiled.run", description=__doc__)
    parser.add_argument("chips", choices=tuple(chips.PLUGINS), help="whose compiler to use")
    parser.add_argument("--only", default="", metavar="TEXT", help="only rows with this in a name")
    parser.add_argument("--missing", action="store_true", help="only rows that are not there yet")
    args = parser.parse_args()
    if lacking := chips.missing(args.chips):
        parser.error(f"{lacking}; or run make bench-compiled, which does it")
    chips.prepare(args.chips)

    path, start = RESULTS / f"{args.chips}.csv", time.perf_counter()
    rows = load(path)
    every = list(cases(args.chips))
    for case in every:
        key, name = case[:4], ", ".join(filter(None, case[:4]))
        if args.only not in name or (args.missing and key in rows):
            continue
        rows[key] = row(case)
        save([rows[other[:4]] for other in every if other[:4] in rows], path)
        print(f"{time.perf_counter() - start:.0f} s: {name}", flush=True)
    return 0


def cases(kind: str) -> Iterator[Case]:
    """All programs for one kind of chip."""
    from benchmarks import models
    from benchmarks.compiled.programs import mesh, training, update
    from benchmarks.optimizers import ADAM, CONTROL, EVERY, FACTORED, LION, RECIPE

    few = (ADAM, LION, RECIPE, FACTORED, CONTROL)
    some = (*few, f"{FACTORED}, bfloat16 momentum", f"{FACTORED}, b1=0")

    def updates(chip: str, on: Any, name: str, params: Any) -> Iterator[Case]:
        for row, make in EVERY.items():
            yield Case(chip, f"update of {name}", row, "", partial(update, make(), params, on))

    def steps(chip: str, on: Any, model: models.Model, rows: Any, note: str = "") -> Iterator[Case]:
        for row in rows:
            build = partial(training, EVERY[row](), model, on, note == CLIP)
            yield Case(chip, f"step of {model.name}", row, note, build)

    eight = "8 matrices 2048 x 2048 and 8 vectors", models.squares(2048)
    layers, transformer = models.residual(), models.transformer()
    chip, topology = ("H100", chips.H100) if kind == chips.H100 else ("TPU v5e", "v5e:2x2")
    one = mesh(chips.devices(topology)[:1])
    yield from updates(chip, one, *eight)
    yield from steps(chip, one, layers, EVERY)
    yield from steps(chip, one, transformer, some if kind == chips.TPU else few)
    if kind == chips.H100:
        yield from updates(chip, one, "a matrix 4096 x 4096", {"w": models.shape(4096, 4096)})
        yield from updates(chip, one, "300 small leaves", models.many_leaves())
        return
    yield from steps(chip, one, transformer, (ADAM, FACTORED), CLIP)
    sixteen = chips.devices("v5e:4x4")
    whole, split = mesh(sixteen), mesh(sixteen, 4)
    yield from updates("16 TPU v5e, 4 FSDP x 4 tensor", split, *eight)
    yield from steps("16 TPU v5e, tensor-parallel", whole, layers, few)
    yield from steps("16 TPU v5e, 4 FSDP x 4 tensor", split, layers, few)


def row(case: Case) -> dict[str, Any]:
    """What is written down of a program, which is compiled here."""
    made = case.compile()
    return {
        "chips": case.chips,
        "program": case.program,
        "optimizer": case.optimizer,
        "note": case.note,
        "parameters": made.parameters,
        "moved": round(made.program.moved / made.parameters, 2),
        "state": round(made.state / made.parameters, 3),
        "temporaries": round(made.temporaries / made.parameters, 3),
        "peak": made.peak,
        "kernels": len(made.program.kernels),
        "copies": made.copies,
        "joined": made.joined,
        "matrices": len(made.matrices),
        "all_reduces": len(made.program.all_reduces()),
        "reduced": made.program.reduced(),
        "waits": "yes" if made.waits else "no",
        "versions": versions(),
    }


def load(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The rows of a file by what no other row has; none if there is no file."""
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {tuple(row.values())[:4]: row for row in csv.DictReader(file)}


def save(rows: list[dict[str, Any]], path: Path) -> None:
    """Write a CSV file. Not by pandas, which the environments of the compilers do not have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def versions() -> str:
    """What the rows depend on."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:  # that of other chips
            continue
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
