"""The page of tables, made of all CSV files that there are."""

from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.compiled.cases import ADAM
from benchmarks.compiled.rows import Row, load
from benchmarks.report import write_whole

HEADING = """# Compiled for an H100 and for TPUs

For whom wants to know what a step of AdaShift costs on an accelerator, beside Adam's. Nothing here
has run on one: JAX's compilers for these chips run on any machine, and the numbers are read off the
programs that they make. They say what is read, written, allocated and communicated. They do not say
how long it takes: as a rule the time of an optimizer's step is that of its traffic.
`benchmarks/README.md` tells how to repeat it.

- *Moved*: bytes that all kernels read and write, for each parameter on the chip. Parameters and
  gradients are float32, so reading one of them is 4 bytes.
- *Kernels*: those that move more than 64 KiB.
- *Copies*: whole arrays of parameters, state or gradients that are only moved; one would be the
  queue, if it were not updated in place.
- *Temporaries*: memory that the step needs beside parameters, state and gradients. On a TPU it is a
  multiple of 32,256 bytes however large the leaves are, so little of it can be arrays.
- *Waits*: whether an update needs the result of an all-reduce, that is, all chips have to finish
  reading their gradients before any of them can update a parameter.
- *Joined*: matrices that are updated in the kernel of the matrix product that makes their gradient.
  Such a gradient is never stored.

Names are "phi, window". n is 10, for "ema" 1 with `clip_value=1`, if nothing else is said; the
"none" of "b1=0" and "sliding" keep the queue of 11 gradients. "No delay" is the same rule as "ema"
with today's gradient in v, as other optimizers have it; the library does not offer it.
"""
Column = tuple[str, Callable[[Row, Row | None], str]]


def save(folder: Path) -> None:
    """Write `tables.md` beside the CSV files."""
    parts = [HEADING]
    for title, note, names, columns in SECTIONS:
        rows = [row for name in names for row in load(folder / f"{name}.csv")]
        if rows:
            parts += [f"## {title}\n", note, *_tables(rows, columns)]
            parts.append(f"Compiled with {rows[-1].versions}.\n")
    write_whole(folder / "tables.md", "\n".join(parts).encode())


def _tables(rows: list[Row], columns: list[Column]) -> Iterable[str]:
    """A table for each chip and model, with Adam's row for comparison."""
    for chips, model in dict.fromkeys((row.chips, row.model) for row in rows):
        chosen = [row for row in rows if (row.chips, row.model) == (chips, model)]
        adam = next((row for row in chosen if (row.optimizer, row.in_front) == (ADAM, "")), None)
        yield f"### {chips[0].upper()}{chips[1:]}: {model}\n"
        yield "\n".join(
            [
                f"| | {' | '.join(name for name, _ in columns)} |",
                f"|---|{'---:|' * len(columns)}",
                *(_line(row, adam, columns) for row in chosen),
            ]
        )
        yield ""


def _line(row: Row, adam: Row | None, columns: list[Column]) -> str:
    name = f"{row.optimizer}, behind `{row.in_front}`" if row.in_front else row.optimizer
    return f"| {' | '.join([name, *(show(row, adam) for _, show in columns)])} |"


def _per_parameter(n: int, row: Row) -> str:
    return f"{n / row.parameters:.2f}"


def _over_adam(row: Row, adam: Row | None) -> str:
    return f"{row.moved / adam.moved:.2f}" if adam else ""


MOVED: list[Column] = [
    ("moved, bytes / parameter", lambda row, adam: f"{row.moved:.1f}"),
    ("over Adam's", _over_adam),
]
STATE: list[Column] = [
    ("state, bytes / parameter", lambda row, adam: _per_parameter(row.state, row)),
]
REST: list[Column] = [
    ("temporaries, bytes / parameter", lambda row, adam: _per_parameter(row.temporaries, row)),
    ("copies", lambda row, adam: str(row.copies)),
]
UPDATE: list[Column] = [
    *MOVED,
    *STATE,
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
    ("peak memory, MB / chip", lambda row, adam: f"{row.peak / 1e6:.0f}"),
    ("joined", lambda row, adam: f"{row.joined} of {row.matrices}"),
    ("copies", lambda row, adam: str(row.copies)),
]
SECTIONS = [
    (
        "The step of the optimizer alone",
        "`update` and `apply_updates` in one jitted call, parameters and state donated.\n",
        ("update-h100", "update-v5e", "update-v6e"),
        UPDATE,
    ),
    (
        "The same on a mesh of TPU chips",
        "The parameters of Llama 3.2 1B (1.24 billion, 146 leaves), split over both axes.\n",
        ("mesh-16", "mesh-256"),
        MESH,
    ),
    (
        "The whole training step",
        "Forward pass, backward pass and update in one jitted call; matrix products in bfloat16,\n"
        "parameters in float32. Moved bytes are those of the whole step. The residual layers are\n"
        "2048 wide, for 4096 rows. The transformer has 2 blocks of width 1024, a vocabulary of\n"
        "32,768, and 8 sequences of 512 tokens; its embeddings are updated apart in every row.\n",
        ("step-v5e", "step-16", "step-h100"),
        STEP,
    ),
]
