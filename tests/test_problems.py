"""The counterexamples: their published slopes, and what the literature says happens on them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import adashift, adashift_factored
from adashift_optax.problems import sequential, stochastic, trajectory

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


def test_slopes():
    """Of the stochastic one C with probability (1 + d) / (C + 1), else -1: on average d."""
    problem, key = stochastic(), jax.random.key(0)
    slopes = jax.vmap(lambda key: problem.loss(1.0, 1, key))(jax.random.split(key, 200_000))
    assert set(np.unique(slopes)) == {101.0, -1.0}
    rare = 1.02 / 102
    assert abs(np.mean(slopes == 101) - rare) < 5 * np.sqrt(rare / len(slopes))
    np.testing.assert_allclose(101 * rare - (1 - rare), 0.02, rtol=1e-12)
    problem = sequential()
    slopes = np.array([problem.loss(1.0, t, key) for t in range(1, 203)])
    assert np.flatnonzero(slopes == 1010).tolist() == [0, 101]
    assert set(slopes) == {1010.0, -10.0}
    assert slopes[:101].sum() == 10
    assert (problem.low, problem.high, problem.optimum) == (-1, 1, -1)


def test_trajectory_is_the_plain_loop():
    """Optax by hand, step by step, with the projection."""
    problem, key, tx = sequential(d=5, C1=60.0), jax.random.key(0), optax.adam(0.3)
    x, wanted = jnp.asarray(0.0), []
    state = tx.init(x)
    for t in range(1, 31):
        update, state = tx.update(jnp.asarray(60.0 if t % 5 == 1 else -10.0), state)
        x = jnp.clip(x + update, -1, 1)
        wanted.append(float(x))
    assert min(wanted) < -0.9 or max(wanted) == 1  # the bound was met
    for every in (1, 10):
        found = trajectory(problem, tx, 30, key, every)
        np.testing.assert_allclose(found, wanted[every - 1 :: every], rtol=1e-5, atol=1e-6)


def test_seeds_by_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    run = jax.jit(lambda key: trajectory(stochastic(), adashift(1e-3, n=2), 500, key, 100))
    each = jnp.stack([run(key) for key in keys])
    chex.assert_trees_all_close(jax.jit(jax.vmap(run))(keys), each, rtol=1e-4, atol=1e-6)


def test_who_goes_the_wrong_way():
    """Adam does, and adashift_factored, which on one element is Adam; the paper's rule does not."""

    def ends(make, problem, steps, keys, *args, **kwargs):
        tx = make(*args, **kwargs)
        run = jax.vmap(lambda key: trajectory(problem, tx, steps, key, steps)[-1])
        return np.asarray(jax.jit(run)(keys))

    def rate(count):
        return 1 / jnp.sqrt(1.0 + count)

    keys = jax.random.split(jax.random.key(1), 8)
    wrong, right = {}, {}
    for make in (optax.adam, adashift_factored, adashift):
        wrong[make] = ends(make, sequential(), 20_000, keys[:1], rate, b1=0.9, b2=0.99)[0]
        right[make] = ends(make, stochastic(), 100_000, keys, 1e-3, b1=0.9, b2=0.999)
    for make in (optax.adam, adashift_factored):
        assert wrong[make] > 0.9
        # On the same draws, so that the difference is much less noisy than either.
        assert np.all(right[make] - right[adashift] > 0.3)
        assert np.mean(right[make]) > 0.1
    assert wrong[adashift] < -0.9
