"""A parameter that is added in mid-run: the recipe of docs/recipes.md continues the others."""

import jax
import jax.numpy as jnp
import optax
import pytest
from common import adafactors, assert_same_bits

from adashift_optax import adashift

LAYOUTS = {  # one variant for each form that a state can have
    "max": {},
    "none": {"phi": "none"},
    "factored": {"phi": "factored"},
    "axes": {"block_axes": (0,)},
    "hopping": {"window": "hopping"},
    "none, hopping": {"phi": "none", "window": "hopping"},
    "b1=0": {"b1": 0},
    "float16": {"queue_dtype": "float16"},
    "ema, b2 schedule": {"window": "ema", "b2": adafactors},
    "none, ema": {"phi": "none", "window": "ema", "warm_start": True, "mu_dtype": "bfloat16"},
}


def gradients(t, params):
    return jax.tree.map(lambda p: jax.random.normal(jax.random.key(t), p.shape), params)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_old_parameters_go_on_and_the_new_one_starts(layout):
    """Each gets, bit for bit, what it would get alone. 9 old leaves: more than one vector of v."""
    tx = adashift(0.1, n=3, **LAYOUTS[layout])
    old, new = {f"w{i}": jnp.ones((i + 1, 2)) for i in range(9)}, {"w4b": jnp.ones(3)}
    update, state = jax.jit(tx.update), tx.init(old)
    for t in range(5):
        _, state = update(gradients(t, old), state, old)

    labels = dict.fromkeys(old, "old") | dict.fromkeys(new, "new")
    both = optax.partition({"old": tx, "new": tx}, labels)
    together = both.init(old | new)
    group = jax.tree.structure(together.inner_states["old"]).unflatten(jax.tree.leaves(state))
    together = together._replace(inner_states=together.inner_states | {"old": group})

    update_both, alone = jax.jit(both.update), tx.init(new)
    for t in range(5, 12):
        grads = gradients(t, old | new)
        updates, together = update_both(grads, together, old | new)
        expected, state = update({k: grads[k] for k in old}, state, old)
        started, alone = update({k: grads[k] for k in new}, alone, new)
        jax.tree.map(assert_same_bits, updates, expected | started)
