"""Programs that watch the steps, and what n updates of zero do to them: docs/moving.md."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import settings

from adashift_optax import adashift, adashift_factored

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]
OTHERS = (adashift(0.01, n=1), adashift_factored(0.01), optax.adam(0.01))


def path_of(tx):
    """x before and after each of 30 steps on x^2 from 3, and the last state."""
    tx = optax.with_extra_args_support(tx)

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(2 * x, state, x, value=x**2)
        return (x + updates, state), x

    x = jnp.float32(3)
    (x, state), xs = jax.jit(lambda c: jax.lax.scan(step, c, length=30))((x, tx.init(x)))
    return np.append(xs, x), state


def gives_up(tx, patience):
    """Whether early stopping does: so many steps without a new lowest loss."""
    losses = path_of(tx)[0] ** 2
    lowest = np.minimum.accumulate(losses)
    since = [t - np.argmax(losses == low) for t, low in enumerate(lowest)]
    return max(since) >= patience


def test_early_stopping():
    """With n = 10 at a patience of 5, not with patience + n; without an idle step not at all."""
    assert gives_up(adashift(0.01), 5)
    assert not gives_up(adashift(0.01), 5 + 10)
    assert not any(gives_up(tx, 5) for tx in OTHERS)


def test_reduce_on_plateau():
    """With its default patience of 10 it cuts the rate; not with patience + n, or n = 1."""

    def scale(tx, patience=10):
        plateau = optax.contrib.reduce_on_plateau(patience=patience)
        return path_of(optax.chain(tx, plateau))[1][-1].scale

    assert scale(adashift(0.01)) < 1
    assert scale(adashift(0.01), 10 + 10) == 1
    assert all(scale(tx) == 1 for tx in OTHERS)


def test_leaves_of_more_than_2_to_the_31_elements():
    """They can be traced, in every setting without a function that counts elements in an int32."""
    params = jax.ShapeDtypeStruct((3, 2**31), jnp.float32)
    for name in {*settings.SETTINGS} - {"callable", "callable axes"}:
        tx = settings.scale_by(name)
        state = jax.eval_shape(tx.init, params)
        assert jax.eval_shape(tx.update, params, state)[0].shape == params.shape
