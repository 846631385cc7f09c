"""The reader of optimized HLO, on small programs whose bytes can be counted by hand."""

import pytest

from benchmarks.compiled.hlo import Program
from benchmarks.compiled.syntax import size, spaces

# 1024 x 1024 float32 numbers, and as many bytes for a ring of 11 of them.
LEAF = "f32[1024,1024]{1,0:T(8,128)}"
RING = "f32[11,1024,1024]{2,1,0}"
BYTES = 4 * 1024**2

ADAM = f"""
HloModule jit_step, is_scheduled=true

%fused (p: f32[], g: f32[], m: f32[], v: f32[]) -> (f32[], f32[], f32[]) {{
  %p = {LEAF} parameter(0)
  %g = {LEAF} parameter(1)
  %m = {LEAF} parameter(2)
  %v = {LEAF} parameter(3)
  %square = {LEAF} multiply(%g, %g)
  %v2 = {LEAF} add(%v, %square)
  %m2 = {LEAF} add(%m, %g)
  %u = {LEAF} divide(%m2, %v2)
  %p2 = {LEAF} add(%p, %u)
  ROOT %all = ({LEAF}, {LEAF}, /*index=2*/{LEAF}) tuple(%p2, %m2, %v2)
}}

ENTRY %main (p: f32[], g: f32[], m: f32[], v: f32[]) -> (f32[], f32[], f32[]) {{
  %p = {LEAF} parameter(0), sharding={{replicated}}
  %g = {LEAF} parameter(1)
  %m = {LEAF} parameter(2)
  %v = {LEAF} parameter(3)
  %step = ({LEAF}, {LEAF}, {LEAF}) fusion(%p, %g, %m, %v), kind=kLoop, calls=%fused
  %new_p = {LEAF} get-tuple-element(%step), index=0
  %new_m = {LEAF} get-tuple-element(%step), index=1
  %new_v = {LEAF} get-tuple-element(%step), index=2
  ROOT %out = ({LEAF}, {LEAF}, {LEAF}) tuple(%new_p, %new_m, %new_v)
}}
"""

QUEUE = f"""
%write (ring: f32[], g: f32[], slot: s32[]) -> f32[] {{
  %ring = {RING} parameter(0)
  %g = {LEAF} parameter(1)
  %slot = s32[] parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,1024,1024]{{2,1,0}} bitcast(%g)
  ROOT %update = {RING} dynamic-update-slice(%ring, %row, %slot, %zero, %zero)
}}

%read (ring: f32[], slot: s32[]) -> f32[] {{
  %ring = {RING} parameter(0)
  %slot = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %old = f32[1,1024,1024]{{2,1,0}} dynamic-slice(%ring, %slot, %zero, %zero)
}}

ENTRY %main (ring: f32[], g: f32[], slot: s32[]) -> (f32[], f32[]) {{
  %ring = {RING} parameter(0)
  %g = {LEAF} parameter(1)
  %slot = s32[] parameter(2)
  %written = {RING} fusion(%ring, %g, %slot), kind=kLoop, calls=%write
  %old = f32[1,1024,1024]{{2,1,0}} fusion(%written, %slot), kind=kLoop, calls=%read
  %leaf = {LEAF} bitcast(%old)
  ROOT %out = ({LEAF}, {RING}) tuple(%leaf, %written)
}}
"""


def entry(body, before=""):
    return f"{before}\nENTRY %main (x: f32[]) -> f32[] {{\n{body}\n}}\n"


def test_adam_moves_28_bytes_per_parameter():
    program = Program(ADAM)
    (kernel,) = program.kernels
    assert kernel.reads == dict.fromkeys("pgmv", BYTES)
    assert kernel.writes == (BYTES, BYTES, BYTES)
    assert program.moved == 28 * 1024**2


def test_of_a_queue_one_slot_is_written_and_one_is_read():
    write, read = Program(QUEUE).kernels
    assert write.reads == {"ring": 0, "g": BYTES, "slot": 4}
    assert write.writes == (BYTES,)
    assert read.reads == {"written": BYTES, "slot": 4}
    assert read.writes == (BYTES,)


def test_a_slice_that_is_read_beside_the_whole_counts_as_the_whole():
    text = QUEUE.replace("  ROOT %old =", f"  %twice = {RING} add(%ring, %ring)\n  ROOT %old =")
    assert Program(text).kernels[1].reads["written"] == 11 * BYTES


def test_a_kernel_reads_an_array_once_however_it_is_reached():
    program = Program(
        entry(f"""
  %x = {LEAF} parameter(0)
  %same = {LEAF} bitcast(%x)
  ROOT %y = {LEAF} multiply(%x, %same)""")
    )
    assert program.kernels[0].reads == {"x": BYTES}


