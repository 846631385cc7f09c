"""Optimizers that other code makes or splits: injection without static arguments, empty groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from test_masks import BOOLS, DECAY, PLAIN, RATE, VARIANTS, N, assert_close, matrices

from adashift_optax import STATIC_ARGS, adashift, adashiftw, scale_by_adashift


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def first_two(tx, params, steps=12):
    """Updates of the first and of the last step under jit: is there decay, are there steps."""
    state, update = tx.init(params), jax.jit(tx.update)
    found = []
    for _ in range(steps):
        updates, state = update(params, state, params)
        found.append(updates)
    return found[0], found[-1]


INJECTED = [{}, {"b1": 0}, {"window": "hopping"}, {"phi": "none", "clip_value": 1.0}]
INJECTED += [{"queue_dtype": "bfloat16"}, {"b2": 0.9, "eps": 1e-8}, {"block_axes": (0,)}]
INJECTED += [{"window": "ema"}, {"mu_dtype": "bfloat16"}, {"block_axes": "outputs"}]


@pytest.mark.parametrize("kwargs", INJECTED, ids=str)
@pytest.mark.parametrize("make", [adashift, adashiftw])
def test_injection_by_a_library_that_knows_no_static_args(make, kwargs):
    """As libraries do it that wrap the class of optimizer they are given; n stays at 10."""
    kwargs = {"learning_rate": RATE, **kwargs}
    found = first_two(optax.inject_hyperparams(make)(**kwargs), PLAIN)
    assert_close(found, first_two(make(**kwargs), PLAIN))
    assert np.all(np.abs(found[1]["w"]) > 0.9 * RATE)
    state = optax.inject_hyperparams(make)(**kwargs).init(PLAIN)
    assert "learning_rate" in state.hyperparams
    assert "n" not in state.hyperparams


def test_injection_of_scale_by_adashift():
    found = first_two(optax.inject_hyperparams(scale_by_adashift)(), PLAIN)
    assert_close(found, first_two(scale_by_adashift(), PLAIN))


def test_weight_decay_may_be_a_schedule():
    """As in optax.adamw: of the number of earlier updates, masked or not."""

    def schedule(count):
        return DECAY * jnp.float32(count)

    for mask, of_b in ((None, 1), (BOOLS, 0), (matrices, 0)):
        tx = adashiftw(RATE, 1, weight_decay=schedule, mask=mask)
        state = tx.init(PLAIN)
        for t in range(3):
            updates, state = tx.update(PLAIN, state, PLAIN)
            decay, step = RATE * DECAY * t, RATE * (t >= 1)
            np.testing.assert_allclose(updates["w"], -(step + decay), rtol=1e-5)
            np.testing.assert_allclose(updates["b"], -(step + decay * of_b), rtol=1e-5)


@pytest.mark.parametrize("static", [STATIC_ARGS, (), ("mask",)])
def test_a_function_for_a_mask_under_injection(static):
    """Never called as a schedule: with STATIC_ARGS it works, else it works or says what to do."""
    optax.inject_hyperparams(adashift, STATIC_ARGS)  # which asks for a subset of its arguments
    message = None
    try:
        tx = optax.inject_hyperparams(adashiftw, static)(
            learning_rate=RATE, weight_decay=DECAY, mask=matrices
        )
        found, _ = first_two(tx, PLAIN, steps=1)
    except (TypeError, ValueError) as error:
        message = str(error)
    if message:
        assert "mask" not in static, message
        assert "STATIC_ARGS" in message
        assert "mask" in message
        return
    np.testing.assert_allclose(found["w"], -RATE * DECAY, rtol=1e-5)
    assert not np.any(found["b"])


QUEUED = {**VARIANTS, "float8, axes": {"queue_dtype": "float8_e5m2", "block_axes": (0,)}}
EMPTY = {
    "no parameters": (lambda tx: tx, {}),
    "an empty group": (
        lambda tx: optax.partition({"ours": tx, "none": optax.sgd(1.0)}, lambda p: "none"),
        PLAIN,
    ),
    "all masked": (lambda tx: optax.masked(tx, lambda p: {"w": False, "b": False}), PLAIN),
}


@pytest.mark.parametrize("case", EMPTY)
def test_a_state_without_parameters_can_be_saved(case, tmp_path):
    """Orbax refuses arrays of size 0."""
    wrap, params = EMPTY[case]
    txs = {name: wrap(adashift(RATE, N, **kwargs)) for name, kwargs in QUEUED.items()}
    states = {name: tx.init(params) for name, tx in txs.items()}
    for name, tx in txs.items():
        updates, states[name] = tx.update(params, states[name], params)
        assert jax.tree.structure(updates) == jax.tree.structure(params)
    zero = [k for k, state in states.items() if any(not x.size for x in jax.tree.leaves(state))]
    assert zero == []
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "states", states)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "states", states)
    for name, tx in txs.items():
        tx.update(params, restored[name], params)
