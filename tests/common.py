"""What tests share: gradients of mixed shapes, ways to run an optimizer, an exact verdict."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import reference
from compiler import AS_USERS

SHAPES = {  # 10 leaves: more than the 8 whose numbers the library keeps in one vector
    "scalar": (),
    "empty": (0, 3),
    "vector": (4,),
    "matrix": (3, 4),
    "stack": (2, 3, 2),
    "conv": (2, 2, 2, 3),
    "wide": (1, 3),
    "x": (2,),
    "y": (2, 2),
    "z": (),
}


def make_grads(steps, shapes=SHAPES, dtype=np.float64, seed=0):
    """One tree of random gradients per step; every third matrix entry is 0 for the first steps."""
    rng = np.random.default_rng(seed)
    grads = []
    for t in range(steps):
        tree = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
        if "matrix" in tree and t < 3:
            tree["matrix"].flat[::3] = 0
        grads.append({name: g.astype(dtype) for name, g in tree.items()})
    return grads


def as_float(k):
    """A number of a step, which JAX under strict promotion does not mix with floats."""
    return k.astype(float) if isinstance(k, jax.Array) else float(k)


def adafactors(k):
    """Adafactor's b2: the first square has weight 1."""
    return 1 - as_float(k) ** -0.8


def rising(k):
    """A b2 whose first square has weight 0.6, so that v needs a bias correction."""
    return 0.9 - 0.5 / as_float(k)


def exact_in_8_bits(g):
    """Near `g`: 1/4 to 7/4, which every queue_dtype holds exactly."""
    return np.copysign(np.clip(np.ceil(4 * np.abs(g)), 1, 7) / 4, g).astype(g.dtype)


def run(tx, grads):
    """The updates of every step as NumPy arrays, from one compiled program for a step."""
    state = tx.init(jax.tree.map(jnp.zeros_like, grads[0]))
    step, updates = jax.jit(tx.update, compiler_options=AS_USERS), []
    for g in grads:
        u, state = step(jax.tree.map(jnp.asarray, g), state)
        updates.append(jax.tree.map(np.asarray, u))
    return updates


def unstack(tree, steps):
    """One tree per step from one whose leaves are stacked over steps."""
    return [jax.tree.map(lambda x, t=t: x[t], tree) for t in range(steps)]


def worst_error(updates, grads, name, *args, **kwargs):
    """Largest error of leaf `name`, relative to the terms summed; inf where a 0 is not 0."""
    want, scales = reference.adashift([g[name] for g in grads], *args, **kwargs)
    worst = 0.0
    for u, w, s in zip([u[name] for u in updates], want, scales, strict=True):
        error = np.abs(np.asarray(u, w.dtype) - w)
        assert not np.isnan(error).any()
        relative = np.divide(error, s, out=np.full_like(error, np.inf), where=s > 0)
        worst = max(worst, np.where(error == 0, 0, relative).max(initial=0))
    return worst


def assert_same_bits(x, y):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes())


def train_step(tx):
    """One whole step: update, then apply."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def compile_donated(step, params, state, grads):
    """The compiled step with parameters and state donated."""
    jitted = jax.jit(step, donate_argnums=(0, 1), compiler_options=AS_USERS)
    return jitted.lower(params, state, grads).compile()


def rings(queue):
    """The rings of gradients in the field `queue`, which may hold them beside those of scales."""
    if isinstance(queue, Mapping):  # nnx makes dicts of named tuples
        return queue.get("held", queue)
    return getattr(queue, "held", queue)
