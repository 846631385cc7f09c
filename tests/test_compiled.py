"""What XLA makes of a step for TPUs, read off the compiled program: no TPU is needed.

``make test-compiled`` installs the compiler into an environment of its own and runs this.
"""

import functools

import pytest

from benchmarks.compiled import chips

if lacking := chips.missing(chips.TPU):
    pytest.skip(f"{lacking}, or run make test-compiled", allow_module_level=True)
chips.prepare(chips.TPU)

import jax  # noqa: E402
from jax.sharding import PartitionSpec  # noqa: E402

from benchmarks.compiled import cases, models, optimizers, programs  # noqa: E402

# Of matrices in the step of the optimizer alone, and in the whole step, which compiles slowly.
SIDE, SMALL = 1024, 512
# Bytes per float32 parameter that a step of the optimizer alone moves; Adam's are 28. A slot of the
# queue is written by a kernel of its own, which reads the gradient again.
MOVES = {
    "Adam": 28,
    "Lion": 20,
    "max, sliding": 32,
    "mean, sliding": 32,
    "outputs, sliding": 32,
    "factored, sliding": 32,
    "none, sliding": 40,
    "max, hopping": 28,
    "mean, hopping": 28,
    "outputs, hopping": 28,
    "factored, hopping": 28,
    "none, hopping": 64,  # on an H100 52: here two kernels read gradient and state
    "max, ema": 20,
    "mean, ema": 20,
    "outputs, ema": 20,
    "factored, ema": 20,
    "none, ema": 28,
    "max, b1=0": 12,
    "mean, b1=0": 12,
    "outputs, b1=0": 12,
    "factored, b1=0": 12,
    "none, b1=0": 32,
    "max, sliding, bfloat16 queue": 28,
    "max, hopping, bfloat16 momentum": 20,
    "max, ema, bfloat16 momentum": 16,
    "factored, ema, bfloat16 momentum": 16,
    "none, ema, n=3": 40,
    "none, b1=0, n=1": 20,
}


def test_every_variant_is_held():
    assert optimizers.ours().keys() == MOVES.keys() - {"Adam", "Lion"}


@pytest.fixture(autouse=True)
def _promotion():
    """Optax mixes dtypes, which tests otherwise forbid."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@functools.cache
def chip():
    return programs.mesh(chips.devices("v5e:2x2")[:1])


@functools.cache
def updated(name):
    params = models.matrices(SIDE, 2)
    tx = cases.every_optimizer()[name]
    return programs.update(tx, params, programs.replicated(params), chip())


@pytest.mark.parametrize("name", MOVES)
def test_update(name):
    """Each optimizer moves so many bytes, copies nothing, and allocates less than one leaf."""
    compiled = updated(name)
    moved = compiled.program.moved / compiled.parameters
    assert MOVES[name] - 0.05 < moved < MOVES[name] + 0.25
    assert compiled.copies == 0
    assert compiled.temporaries < compiled.slot


@pytest.mark.parametrize("name", optimizers.ours())
def test_no_kernel_only_reduces_the_gradient(name):
    """What reads a whole gradient writes something as large as it."""
    compiled = updated(name)
    for kernel in compiled.program.kernels:
        if max(kernel.reads.values(), default=0) >= compiled.slot:
            assert max(kernel.writes) >= compiled.slot // 2, kernel


def test_factored_rms_has_kernels_that_only_reduce_the_gradient():
    compiled = updated(cases.FACTORED)
    kernels = compiled.program.kernels
    reducing = [
        k for k in kernels if max(k.reads.values(), default=0) >= compiled.slot > 4 * max(k.writes)
    ]
    assert len(reducing) >= 2


@functools.cache
def trained(name):
    """The whole step of two residual layers, small enough to compile in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "SIDE", SMALL)
        patch.setattr(models, "ROWS", 2 * SMALL)
        return programs.training(cases.every_optimizer()[name], models.residual(2), chip())


@pytest.mark.parametrize("name", cases.JOINING)
def test_the_update_joins_its_matmul(name):
    """The gradient is never stored: no kernel but that of a matrix product makes a new array."""
    compiled, adam = trained(name), trained("Adam")
    assert compiled.joined == adam.joined == 2
    assert compiled.apart == compiled.copies == 0
    assert compiled.program.moved <= 1.005 * adam.program.moved  # statistics are small


@pytest.mark.parametrize("name", [n for n in cases.JOINING if n.endswith("ema") and n[0] != "n"])
def test_scale_first_moves_what_lion_does(name):
    assert trained(name).program.moved <= 1.005 * trained("Lion").program.moved


@pytest.mark.parametrize("name", ["factored, ema, no delay", cases.FACTORED])
def test_without_the_delay_it_does_not_join(name):
    compiled = trained(name)
    assert compiled.joined == 0
    assert compiled.apart >= 2
    assert compiled.program.moved > 1.03 * trained("factored, ema").program.moved


@functools.cache
def sharded(name):
    """Three leaves on 16 chips, the matrices split over both axes of the mesh."""
    params = {"a": models.shape(1024, 2048), "b": models.shape(1024, 1024)}
    params["c"] = models.shape(1024)
    specs = {"a": models.WIDER, "b": models.NARROWER, "c": PartitionSpec()}
    on = programs.mesh(chips.devices("v5e:4x4"), 4)
    return programs.update(cases.every_optimizer()[name], params, specs, on)


@pytest.mark.parametrize("name", optimizers.ours())
def test_on_a_mesh(name):
    """No update waits for an all-reduce; for whole leaves they are of one number for each.

    There is one per axis of the mesh. With phi="factored" there is one more, because the two
    matrices are split differently. The mean of rows is made of rows, which one matrix adds up over
    the first axis of the mesh and the other over the second.
    """
    compiled = sharded(name)
    assert not compiled.waits
    assert compiled.copies == 0
    reduces = compiled.program.all_reduces()
    assert len(reduces) == {"none": 0, "factored": 3}.get(name.split(",")[0], 2)
    if name.startswith(("max", "mean")):
        assert compiled.program.reduced() <= len(reduces) * compiled.leaves


def test_on_a_mesh_factored_rms_waits():
    assert sharded(cases.FACTORED).waits
