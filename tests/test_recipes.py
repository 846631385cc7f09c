"""Recipes: what to write in the place of an argument, and what a state can be used for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import settings
from common import assert_same_bits, make_grads, run

from adashift_optax import scale_by_adashift


@pytest.mark.slow
def test_a_clip_behind_the_scale(x64):
    """Between the direction and the rate: no update is larger than the rate."""
    grads = make_grads(9)
    direction = scale_by_adashift(n=2, phi="none")
    tx = optax.chain(direction, optax.clip(0.9), optax.scale_by_learning_rate(0.1))
    with jax.numpy_dtype_promotion("standard"):
        updates = run(tx, grads)
    for leaf in grads[0]:
        want, _ = reference.adashift([g[leaf] for g in grads], 2, phi="none")
        clipped = -0.1 * np.clip(want, -0.9, 0.9)
        np.testing.assert_allclose([u[leaf] for u in updates], clipped, 1e-12, 1e-15)


@pytest.mark.slow
def test_a_parameter_that_is_added_in_mid_run():
    """Old parameters go on and the new one starts: each as it would alone, bit for bit.

    9 old leaves are more than one vector of v.
    """
    old, new = {f"w{i}": jnp.ones((i + 1, 2)) for i in range(9)}, {"w4b": jnp.ones((3, 2))}
    labels = dict.fromkeys(old, "old") | dict.fromkeys(new, "new")
    names = ("max", "none bfloat16", "factored bfloat16")
    txs = {name: settings.optimizer(name) for name in names}
    both = {n: optax.partition({"old": tx, "new": tx}, labels) for n, tx in txs.items()}

    def gradients(t, params):
        return jax.tree.map(lambda p: jax.random.normal(jax.random.key(t), p.shape), params)

    def init(txs, params):
        return {name: tx.init(params) for name, tx in txs.items()}

    def stepper(txs, params):
        def step(grads, states):
            pairs = {name: tx.update(grads, states[name], params) for name, tx in txs.items()}
            return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

        return jax.jit(step)

    of_old, of_new, of_both = stepper(txs, old), stepper(txs, new), stepper(both, old | new)
    state, alone, together = init(txs, old), init(txs, new), init(both, old | new)
    for t in range(12):
        _, state = of_old(gradients(t, old), state)
    for name, whole in together.items():
        group = jax.tree.structure(whole.inner_states["old"])
        groups = whole.inner_states | {"old": group.unflatten(jax.tree.leaves(state[name]))}
        together[name] = whole._replace(inner_states=groups)
    for t in range(12, 25):
        grads = gradients(t, old | new)
        updates, together = of_both(grads, together)
        expected, state = of_old({k: grads[k] for k in old}, state)
        started, alone = of_new({k: grads[k] for k in new}, alone)
        for name in txs:
            jax.tree.map(assert_same_bits, updates[name], expected[name] | started[name])


def test_rows_of_one_square_parameter_are_no_columns():
    state = scale_by_adashift(n=1, block_axes=(0,)).init(jnp.ones((4, 4)))
    with pytest.raises(ValueError, match="must be of one optimizer"):
        scale_by_adashift(n=1, block_axes=(1,)).update(jnp.ones((4, 4)), state)
