"""The counterexamples: their published slopes, and what the literature says happens on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import adashift
from adashift_optax.problems import sequential, stochastic, trajectory


def test_stochastic_slopes():
    """C with probability (1 + d) / (C + 1), else -1: on average d."""
    problem = stochastic()
    keys = jax.random.split(jax.random.key(0), 200_000)
    slopes = np.asarray(jax.vmap(lambda key: problem.loss(1.0, 1, key))(keys))
    assert set(slopes) == {101.0, -1.0}
    rare = 1.02 / 102
    assert abs(np.mean(slopes == 101) - rare) < 5 * np.sqrt(rare / len(slopes))
    np.testing.assert_allclose(101 * rare - (1 - rare), 0.02, rtol=1e-12)


def test_sequential_slopes():
    problem = sequential()
    slopes = np.array([problem.loss(1.0, t, None) for t in range(1, 203)])
    assert [t for t, slope in enumerate(slopes, start=1) if slope == 1010] == [1, 102]
    assert set(slopes) == {1010.0, -10.0}
    assert slopes[:101].sum() == 10
    assert (problem.low, problem.high, problem.optimum) == (-1, 1, -1)


def test_trajectory_is_the_plain_loop():
    """Optax by hand, step by step, with the projection."""
    problem, key = sequential(d=5, C1=60.0), jax.random.key(0)
    with jax.numpy_dtype_promotion("standard"):
        tx = optax.adam(0.3)
        x, state, wanted = jnp.asarray(0.0), None, []
        state = tx.init(x)
        for t in range(1, 31):
            slope = 60.0 if t % 5 == 1 else -10.0
            update, state = tx.update(jnp.asarray(slope), state)
            x = jnp.clip(x + update, -1, 1)
            wanted.append(float(x))
        np.testing.assert_allclose(trajectory(problem, tx, 30, key), wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            trajectory(problem, tx, 30, key, every=10), wanted[9::10], rtol=1e-5, atol=1e-6
        )
    assert min(wanted) < -0.9 or max(wanted) == 1  # the bound was met


def test_seeds_by_vmap():
    keys = jax.random.split(jax.random.key(0), 3)
    with jax.numpy_dtype_promotion("standard"):
        run = jax.jit(lambda key: trajectory(stochastic(), adashift(1e-3, n=2), 500, key, 100))
        together = jax.jit(jax.vmap(run))(keys)
        for x, key in zip(together, keys, strict=True):
            np.testing.assert_allclose(x, run(key), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("window", ["sliding", "hopping", "ema"])
def test_adam_goes_the_wrong_way_and_adashift_does_not(window):
    def learning_rate(count):
        return 1 / jnp.sqrt(1.0 + count)

    with jax.numpy_dtype_promotion("standard"):
        ends = {}
        for make in (optax.adam, adashift):
            kwargs = {"window": window} if make is adashift else {}
            tx = make(learning_rate, b1=0.9, b2=0.99, **kwargs)
            ends[make] = trajectory(sequential(), tx, 40_000, jax.random.key(0), 40_000)[-1]
        assert ends[optax.adam] > 0.9
        assert ends[adashift] < -0.9
        keys = jax.random.split(jax.random.key(1), 8)
        ends = {}
        for make in (optax.adam, adashift):
            kwargs = {"window": window} if make is adashift else {}
            tx = make(1e-3, b1=0.9, b2=0.999, **kwargs)
            run = jax.vmap(lambda key, tx=tx: trajectory(stochastic(), tx, 100_000, key, 100_000))
            ends[make] = np.asarray(run(keys))
        # On the same draws, so that the difference is much less noisy than either.
        assert np.all(ends[optax.adam] - ends[adashift] > 0.3)
        assert np.mean(ends[optax.adam]) > 0.1


def test_steps_that_do_not_divide():
    with pytest.raises(ValueError, match=r"steps must be a multiple .*steps=7, every=3.*steps=6"):
        trajectory(sequential(), optax.sgd(0.1), 7, jax.random.key(0), every=3)