def copied(space):
    """A program in which an argument is copied to memory `space`, and then used."""
    there = LEAF.replace("T(8,128)", f"T(8,128){space}")
    return Program(
        entry(f"""
  %x = {LEAF} parameter(0)
  %start = ({there}, {LEAF}, u32[]{{:S(2)}}) copy-start(%x)
  %done = {there} copy-done(%start)
  ROOT %y = {LEAF} negate(%done)""")
    )


def test_a_copy_is_a_kernel():
    program = copied("")
    assert program.copies(BYTES) == ["start"]
    assert program.moved == 4 * BYTES


def test_a_prefetch_is_no_copy():
    program = copied("S(1)")
    assert program.copies(BYTES) == []
    assert [x.reads for x in program.kernels] == [{"x": BYTES}]
    assert program.source("done").name == "x"


def test_only_copies_of_arguments_and_to_results_count():
    program = Program(
        entry(f"""
  %x = {LEAF} parameter(0)
  %y = {LEAF} negate(%x)
  %inner = {LEAF} copy(%y)
  %z = {LEAF} negate(%inner)
  ROOT %last = {LEAF} copy(%z)""")
    )
    assert program.copies(BYTES) == ["last"]
    assert program.copies(BYTES + 1) == []


MATMUL = f"""
%inner (a: f32[], b: f32[]) -> f32[] {{
  %a = {LEAF} parameter(0)
  %b = {LEAF} parameter(1)
  ROOT %product = {LEAF} convolution(%a, %b), dim_labels=bf_io->bf
}}

%outer (a: f32[], b: f32[], p: f32[]) -> f32[] {{
  %a = {LEAF} parameter(0)
  %b = {LEAF} parameter(1)
  %p = {LEAF} parameter(2)
  %g = {LEAF} fusion(%a, %b), kind=kOutput, calls=%inner
  ROOT %new = {LEAF} subtract(%p, %g)
}}
"""


def test_an_update_that_joins_its_matmul():
    body = f"""
  %a = {LEAF} parameter(0)
  %p = {LEAF} parameter(1)
  %q = {LEAF} parameter(2)
  %new = {LEAF} fusion(%a, %a, %p), kind=kOutput, calls=%outer
  %g = {LEAF} custom-call(%a, %a), custom_call_target="__cublas$lt$matmul"
  %other = {LEAF} subtract(%q, %g), metadata={{op_name="jit(step)/matmul"}}
  ROOT %out = ({LEAF}, {LEAF}) tuple(%new, %other)"""
    program = Program(entry(body, MATMUL))
    assert [x.name for x in program.kernels] == ["new", "g", "other"]
    assert program.joined([0, 1]) == 1
    assert program.joined([1]) == 0


@pytest.mark.parametrize("start", ["", "-start"])
def test_what_waits_for_an_all_reduce(start):
    reduced = f"%sum = f32[8] all-reduce{start}(%of), to_apply=%add"
    if start:
        reduced += "\n  %done = f32[8] all-reduce-done(%sum)"
    body = f"""
  %g = {LEAF} parameter(0)
  %v = f32[8] parameter(1)
  %of = f32[8] reduce(%g, %v), dimensions={{0,1}}, to_apply=%add
  {reduced}
  %late = {LEAF} multiply(%g, %{"done" if start else "sum"})
  %early = {LEAF} multiply(%g, %v)
  ROOT %out = ({LEAF}, {LEAF}) tuple(%early, %late)"""
    program = Program(entry(body))
    assert [x.name for x in program.all_reduces()] == ["sum"]
    assert program.reduced() == 8
    assert program.awaited(1) == []
    assert program.awaited(2) == ["sum"]


def test_a_result_is_followed_through_tuples_of_tuples():
    text = ADAM.replace("ROOT %out =", "%inner =").replace(
        "tuple(%new_p, %new_m, %new_v)",
        f"tuple(%new_v, %p, %new_p)\n  %last = {LEAF} get-tuple-element(%inner), index=2\n"
        f"  %kept = {LEAF} get-tuple-element(%inner), index=1\n"
        f"  ROOT %out = ({LEAF}, {LEAF}) tuple(%last, %kept)",
    )
    assert [x.name for x, _ in Program(text).outputs()] == ["step", "p"]


def test_size_and_space():
    sizes = {"f32[]": 4, "pred[3]{0}": 3, "bf16[2,3]{1,0:T(8,128)(2,1)S(1)}": 12, "s4[4]": 2}
    sizes |= {"f8e4m3fn[5]": 5, "(f32[2], (u16[3], c64[1]))": 8 + 6 + 8}
    assert {shape: size(shape) for shape in sizes} == sizes
    assert spaces("(f32[2]{0:T(128)S(1)}, f32[2]{0:T(8,128)(2,1)}, u32[]{:S(2)})") == ["1", "", "2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("HloModule empty", "ENTRY"), (entry("  %x = f32[2] parameter(0"), "closed on the same line")],
)
def test_what_is_no_program(text, message):
    with pytest.raises(ValueError, match=message):
        Program(text)
