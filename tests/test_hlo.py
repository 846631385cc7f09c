"""The reader of optimized HLO, on small programs whose bytes can be counted by hand."""

import pytest

from benchmarks.compiled.hlo import Program

# 1024 x 1024 float32 numbers, and as many bytes for a ring of 11 of them.
LEAF = "f32[1024,1024]{1,0:T(8,128)}"
RING = "f32[11,1024,1024]{2,1,0}"
ROW = "f32[1,1024,1024]{2,1,0}"
BYTES = 4 * 1024**2


def computation(name, parameters, body):
    """The text of a computation: parameters, by their names and shapes, and then `body`."""
    every = enumerate(parameters.items())
    lines = [f"  %{x} = {shape} parameter({i}), sharding={{}}" for i, (x, shape) in every]
    return "\n".join([f"{name} (x: f32[]) -> f32[] {{", *lines, body, "}", ""])


def entry(parameters, body):
    return computation("ENTRY %main", parameters, body)


FUSED = computation(
    "%fused",
    dict.fromkeys("pgmv", LEAF),
    f"""\
  %v2 = {LEAF} multiply(%v, %g)
  %m2 = {LEAF} add(%m, %g)
  %p2 = {LEAF} divide(%p, %v2)
  ROOT %all = ({LEAF}, {LEAF}, /*index=2*/{LEAF}) tuple(%p2, %m2, %v2)""",
)
ADAM = FUSED + entry(
    dict.fromkeys("pgmv", LEAF),
    f"""\
  %step = ({LEAF}, {LEAF}, {LEAF}) fusion(%p, %g, %m, %v), kind=kLoop, calls=%fused
  %new_p = {LEAF} get-tuple-element(%step), index=0
  %new_m = {LEAF} get-tuple-element(%step), index=1
  %new_v = {LEAF} get-tuple-element(%step), index=2
  %all = ({LEAF}, {LEAF}, {LEAF}) tuple(%new_p, %new_m, %g)
  %same = {LEAF} get-tuple-element(%all), index=2
  ROOT %out = ({LEAF}, {LEAF}, {LEAF}) tuple(%new_p, %new_v, %same)""",
)
WRITE = computation(
    "%write",
    {"ring": RING, "g": LEAF, "slot": "s32[]"},
    f"""\
  %row = {ROW} bitcast(%g)
  ROOT %update = {RING} dynamic-update-slice(%ring, %row, %slot, %slot, %slot)""",
)
READ = computation(
    "%read",
    {"ring": RING, "slot": "s32[]"},
    f"  ROOT %old = {ROW} dynamic-slice(%ring, %slot, %slot, %slot)",
)
QUEUE = (
    WRITE
    + READ
    + entry(
        {"ring": RING, "g": LEAF, "slot": "s32[]"},
        f"""\
  %written = {RING} fusion(%ring, %g, %slot), kind=kLoop, calls=%write
  %old = {ROW} fusion(%written, %slot), kind=kLoop, calls=%read
  ROOT %out = ({ROW}, {RING}) tuple(%old, %written)""",
    )
)


def test_adam_moves_28_bytes_per_parameter():
    """And its results are followed through tuples of tuples."""
    program = Program(ADAM)
    (kernel,) = program.kernels
    assert kernel.reads == dict.fromkeys("pgmv", BYTES)
    assert kernel.writes == (BYTES, BYTES, BYTES)
    assert program.moved == 28 * 1024**2
    assert [x.name for x, _ in program.outputs()] == ["step", "step", "g"]


def test_of_a_queue_one_slot_is_written_and_one_is_read():
    write, read = Program(QUEUE).kernels
    assert write.reads == {"ring": 0, "g": BYTES, "slot": 4}
    assert read.reads == {"written": BYTES, "slot": 4}
    assert write.writes == read.writes == (BYTES,)
    whole = QUEUE.replace("  ROOT %old =", f"  %twice = {RING} add(%ring, %ring)\n  ROOT %old =")
    assert Program(whole).kernels[1].reads["written"] == 11 * BYTES


@pytest.mark.parametrize(("space", "copies", "moved"), [("", ["start"], 4), ("S(1)", [], 2)])
def test_a_copy_is_a_kernel_and_a_prefetch_to_another_memory_is_none(space, copies, moved):
    there = LEAF.replace("T(8,128)", f"T(8,128){space}")
    body = f"""\
  %start = ({there}, {LEAF}, u32[]{{:S(2)}}) copy-start(%x)
  %done = {there} copy-done(%start)
  ROOT %y = {LEAF} negate(%done)"""
    program = Program(entry({"x": LEAF}, body))
    assert program.copies(BYTES) == copies
    assert program.moved == moved * BYTES


def test_an_update_that_joins_its_matmul():
    """A kernel reads an array once, however it is reached."""
    product = f"  ROOT %product = {LEAF} convolution(%a, %b), dim_labels=bf_io->bf"
    update = f"""\
  %g = {LEAF} fusion(%a, %b), kind=kOutput, calls=%inner
  ROOT %new = {LEAF} subtract(%p, %g)"""
    body = f"""\
  %same = {LEAF} bitcast(%a)
  %new = {LEAF} fusion(%a, %same, %p), kind=kOutput, calls=%outer
  %g = {LEAF} custom-call(%a, %a), custom_call_target="__cublas$lt$matmul"
  %other = {LEAF} subtract(%q, %g), metadata={{op_name="jit(step)/matmul"}}
  ROOT %out = ({LEAF}, {LEAF}) tuple(%new, %other)"""
    called = [("%inner", "ab", product), ("%outer", "abp", update), ("ENTRY %main", "apq", body)]
    text = "".join(computation(name, dict.fromkeys(x, LEAF), of) for name, x, of in called)
    program = Program(text)
    assert [x.name for x in program.kernels] == ["new", "g", "other"]
    assert program.kernels[0].reads == {"a": BYTES, "p": BYTES}
    assert program.joined([0, 1]) == 1
    assert program.joined([1]) == 0


@pytest.mark.parametrize("start", ["", "-start"])
def test_what_waits_for_an_all_reduce(start):
    done = "  %done = f32[8] all-reduce-done(%sum)\n" * bool(start)
    body = f"""\
  %of = f32[8] reduce(%g, %v), dimensions={{0,1}}, to_apply=%add
  %sum = f32[8] all-reduce{start}(%of), to_apply=%add
{done}  %late = {LEAF} multiply(%g, %{"done" if start else "sum"})
  %early = {LEAF} multiply(%g, %v)
  ROOT %out = ({LEAF}, {LEAF}) tuple(%early, %late)"""
    program = Program(entry({"g": LEAF, "v": "f32[8]"}, body))
    assert [x.name for x in program.all_reduces()] == ["sum"]
    assert program.reduced() == 8
    assert program.awaited(1) == []
    assert program.awaited(2) == ["sum"]
