"""Finite gradients give finite updates, and what has no scale yet stays where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_cases as cases
import reference

from adashift_optax import scale_by_adashift

DTYPES = ["float16", "bfloat16", "float32", "float64"]


def steps(tx, grads):
    state, updates = tx.init(grads[0]), []
    step = jax.jit(tx.update)
    for g in grads:
        u, state = step(g, state)
        updates.append(np.asarray(u, np.float64))
    return updates, state


@pytest.mark.parametrize("window", ["sliding", "ema"])
@pytest.mark.parametrize("phi", ["max", "mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_scale_no_update(phi, dtype, window, x64):
    """A block that was 0 so far does not move on its first gradient, but n steps later."""
    grads = [jnp.zeros(3, dtype)] * 5 + [jnp.ones(3, dtype)] * 6
    updates, _ = steps(scale_by_adashift(2, phi=phi, window=window), grads)
    for t, u in enumerate(updates):
        assert np.all(u != 0) == (t >= 7), (t, u)
        assert np.all(np.isfinite(u))


@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_rows_that_first_appear_after_100_steps(dtype, x64):
    """Sparse rows, elementwise: the published ports divide by eps here."""
    rng = np.random.default_rng(0)
    grads = []
    for t in range(140):
        g = np.zeros((6, 4))
        rows = rng.integers(0, 3 if t < 100 else 6, 2)
        g[rows] = rng.standard_normal((2, 4))
        grads.append(jnp.asarray(g, dtype))
    updates, _ = steps(scale_by_adashift(3, phi="none", clip_value=10.0), grads)
    assert np.all(np.isfinite(updates))
    assert not np.any([u[3:] for u in updates[:103]])
    assert np.any(updates[-1][3:])
    assert np.max(np.abs(updates)) <= 10


@pytest.mark.parametrize("phi", ["max", "mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "kwargs"),
    [(1, {}), (3, {}), (1, {"window": "ema"}), (3, {"window": "ema", "warm_start": True})],
    ids=str,
)
def test_extreme_finite_gradients(n, kwargs, phi, dtype, x64):
    """From the smallest to the largest number of each dtype, with zeros between: all finite."""
    info = jnp.finfo(dtype)
    values = [0, info.tiny, 1, info.max, -info.max, info.max, 0, info.smallest_subnormal, 1] * 4
    rng = np.random.default_rng(0)
    grads = [jnp.asarray(rng.permutation([v, 0, v / 3 if v else 0]), dtype) for v in values]
    updates, state = steps(scale_by_adashift(n, phi=phi, **kwargs), grads)
    assert np.all(np.isfinite(updates))
    # Only a delayed square may overflow; it is left out when it would enter v.
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state._replace(nu_queue=None)))


def test_an_update_too_large_for_its_dtype_is_the_largest_number():
    grads = [jnp.full(2, 6e-8, jnp.float16), jnp.array([1, -1], jnp.float16)]
    updates, _ = steps(scale_by_adashift(1, phi="none"), grads)
    np.testing.assert_array_equal(updates[-1], [65504, -65504])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("phi", ["max", "none"])
@pytest.mark.parametrize("n", [1, 2])
def test_a_gradient_that_is_not_finite(bad, phi, n):
    """It shows in the update, even clipped, and leaves no trace in v."""
    clean = [jnp.ones(2)] * 12
    dirty = [*clean[:4], jnp.array([bad, 1.0]), *clean[5:]]
    tx = scale_by_adashift(n, phi=phi, clip_value=2.0)
    updates, state = steps(tx, dirty)
    assert not np.isfinite(updates[4][0])
    assert np.isfinite(updates[4][1])
    np.testing.assert_allclose(state.nu, steps(tx, clean)[1].nu, rtol=1e-6)


def test_float32_inside_whatever_the_gradients_are():
    """v of float16 gradients of 1e-4 would be 1e-8: below float16's smallest number."""
    updates, _ = steps(scale_by_adashift(2), [jnp.full(3, 1e-4, jnp.float16)] * 6)
    np.testing.assert_allclose(updates[-1], 1, rtol=1e-3)


VARIANTS = [{"phi": phi, "window": w} for phi in cases.PHIS for w in ("sliding", "hopping")]


STEPS = 20_000


@pytest.mark.parametrize(("b2", "rtol"), [(0.999, 1.5e-6), (0.9999, 1e-5)])
def test_the_recurrence_has_no_bias(b2, rtol):
    """After many steps v is the weighted mean of the squares: b2 v in float32 is off by more.

    With b1 = 0 the update is g / sqrt(vhat); the reference here is the recurrence in float64.
    """
    n, grads = 4, np.random.default_rng(0).standard_normal((STEPS, 3)).astype(np.float32)
    make = {"n": n, "b1": 0, "b2": b2, "eps": 0}
    txs = [scale_by_adashift(**make, **cases.library(kwargs)) for kwargs in VARIANTS]

    @jax.jit
    def run(grads):
        def step(states, g):
            pairs = [tx.update(g, state) for tx, state in zip(txs, states, strict=True)]
            return [state for _, state in pairs], None

        states, _ = jax.lax.scan(step, [tx.init(grads[0]) for tx in txs], grads[:-1])
        return [tx.update(grads[-1], state)[0] for tx, state in zip(txs, states, strict=True)]

    squares = grads.astype(float) ** 2
    blocks = {"max": np.max, "mean": np.mean, "ordered": cases.ordered(np)}
    for kwargs, u in zip(VARIANTS, run(grads), strict=True):
        last = STEPS - n
        if kwargs == {"phi": "none", "window": "hopping"}:
            last = reference.last_before_previous_segment(n, STEPS)
        v = 0.0
        for square in squares[:last]:
            x = blocks[kwargs["phi"]](square) if kwargs["phi"] in blocks else square
            v = b2 * v + (1 - b2) * x
        want = grads[-1] / np.sqrt(v / (1 - b2**last))
        np.testing.assert_allclose(u, want, rtol=rtol, err_msg=str(kwargs))
