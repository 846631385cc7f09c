"""The ways of running steps: (step, carry, grads) -> updates, where step(carry, g) -> (carry, u).

A carry is a dict with an entry for each optimizer, and so is u.
"""

import jax
import jax.numpy as jnp
from common import assert_same_bits, unstack
from jax.experimental import checkify


def eager(step, carry, grads):
    updates = []
    for g in grads:
        carry, u = step(carry, g)
        updates.append(u)
    return updates


def jitted(step, carry, grads):
    return eager(jax.jit(step), carry, grads)


def compiled_once(step, carry, grads):
    step = jax.jit(step)
    updates = eager(step, carry, grads)
    assert step._cache_size() == 1
    return updates


def donated(step, carry, grads):
    carry = jax.tree.map(jnp.copy, carry)  # for parameters are in it several times
    return eager(jax.jit(step, donate_argnums=0), carry, grads)


def scanned(step, carry, grads):
    stacked = jax.tree.map(lambda *g: jnp.stack(g), *grads)
    _, updates = jax.jit(lambda c, g: jax.lax.scan(step, c, g))(carry, stacked)
    return unstack(updates, len(grads))


def not_numbers(g):
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), g)


def in_cond(step, carry, grads):
    """Before each step one that is not taken."""

    @jax.jit
    def maybe(carry, g, taken):
        u = jax.tree.map(lambda u: jnp.zeros(u.shape, u.dtype), jax.eval_shape(step, carry, g)[1])
        return jax.lax.cond(taken, step, lambda c, g: (c, u), carry, g)

    return eager(lambda c, g: maybe(maybe(c, not_numbers(g), False)[0], g, True), carry, grads)


def beside_another(over):
    """Beside a second copy with twice the gradients."""

    def run(step, carry, grads):
        twice = [jax.tree.map(lambda x: jnp.stack([x, 2 * x]), g) for g in grads]
        carry = jax.tree.map(lambda x: jnp.stack([x, x]), carry)
        return [jax.tree.map(lambda u: u[0], u) for u in eager(over(step), carry, twice)]

    return run


def checked(step, carry, grads):
    step = jax.jit(checkify.checkify(step, errors=checkify.all_checks))

    def one(carry, g):
        error, out = step(carry, g)
        error.throw()
        return out

    return eager(one, carry, grads)


def rejecting(step, carry, grads):
    """Before each step one that is rejected."""
    step = jax.jit(step)

    def one(carry, g):
        states = [{k: s.inner_state for k, (_, s) in carry.items()}]
        carry, _ = step(carry, not_numbers(g))
        states.append({k: s.inner_state for k, (_, s) in carry.items()})
        jax.tree.map(assert_same_bits, *states)
        return step(carry, g)

    return eager(one, carry, grads)


# Compiled, jax.jit has a test of its own, with every setting.
RUNS = {
    "eager": ("Each operation runs alone, without `jax.jit`.", eager),
    "jax.jit, donated": ("The state is updated in place.", donated),
    "jax.lax.scan": ("All steps are one program.", scanned),
    "jax.lax.cond": ("A step that is not taken changes nothing.", in_cond),
    "jax.vmap": (
        "Each copy has a state of its own.",
        beside_another(lambda step: jax.jit(jax.vmap(step))),
    ),
    "jax.pmap": ("Each copy is on a device of its own.", beside_another(jax.pmap)),
    "checkify": (
        "With `all_checks` it finds no NaN, no division by 0 and no index out of range.",
        checked,
    ),
}
