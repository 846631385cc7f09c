"""Queues and momentum in fewer bits: how far updates are off, and that nothing overflows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import make_grads, rings, run
from reference import adashift as reference_adashift

from adashift_optax import scale_by_adashift

# Largest error of an update, relative to the terms summed, that rounding to nearest can cause:
# half a unit in the last place of m, and for phi="none" of sqrt(v) too.
ROUNDING = {
    "float32": 2.0**-24,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-11,
    "float8_e4m3fn": 2.0**-4,
    "float8_e5m2": 2.0**-3,
}


def relative_errors(dtype, phi, scale=1.0):
    grads = [{"w": scale * g["w"]} for g in make_grads(60, {"w": (64, 32)}, np.float32)]
    updates = run(scale_by_adashift(5, phi=phi, queue_dtype=dtype), grads)
    want, scales = reference_adashift([g["w"] for g in grads], 5, 0.9, 0.999, 1e-10, phi)
    for u, w, s in zip(updates[5:], want[5:], scales[5:], strict=True):
        assert np.all(np.isfinite(u["w"]))
        yield np.abs(u["w"] - w) / s


@pytest.mark.parametrize("phi", ["max", "none"])
@pytest.mark.parametrize("dtype", ROUNDING)
def test_error_against_float64(dtype, phi):
    errors = np.array(list(relative_errors(dtype, phi)))
    bound = ROUNDING[dtype] * (1 if phi == "max" else 2)
    assert np.quantile(errors, 0.99) < bound + 1e-6
    if dtype != "float32":  # and it is this dtype that was used, not a wider one
        assert np.max(errors) > ROUNDING[dtype] / 10


@pytest.mark.parametrize(("dtype", "digits"), [("bfloat16", 8), ("float16", 11)])
@pytest.mark.parametrize(("window", "n"), [("sliding", 10), ("hopping", 10), ("ema", 1)])
def test_error_of_a_narrow_momentum(window, n, dtype, digits):
    """What the docstring says of b1 = 0.9: 0.4 % and 0.05 % of the updates' root mean square.

    One rounding to nearest is 2^-(digits + 1) of m at most, and they add up as noise does.
    """
    grads = [{"w": g["w"]} for g in make_grads(100, {"w": (64, 32)}, np.float32)]
    updates = run(scale_by_adashift(n, window=window, mu_dtype=dtype), grads)
    args = [g["w"] for g in grads], n, 0.9, 0.999, 1e-10, "max"
    want = np.array(reference_adashift(*args, window=window)[0])
    error = np.sqrt(np.mean((np.array([u["w"] for u in updates]) - want) ** 2 / np.mean(want**2)))
    assert 0.5 < error * 2.0**digits < 1.1


def test_momentum_that_float16_cannot_hold():
    """Too large it is the largest number, and so the update is finite."""
    grads = [{"w": np.full(3, 1e6, np.float32)}] * 5
    updates = run(scale_by_adashift(2, mu_dtype="float16"), grads)
    np.testing.assert_allclose(updates[-1]["w"], 65504 / 1e6, rtol=1e-5)
    updates = run(scale_by_adashift(1, window="ema", mu_dtype="float16"), grads)
    np.testing.assert_allclose(updates[-1]["w"], 1, rtol=1e-3)


def test_momentum_in_the_dtype_of_the_ema_of_optax():
    """The same up to rounding: Optax makes the update of what it has not rounded yet."""
    grads = make_grads(20, {"w": (64, 32)}, np.float32)
    ours = run(scale_by_adashift(1, window="ema", mu_dtype="bfloat16"), grads)
    ema = optax.ema(0.9, debias=False, accumulator_dtype=jnp.bfloat16)
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.chain(scale_by_adashift(1, b1=0), ema), grads)
    for t in range(2, 21):
        want = theirs[t - 1]["w"] / (1 - 0.9 ** (t - 1))
        error = np.linalg.norm(ours[t - 1]["w"] - want) / np.linalg.norm(want)
        assert 2.0**-11 < error < 2.0**-6  # Optax multiplies in bfloat16, too


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("dtype", ["float16", "float8_e4m3fn", "float8_e5m2"])
def test_scaled_blocks_neither_overflow_nor_vanish(dtype, scale):
    errors = np.array(list(relative_errors(dtype, "max", scale)))
    assert np.quantile(errors, 0.99) < ROUNDING[dtype]


@pytest.mark.parametrize("block_axes", [None, (1, 2)])
def test_every_block_has_its_own_scale(block_axes):
    """Layers whose gradients differ by 1e12 keep their precision if each is a block."""
    grads = make_grads(20, {"w": (2, 8, 8)}, np.float32)
    for g in grads:
        g["w"][1] *= 1e-12
    tx = scale_by_adashift(3, block_axes=block_axes, queue_dtype="float8_e5m2")
    u = run(tx, grads)[-1]["w"]
    assert np.all(u[0] != 0)
    assert np.any(u[1] != 0) == (block_axes is not None)


@pytest.mark.parametrize("dtype", [None, *ROUNDING])
def test_what_enters_the_window_is_what_leaves_it(dtype):
    """After n zero gradients m is 0, but for the rounding of its own recurrence."""
    grads = make_grads(30, {"w": (16, 16)}, np.float32)
    grads += [{"w": np.zeros((16, 16), np.float32)}] * 10
    tx = scale_by_adashift(10, queue_dtype=dtype)
    state = tx.init(grads[0])
    update = jax.jit(tx.update)
    for g in grads:
        _, state = update(g, state)
    assert np.max(np.abs(state.mu["w"])) < 1e-6


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_block_that_is_not_finite(dtype):
    """The bad element shows it, and others of its block stay finite."""
    tx = scale_by_adashift(2, queue_dtype=dtype)
    grads = [{"w": np.ones(4, np.float32)} for _ in range(12)]
    grads[5]["w"][0] = np.nan
    grads[8]["w"][1] = 3e38
    updates = np.array([u["w"] for u in run(tx, grads)])
    assert np.all(np.isnan(updates[5:, 0]))
    assert np.all(np.isfinite(updates[:, 1:]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e5m2"])
def test_float64_gradients_in_a_narrow_queue(dtype, x64):
    grads = [{"w": np.full(3, 1e200 * (1 + i % 2))} for i in range(12)]
    updates = run(scale_by_adashift(2, 0.5, queue_dtype=dtype), grads)
    assert np.all(np.isfinite([u["w"] for u in updates]))
    want, _ = reference_adashift([g["w"] * 1e-200 for g in grads], 2, 0.5, 0.999, 1e-10, "max")
    assert updates[-1]["w"][0] == 0  # its square overflows even there, so it has no scale
    updates = run(
        scale_by_adashift(2, 0.5, queue_dtype=dtype), [{"w": g["w"] * 1e-100} for g in grads]
    )
    np.testing.assert_allclose(updates[-1]["w"], want[-1], rtol=ROUNDING[dtype])


def test_held_as_bits():
    """XLA on CPU would widen a whole bfloat16 ring in order to write one slot of it."""
    params = {"w": jnp.ones((4, 4))}
    for dtype, held in [("float32", "float32"), ("bfloat16", "uint16"), ("float8_e5m2", "uint8")]:
        state = scale_by_adashift(3, queue_dtype=dtype).init(params)
        assert rings(state.queue)["w"].dtype == held
        if dtype.startswith("float8"):
            assert state.queue.scale[0].shape == (4, 1)
