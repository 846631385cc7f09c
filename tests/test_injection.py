"""Optimizers that other code makes: optax.inject_hyperparams with and without static arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adashift_optax import STATIC_ARGS, adashift, adashift_factored, adashiftw

RATE, DECAY, STEPS = 0.1, 0.5, 12
PARAMS = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}

pytestmark = pytest.mark.usefixtures("standard_promotion")


def updates_of(txs, params=PARAMS):
    """Of the gradients `params`, those of every optimizer at each step, in one program."""

    def all_of(grads):
        def step(states, _):
            pairs = [tx.update(grads, state, params) for tx, state in zip(txs, states, strict=True)]
            return [s for _, s in pairs], [u for u, _ in pairs]

        return jax.lax.scan(step, [tx.init(params) for tx in txs], length=STEPS)[1]

    return jax.jit(all_of)(params)


def assert_close(trees, others):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), trees, others)


INJECTED = [
    (adashift, {"b1": 0, "queue_dtype": "bfloat16"}),
    (adashift, {"phi": "none", "b2": 0.9, "eps": 1e-8}),
    (adashiftw, {"block_axes": (0,), "phi": "mean", "weight_decay": DECAY}),
    (adashift_factored, {"weight_decay": DECAY}),
    (adashift_factored, {"mu_dtype": "bfloat16"}),
    (adashift_factored, {"b1": 0}),
]


@pytest.mark.slow
def test_a_library_that_knows_no_static_args():
    """As libraries do it that wrap the class of optimizer they are given; n stays at 10."""
    plain = [make(RATE, **kwargs) for make, kwargs in INJECTED]
    wrapped = [optax.inject_hyperparams(make)(RATE, **kwargs) for make, kwargs in INJECTED]
    found = updates_of(wrapped)
    assert_close(found, updates_of(plain))
    assert all(np.all(np.abs(u["w"][-1]) > 0.9 * RATE) for u in found)
    for tx in wrapped:
        assert not {"n", "phi", "mu_dtype", "queue_dtype"} & {*tx.init(PARAMS).hyperparams}


def test_static_arguments():
    """Any n by STATIC_ARGS, which are arguments of `adashift` that are no numbers to inject."""
    static = optax.inject_hyperparams(adashift, static_args=STATIC_ARGS)
    factored = optax.inject_hyperparams(adashift_factored, static_args=("mu_dtype",))
    queue = dict(n=3, phi=jnp.max, queue_dtype=jnp.bfloat16, block_axes=lambda path, x: (0,))
    wrapped = [static(RATE, **queue), factored(RATE, mu_dtype=jnp.bfloat16)]
    plain = [adashift(RATE, **queue), adashift_factored(RATE, mu_dtype=jnp.bfloat16)]
    assert_close(updates_of(wrapped), updates_of(plain))


@pytest.mark.slow
@pytest.mark.parametrize("make", [adashift, adashift_factored])
def test_injected_numbers_can_change(make):
    """The rate during training, and a schedule of b2."""
    static = STATIC_ARGS if make is adashift else ()
    extra = {"n": 1} if make is adashift else {}
    tx = optax.inject_hyperparams(make, static_args=static)(
        RATE, b2=optax.linear_schedule(0.9, 0.99, 5), **extra
    )
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = tx.update(PARAMS, state, PARAMS)
    assert state.hyperparams["b2"] == pytest.approx(0.9 + 2 * 0.09 / 5)
    low = state._replace(hyperparams={**state.hyperparams, "learning_rate": jnp.float32(0.01)})
    high, low = (tx.update(PARAMS, s, PARAMS)[0]["w"] for s in (state, low))
    np.testing.assert_allclose(high, 10 * low, rtol=1e-5)


def matrices(params):
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 2**-8)])
def test_weight_decay_may_be_a_schedule(dtype, rtol):
    """As in optax.adamw: of the number of earlier updates, masked or not, and never narrow.

    A mask sees the dtypes of the parameters.
    """

    def schedule(count):
        return DECAY * count

    def typed(tree):
        return jax.tree.map(lambda x: x.ndim > 1 and x.dtype == dtype, tree)

    params = {**PARAMS, "w": PARAMS["w"].astype(dtype)}
    masks = (None, {"w": True, "b": False}, typed)
    paper = [adashiftw(RATE, n=1, weight_decay=schedule, mask=mask) for mask in masks]
    factored = [adashift_factored(RATE, 0, weight_decay=schedule, mask=mask) for mask in masks]
    for i, updates in enumerate(updates_of(paper + factored, params)):
        updates = jax.tree.map(lambda u: u.astype("float32"), updates)
        for t in range(3):
            decay, step = RATE * DECAY * t, RATE * (t >= 1 or i >= 3)
            np.testing.assert_allclose(updates["w"][t], -(step + decay), rtol=rtol)
            np.testing.assert_allclose(updates["b"][t], -(step + decay * (i in (0, 3))), rtol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "static"), [(adashiftw, STATIC_ARGS), (adashift_factored, ())])
def test_a_function_for_a_mask_under_injection(make, static):
    """Never called as a schedule: it is to be static, and the message says so."""

    def injected(*static):
        tx = optax.inject_hyperparams(make, static)(RATE, weight_decay=DECAY, mask=matrices)
        return tx.update(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(PARAMS), PARAMS)[0]

    with pytest.raises((TypeError, ValueError), match=r"(?s)mask.*static_args"):
        injected(*static)
    updates = injected(*static, "mask")
    np.testing.assert_allclose(updates["w"], -RATE * DECAY, rtol=1e-5)
    assert not np.any(updates["b"])
