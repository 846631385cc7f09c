"""warm_start=True: the first n updates are made without a delay, so that none is zero."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import optimistix
import pytest
from common import SHAPES, make_grads, run, worst_error

from adashift_optax import adashift, scale_by_adashift

WINDOWS = ("sliding", "hopping", "ema")


@pytest.mark.parametrize("phi", ["max", "mean", "none", "factored"])
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("b1", [0.9, 0])
def test_equals_reference(phi, n, window, b1, x64):
    grads = make_grads(4 * n + 5, seed=3)
    updates = run(scale_by_adashift(n, b1, phi=phi, window=window, warm_start=True), grads)
    for name in SHAPES:
        args = grads, name, n, b1, 0.999, 1e-10, phi
        assert worst_error(updates, *args, window=window, warm=True) < 1e-12


@pytest.mark.parametrize("n", [1, 4])
def test_the_first_updates_are_those_of_adam(n, x64):
    """Of elements, until t = n: the same means of the same gradients."""
    grads = make_grads(n, seed=4)
    ours = run(scale_by_adashift(n, 0.9, 0.99, 1e-8, phi="none", warm_start=True), grads)
    with jax.numpy_dtype_promotion("standard"):
        theirs = run(optax.scale_by_adam(0.9, 0.99, 1e-8), grads)
    for a, b in zip(ours, theirs, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_state_without_a_warm_start_is_refused(window):
    params = {"w": jnp.ones(3)}
    state = scale_by_adashift(3, window=window, warm_start=True).init(params)
    with pytest.raises(ValueError, match="warm_start=True"):
        scale_by_adashift(3, window=window).update(params, state)


def cold_and_warm(make):
    """What `make` gives for an optimizer whose first n updates are zero, and for a warm one."""
    return [make(adashift(0.1, 10, window="ema", warm_start=warm)) for warm in (False, True)]


def test_a_solver_does_not_return_its_start():
    """Its rule is that a small step means convergence, and zero is a small step."""

    def solve(tx):
        solver = optimistix.OptaxMinimiser(tx, rtol=1e-4, atol=1e-4)
        bowl = lambda x, _: jnp.sum((x - 1.0) ** 2)  # noqa: E731
        return optimistix.minimise(bowl, solver, jnp.zeros(3), max_steps=2000)

    cold, warm = cold_and_warm(solve)
    assert cold.result == optimistix.RESULTS.successful
    np.testing.assert_array_equal(cold.value, 0)  # the start, as a success
    assert warm.result == optimistix.RESULTS.successful
    np.testing.assert_allclose(warm.value, 1, atol=0.05)


def test_a_plateau_is_not_seen_in_the_first_steps():
    def scale_after_10_steps(tx):
        tx = optax.chain(tx, optax.contrib.reduce_on_plateau(patience=8))
        params, grad = jnp.ones(3), jax.value_and_grad(lambda x: jnp.sum(x**2))
        state = tx.init(params)
        for _ in range(11):
            value, g = grad(params)
            with jax.numpy_dtype_promotion("standard"):
                updates, state = tx.update(g, state, params, value=value)
            params = optax.apply_updates(params, updates)
        return float(state[-1].scale)

    assert cold_and_warm(scale_after_10_steps) == [pytest.approx(0.1), 1.0]


def test_early_stopping_does_not_stop():
    """Of Flax: no improvement in so many steps."""
    from flax.training.early_stopping import EarlyStopping

    def stopped_at(tx):
        params, stop = jnp.ones(3), EarlyStopping(min_delta=1e-6, patience=5)
        state = tx.init(params)
        for t in range(1, 31):
            value, g = jax.value_and_grad(lambda x: jnp.sum(x**2))(params)
            stop = stop.update(float(value))
            if stop.should_stop:
                return t
            updates, state = tx.update(g, state, params)
            params = optax.apply_updates(params, updates)
        return None

    cold, warm = cold_and_warm(stopped_at)
    assert cold is not None
    assert cold <= 10
    assert warm is None or warm > 10


@pytest.mark.parametrize(("warm", "first"), [(False, 44), (True, 4)])
def test_the_first_update_under_multi_steps(warm, first):
    """Of the n = 10 zero updates each costs k = 4 calls."""
    tx = optax.MultiSteps(adashift(0.1, 10, warm_start=warm), 4)
    params = {"w": jnp.ones(3)}
    state, update = tx.init(params), jax.jit(tx.update)
    moved = []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(45):
            updates, state = update(params, state, params)
            moved.append(bool(np.any(updates["w"])))
    assert moved.index(True) + 1 == first
