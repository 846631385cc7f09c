"""Queues and momentum in bfloat16: how far updates are off, and what is rounded when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from common import make_grads, run, scan, stack

from adashift_optax import scale_by_adashift, scale_by_adashift_factored

HALF_ULP = 2.0**-8  # relative, of bfloat16's 8 digits, rounded to nearest


@pytest.mark.parametrize("phi", ["max", "none"])
def test_error_of_a_narrow_queue(phi):
    """At most half a unit in the last place of m, and for phi="none" of sqrt(v) too."""
    grads = make_grads(40, {"w": (16, 32)}, np.float32)
    u = np.array(
        [u["w"] for u in run(scale_by_adashift(n=5, phi=phi, queue_dtype="bfloat16"), grads)]
    )
    want, scales = map(np.array, reference.adashift([g["w"] for g in grads], 5, phi=phi))
    errors = np.abs(u - want)[5:] / scales[5:]
    assert np.max(errors) < HALF_ULP * (1 if phi == "max" else 2) + 1e-6
    assert np.max(errors) > HALF_ULP / 10  # and it is this dtype that was used, not a wider one


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_what_enters_the_window_is_what_leaves_it(dtype, x64):
    """After n zero gradients m is 0, but for the rounding of its own recurrence, of any b1."""
    grads = [{"w": 3 + g["w"]} for g in make_grads(1500, {"w": (4, 4)}, np.float32)]
    grads += [{"w": np.zeros((4, 4), np.float32)}] * 10
    for b1 in (0.9, jnp.float64(0.999)):
        tx = scale_by_adashift(b1, n=10, queue_dtype=dtype)
        state = jax.jit(lambda g, tx=tx: scan(tx, g, {"w": g["w"][0]})[1])(stack(grads))
        assert np.max(np.abs(jax.tree.leaves(state.mu)[0])) < 3 * 2e-6


def test_a_narrow_momentum_is_rounded_before_the_update_is_made():
    """Where g_t is 0, s_t is too, and u_t is what the state says: b1 m_t / (1 - b1^(t+1))."""
    tx = scale_by_adashift_factored(0.9, mu_dtype="bfloat16")
    g = jnp.asarray(make_grads(1, {"w": (8, 16)}, np.float32)[0]["w"])
    wide = scale_by_adashift_factored(0.9)
    state, exact = tx.init(g), wide.init(g)
    for t in range(1, 8):
        now = g if t < 4 else jnp.zeros_like(g)
        before = np.asarray(state.mu, float)
        u, state = tx.update(now, state)
        _, exact = wide.update(now, exact)
        mu = np.asarray(state.mu, float)
        if t >= 4:
            np.testing.assert_allclose(u, 0.9 * mu / (1 - 0.9 ** (t + 1)), rtol=1e-5)
            np.testing.assert_allclose(mu, 0.9 * before, rtol=1.001 * HALF_ULP)
    assert state.mu.dtype == jnp.bfloat16
    error = np.abs(mu - exact.mu) / np.abs(exact.mu)
    assert HALF_ULP / 10 < np.max(error) < 4 * HALF_ULP


def test_error_of_a_narrow_momentum():
    """It is below 0.4 % of the updates' root mean square: roundings add up as noise does."""
    grads = make_grads(60, {"w": (16, 32)}, np.float32)
    updates = run(scale_by_adashift_factored(mu_dtype="bfloat16"), grads)
    want = np.array(reference.factored([g["w"] for g in grads])[0])
    error = np.sqrt(np.mean((np.array([u["w"] for u in updates]) - want) ** 2 / np.mean(want**2)))
    assert HALF_ULP / 8 < error < HALF_ULP


@pytest.mark.parametrize("phi", ["max", "none"])
def test_float64_gradients_in_a_narrow_queue(phi, x64):
    """v is of float64 where it is made of the gradients themselves; m is of at most 2^120."""
    grads = [{"w": np.array([1, -1]) * 1e100 * (1 + i % 2)} for i in range(8)]
    u = run(scale_by_adashift(0.5, n=2, phi=phi, queue_dtype="bfloat16"), grads)[-1]["w"]
    assert np.all(np.isfinite(u))
    assert u[0] == -u[1] > 0
    small = [{"w": g["w"] * 1e-100} for g in grads]
    u = run(scale_by_adashift(0.5, n=2, phi=phi, queue_dtype="bfloat16"), small)[-1]["w"]
    want = reference.adashift([g["w"] for g in small], 2, 0.5, phi=phi)[0][-1]
    np.testing.assert_allclose(u, want, rtol=1e-9)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_an_element_that_is_not_finite(dtype):
    """It shows it, and other elements of its block go on as the reference says."""
    grads = [{"w": np.ones(4, np.float32)} for _ in range(12)]
    grads[5]["w"][0], grads[8]["w"][1] = np.nan, 3e38
    tx = scale_by_adashift(n=2, queue_dtype=dtype)
    updates = np.array([u["w"] for u in run(tx, grads)])
    limit = float(np.finfo(np.float32).max) / 2
    want = np.array(reference.adashift([g["w"] for g in grads], 2, limit=limit)[0])
    assert np.all(np.isnan(updates[5:, 0]))
    assert np.all(np.isfinite(updates[:, 1]))
    np.testing.assert_allclose(updates[:, 2:], want[:, 2:], rtol=1e-5)
