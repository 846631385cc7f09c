"""What n updates of zero do to the programs around them; other surprises; what helps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import settings

from adashift_optax import adashift, adashift_factored

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def path_of(tx, steps=30, **extra):
    """x after each step on x^2 from 3, with the start in front, and the last state."""
    tx = optax.with_extra_args_support(tx)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(2 * x, state, x, value=x**2, **extra)
        return (x + updates, state), x

    def run(x):
        (x, state), xs = jax.lax.scan(step, (x, tx.init(x)), length=steps)
        return jnp.append(xs, x), state

    xs, state = jax.jit(run)(jnp.float32(3))
    return np.asarray(xs), state


def first_stop(xs, patience):
    """The step before which early stopping gives up."""
    best, since = np.inf, 0
    for t, x in enumerate(xs[:-1], 1):
        best, since = (x**2, 0) if x**2 < best else (best, since + 1)
        if since == patience:
            return t
    return None


def solved(xs):
    """The step after which a solver takes a small step with a small change of f for the end.

    Optimistix's rule; before the first step its f is infinite.
    """
    for t in range(2, len(xs)):
        if abs(xs[t] - xs[t - 1]) < 1e-6 and abs(xs[t - 1] ** 2 - xs[t - 2] ** 2) < 1e-6:
            return t
    return None


def test_early_stopping_and_solvers():
    """With n = 10 both end before the first step; with n = 1 or factored neither does."""
    found = path_of(adashift(0.01))[0]
    assert first_stop(found, 5) == 6
    assert first_stop(found, 5 + 10) is None
    assert solved(found) == 2
    for tx in (adashift(0.01, n=1), adashift_factored(0.01), optax.adam(0.01)):
        found = path_of(tx)[0]
        assert first_stop(found, 5) is None
        assert solved(found) is None


def test_reduce_on_plateau():
    """With its default patience of 10 it cuts the rate; not with patience + n, or n = 1."""

    def scale(tx, patience=10):
        plateau = optax.contrib.reduce_on_plateau(patience=patience)
        return path_of(optax.chain(tx, plateau))[1][-1].scale

    assert scale(adashift(0.01)) < 1
    assert scale(adashift(0.01), 10 + 10) == 1
    for tx in (adashift(0.01, n=1), adashift_factored(0.01), optax.adam(0.01)):
        assert scale(tx) == 1


@pytest.mark.parametrize("shape", [(2**16, 2**16), (3, 2**31)], ids=str)
def test_leaves_of_2_to_the_31_and_more_elements(shape):
    """They can be traced, in every setting without a function that counts elements in an int32."""
    params = jax.ShapeDtypeStruct(shape, jnp.float32)
    for name in {*settings.SETTINGS} - {"callable", "callable axes"}:
        tx = settings.scale_by(name)
        state = jax.eval_shape(tx.init, params)
        updates, new = jax.eval_shape(tx.update, params, state)
        assert updates.shape == shape
        assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
