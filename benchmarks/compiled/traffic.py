"""What one kernel reads and writes.

A kernel reads an operand once, however often it uses it; of a slice, only the slice; of what it
updates in place, nothing. It writes its results; of an update in place, only the update.
"""

from benchmarks.compiled.syntax import Computation, Instruction, Module, arrays, size

SLICES = {"dynamic-slice", "slice", "gather"}


def read(module: Module, inside: Computation, name: str, whole: int) -> int:
    """Bytes that a fused computation reads of `name`, an array of `whole` bytes."""
    total = 0
    for user in inside.users[name]:
        for number in (i for i, other in enumerate(user.operands) if other == name):
            if user.op == "bitcast":
                total += read(module, inside, user.name, whole)
            elif user.op == "fusion":
                nested = module.computations[user.called]
                total += read(module, nested, nested.parameters[number].name, whole)
            elif user.op == "tuple":
                continue
            else:
                total += read_by(user, number, whole)
    return min(total, whole)


def written(module: Module, inside: Computation) -> list[int]:
    """Bytes of each result of a fused computation."""
    root = inside.root
    results = root.operands if root.op == "tuple" else (root.name,)
    return [_result(module, inside, inside.instructions[name]) for name in results]


def _result(module: Module, inside: Computation, x: Instruction) -> int:
    while x.op == "bitcast":
        x = inside.instructions[x.operands[0]]
    if x.op == "fusion":
        return sum(written(module, module.computations[x.called]))
    return written_by(x, inside)


def read_by(x: Instruction, number: int, whole: int) -> int:
    """Bytes that `x` reads of its operand `number`."""
    if number == 0 and x.op in SLICES:
        return min(x.bytes, whole)
    in_place = x.op in ("dynamic-update-slice", "scatter")
    return 0 if number == 0 and in_place else whole


def written_by(x: Instruction, within: Computation) -> int:
    """Bytes that `x` writes."""
    if x.op == "dynamic-update-slice":
        return within.instructions[x.operands[1]].bytes
    if x.op == "scatter":  # each of its rows is read, added to and written
        return 2 * within.instructions[x.operands[2]].bytes
    if x.op in ("copy-start", "all-reduce-start"):
        return min(x.bytes, next((round(n) for _, _, n in arrays(x.shape)), 0))
    return size(x.shape)
