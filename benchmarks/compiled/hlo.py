"""What an optimized HLO program says that ``compiled.cost_analysis()`` does not.

What a kernel reads and writes (that function is empty for an H100, and counts prefetches of a TPU
again), which updates join a matrix product, what is copied, and what waits for an all-reduce.

A kernel is an instruction of ENTRY that computes or copies something. It reads an operand once,
however often it uses it; of a slice, only the slice; of what it updates in place, nothing. It
writes its results; of an update in place, only the update. What a TPU fetches into its fast memory
before a kernel needs it counts as read by that kernel, not as a copy.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from benchmarks.compiled.syntax import Computation, Instruction, Module, arrays, parse, spaces
from benchmarks.compiled.traffic import read, read_by, written, written_by

NO_KERNEL = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
}
MATMULS = {"dot", "convolution"}
MATMUL_CALLS = ("gemm", "matmul")
TARGET = re.compile(r'custom_call_target="([^"]*)"')
COPIES = {"copy", "copy-start"}
ALL_REDUCES = {"all-reduce", "all-reduce-start"}


@dataclass(frozen=True)
class Kernel:
    """One kernel.

    Attributes:
      name: of its instruction.
      reads: bytes, by what they are read from.
      writes: bytes of each result.
    """

    name: str
    reads: dict[str, int]
    writes: tuple[int, ...]

    @property
    def moved(self) -> int:
        """Bytes that it reads and writes."""
        return sum(self.reads.values()) + sum(self.writes)


class Program:
    """An optimized program, read from its text."""

    def __init__(self, text: str) -> None:
        self.module: Module = parse(text)
        self.entry: Computation = self.module.entry

    @cached_property
    def kernels(self) -> list[Kernel]:
        """The kernels of ENTRY, in the order in which they run."""
        entry = self.entry.instructions.values()
        return [self._kernel(x) for x in entry if self._is_kernel(x)]

    @property
    def moved(self) -> int:
        """Bytes that all kernels read and write."""
        return sum(x.moved for x in self.kernels)

    def outputs(self) -> list[tuple[Instruction, int]]:
        """For each result of the program the instruction that makes it, and its bytes."""
        root = self.entry.root
        names = root.operands if root.op == "tuple" else (root.name,)
        return [(self.source(name), self.entry.instructions[name].bytes) for name in names]

    def joined(self, results: Iterable[int]) -> int:
        """How many of these results are made by a kernel that has a matmul in it."""
        made = self.outputs()
        return sum(self._has_matmul(made[number][0]) for number in results)

    def copies(self, smallest: int) -> list[str]:
        """Copies, of at least `smallest` bytes, of an argument or to a result."""
        results = {x.name for x, _ in self.outputs()}
        found = []
        for x in self.entry.instructions.values():
            if not self._copies(x) or self._kernel(x).moved < 2 * smallest:
                continue
            of = [self.source(name).op for name in x.operands]
            if "parameter" in of or x.name in results:
                found.append(x.name)
        return found

    def all_reduces(self) -> list[Instruction]:
        """The all-reduces of ENTRY, and of the computations that it starts."""
        every = self.entry.instructions.values()
        return [x for x in every if not x.op.endswith("-done") and self._does(x, ALL_REDUCES)]

    def reduced(self) -> int:
        """How many numbers the all-reduces add up, or of how many they take the largest."""
        operands = (name for x in self.all_reduces() for name in x.operands)
        shapes = (self.entry.instructions[name].shape for name in operands)
        return sum(math.prod(sizes) for shape in shapes for _, sizes, _ in arrays(shape))

    def awaited(self, leaves: int) -> list[str]:
        """The all-reduces that one of the first `leaves` results is computed from."""
        left = [x.name for x, _ in self.outputs()[:leaves]]
        behind = set(left)
        while left:
            new = set(self.entry.instructions[left.pop()].operands) - behind
            behind |= new
            left += new
        return [x.name for x in self.all_reduces() if x.name in behind]

    def source(self, name: str) -> Instruction:
        """What made the array `name`, seen through what moves no data and through prefetches."""
        x = self._array(name)
        while x.op == "get-tuple-element":
            x = self._array(x.operands[0])
        return x

    def _array(self, name: str) -> Instruction:
        """The instruction, or the element of one's results, that holds the array `name`."""
        x = self.entry.instructions[name]
        while True:
            of = self.entry.instructions[x.operands[0]] if x.operands else x
            if x.op == "get-tuple-element" and of.op == "tuple":
                x = self.entry.instructions[of.operands[x.index]]
            elif x.op == "bitcast" or self._is_prefetch(x):
                x = of
            else:
                return x

    def _is_kernel(self, x: Instruction) -> bool:
        return not (x.op in NO_KERNEL or x.op.endswith("-done") or self._is_prefetch(x))

    def _is_prefetch(self, x: Instruction) -> bool:
        """Whether `x` brings an array to another memory of the chip, or only waits for that."""
        if x.op.endswith("-done"):
            return self._is_prefetch(self.entry.instructions[x.operands[0]])
        if x.op == "slice-start" or 'target="ConcatBitcast"' in x.attributes:
            return True
        if x.op == "copy":
            return spaces(x.shape) != spaces(self.entry.instructions[x.operands[0]].shape)
        return x.op == "copy-start" and len(set(spaces(x.shape)[:2])) == 2

    def _copies(self, x: Instruction) -> bool:
        """Whether `x` is a copy, or a fusion of one."""
        if x.op == "fusion":
            inside = self.module.computations[x.called].instructions.values()
            return {y.op for y in inside} <= {"parameter", "bitcast", "copy", "transpose"}
        return x.op in COPIES and not self._is_prefetch(x)

    def _kernel(self, x: Instruction) -> Kernel:
        reads: dict[str, int] = {}
        inside = self.module.computations.get(x.called) if x.op == "fusion" else None
        for number, name in enumerate(x.operands):
            whole = self.entry.instructions[name].bytes
            if inside:
                n = read(self.module, inside, inside.parameters[number].name, whole)
            else:
                n = read_by(x, number, whole)
            key = self._buffer(name)
            reads[key] = max(reads.get(key, 0), n)
        writes = written(self.module, inside) if inside else [written_by(x, self.entry)]
        return Kernel(x.name, reads, tuple(writes))

    def _buffer(self, name: str) -> str:
        """A name for the array `name` that is the same however it is reached."""
        x = self._array(name)
        return f"{x.operands[0]}.{x.index}" if x.op == "get-tuple-element" else x.name

    def _has_matmul(self, x: Instruction) -> bool:
        if x.op == "custom-call":
            target = TARGET.search(x.attributes)
            return bool(target) and any(name in target[1].lower() for name in MATMUL_CALLS)
        return self._does(x, MATMULS)

    def _does(self, x: Instruction, ops: set[str]) -> bool:
        inside = self.module.computations.get(x.called)
        return x.op in ops or (
            inside is not None and any(self._does(y, ops) for y in inside.instructions.values())
        )
