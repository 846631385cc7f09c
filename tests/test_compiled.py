"""What XLA makes of a step for TPUs, read off the compiled program: no TPU is needed.

``make test-compiled`` installs the compiler into an environment of its own and runs this.
"""
# ruff: noqa: E402

import functools

import pytest

from benchmarks.compiled import chips

if lacking := chips.missing(chips.TPU):
    pytest.skip(f"{lacking}, or run make test-compiled", allow_module_level=True)
chips.prepare(chips.TPU)

import jax
import optax

from benchmarks import models
from benchmarks.compiled import programs
from benchmarks.evidence.candidates import Candidate
from benchmarks.optimizers import B1_0, CHAIN, CONTROL, EVERY, FACTORED, MAX, OURS, RECIPE

SIDE = 1024
# Bytes per float32 parameter that a step of the optimizer alone moves. A slot of the queue is
# written by a kernel of its own, which reads the gradient again.
MOVES = {
    "Adam": 28,
    "Lion": 20,
    FACTORED: 20,
    f"{FACTORED}, bfloat16 momentum": 16,
    f"{FACTORED}, b1=0": 12,
    MAX: 32,
    f"{MAX}, bfloat16 queue": 28,
    "adashift, mean": 32,
    "adashift, none": 40,
    B1_0: 12,
    CHAIN: 20,
}
JOINING = [name for name in OURS if FACTORED in name or B1_0 in name]


def test_every_row_is_held():
    assert OURS.keys() == MOVES.keys() - {"Adam", "Lion"}


@pytest.fixture(autouse=True)
def _promotion():
    """Optax mixes dtypes, which tests otherwise forbid."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def chip():
    return programs.mesh(chips.devices("v5e:2x2")[:1])


@pytest.mark.parametrize("name", MOVES)
def test_update(name):
    """Each optimizer moves so many bytes, copies nothing, and allocates less than one leaf."""
    compiled = programs.update(EVERY[name](), models.squares(SIDE, 2), chip())
    moved = compiled.program.moved / compiled.parameters
    assert MOVES[name] - 0.05 < moved < MOVES[name] + 0.25
    assert compiled.copies == 0
    assert compiled.temporaries < compiled.slot
    reads = [max(kernel.reads.values(), default=0) for kernel in compiled.program.kernels]
    for kernel, read in zip(compiled.program.kernels, reads, strict=True):
        # What reads a whole gradient writes something as large: no kernel only sums it.
        assert read < compiled.slot or max(kernel.writes) >= compiled.slot // 2, kernel


def trained(tx):
    """The whole step of two residual layers, small enough to compile in seconds."""
    return programs.training(tx, models.residual(2, SIDE // 2, SIDE), chip())


@functools.cache
def trained_row(name):
    return trained(EVERY[name]())


@pytest.mark.parametrize("name", ["Adam", "Lion", *JOINING])
def test_the_update_joins_its_matmul(name):
    """The gradient is never stored. Statistics are small: momentum decides what is moved."""
    compiled = trained_row(name)
    assert compiled.joined == 2
    assert compiled.copies == 0
    assert (
        compiled.program.moved
        <= 1.005 * trained_row("Adam" if name == "Adam" else "Lion").program.moved
    )


@pytest.mark.parametrize("name", [RECIPE, CONTROL])
def test_without_the_delay_it_does_not_join(name):
    compiled = trained_row(name)
    assert compiled.joined == 0
    assert compiled.program.moved > 1.03 * trained_row(FACTORED).program.moved


def test_the_delay_is_what_makes_the_control_join():
    assert trained(optax.chain(Candidate().make(delayed=True), optax.scale(-1e-3))).joined == 2


@pytest.mark.parametrize("name", ["Adam", FACTORED])
def test_behind_a_clip_of_the_global_norm_nobody_joins(name):
    compiled = programs.training(
        EVERY[name](), models.residual(2, SIDE // 2, SIDE), chip(), clip_norm=True
    )
    assert compiled.joined == 0


@functools.cache
def sharded(name):
    """Three leaves on 16 chips, the matrices split over both axes of the mesh."""
    params = {"wide": models.shape(1024, 2048), "out": models.shape(1024, 1024)}
    params["bias"] = models.shape(1024)
    return programs.update(EVERY[name](), params, programs.mesh(chips.devices("v5e:4x4"), 4))


@pytest.mark.parametrize("name", OURS)
def test_on_a_mesh_no_update_waits(name):
    """For whole leaves the all-reduces are of one number for each, one for an axis of the mesh."""
    compiled = sharded(name)
    assert not compiled.waits
    assert compiled.copies == 0
    reduces = compiled.program.all_reduces()
    if FACTORED not in name:
        assert len(reduces) == (0 if "none" in name else 2)
        assert compiled.program.reduced() <= len(reduces) * compiled.leaves


@pytest.mark.parametrize("name", [RECIPE, CONTROL])
def test_on_a_mesh_sums_over_today_wait(name):
    assert sharded(name).waits
