"""The text of an optimized HLO module, as instructions."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

ARRAY = re.compile(r"\b([a-z]+)(\d*)\w*\[([\d,]*)\]")
SPACE = re.compile(r"\[[\d,]*\](?:\{[^}]*?S\((\d+)\)[^}]*\})?")
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: what other instructions call it.
      shape: its array, or a tuple of arrays, with layouts.
      op: the operation.
      operands: the names of what it is made of.
      text: what stands in its parentheses.
      attributes: what stands after them.
      root: whether it is the result of its computation.
    """

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    text: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        """The size of its result."""
        return size(self.shape)

    @property
    def called(self) -> str:
        """The computation that it runs; empty if none."""
        found = CALLED.search(self.attributes)
        return found[1] if found else ""

    @property
    def index(self) -> int:
        """Which element of a tuple, or which parameter of a computation, it is."""
        if self.op == "parameter":
            return int(self.text)
        found = re.search(r"index=(\d+)", self.attributes)
        return int(found[1]) if found else 0


@dataclass(frozen=True)
class Computation:
    """A computation: its instructions by name, in their order."""

    instructions: dict[str, Instruction]

    @cached_property
    def root(self) -> Instruction:
        """The result."""
        return next(x for x in self.instructions.values() if x.root)

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """The parameters by their number."""
        every = (x for x in self.instructions.values() if x.op == "parameter")
        return {x.index: x for x in every}

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """The instructions that read each other one."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for x in self.instructions.values():
            for name in dict.fromkeys(x.operands):
                found[name].append(x)
        return found


@dataclass(frozen=True)
class Module:
    """A program: its computations, and the name of that which runs first."""

    computations: dict[str, Computation]
    entry_name: str

    @property
    def entry(self) -> Computation:
        """The computation that runs first."""
        return self.computations[self.entry_name]


def parse(text: str) -> Module:
    """The module of which `text` is the text.

    Raises:
      ValueError: there is no ENTRY.
    """
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if head := HEAD.match(line):
            current = {}
            computations[head[2]] = Computation(current)
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (found := LINE.match(line)):
            current[found[2]] = _instruction(bool(found[1]), found[2], found[3])
    if not entry:
        raise ValueError("text must be an HLO module with a line that starts with ENTRY; got none.")
    return Module(computations, entry)


def _instruction(root: bool, name: str, rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    inside = rest[start + 1 : end]
    operands = tuple(NAME.findall(inside))
    return Instruction(name, shape, rest[:start], operands, inside, rest[end + 1 :], root)


def _closing(text: str, start: int) -> int:
    """Where the parenthesis closes that opens at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    raise ValueError(f"parentheses must be closed on the same line; got {text[start:]!r}.")


def arrays(shape: str) -> Iterator[tuple[str, tuple[int, ...], float]]:
    """The dtype, dimensions and bytes of each array of a shape."""
    for kind, bits, dimensions in ARRAY.findall(shape):
        sizes = tuple(int(x) for x in dimensions.split(",") if x)
        each = int(bits) / 8 if bits else float(kind == "pred")
        yield kind + bits, sizes, each * math.prod(sizes)


def size(shape: str) -> int:
    """The bytes of all arrays of a shape, without padding."""
    return round(sum(each for _, _, each in arrays(shape)))


def spaces(shape: str) -> list[str]:
    """The memory space of each array of a shape; empty for the main memory of the chip."""
    return SPACE.findall(shape)
