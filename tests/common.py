"""What tests share: gradients of mixed shapes, ways to run an optimizer, an exact verdict.

The settings of the two optimizers and their compiled programs are in `settings.py`.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
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


def in_64_bits(on=True):
    """A context of 64-bit JAX, also in versions that have no `jax.enable_x64`."""
    if not on:
        return contextlib.nullcontext()
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64

    return enable_x64()


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


def exact_in_8_bits(g):
    """Near `g`: 1/4 to 7/4, which a bfloat16 queue holds exactly."""
    return np.copysign(np.clip(np.ceil(4 * np.abs(g)), 1, 7) / 4, g).astype(g.dtype)


def stack(trees):
    """One tree whose leaves are stacked over steps, from one tree per step."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def unstack(tree, steps):
    """One tree per step from one whose leaves are stacked over steps."""
    return [jax.tree.map(lambda x, t=t: x[t], tree) for t in range(steps)]


def scan(tx, grads, params, state=None):
    """The updates of all steps, [steps, *shape] each, and the last state."""

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    return jax.lax.scan(step, tx.init(params) if state is None else state, grads)[::-1]


def run(tx, grads):
    """The updates of every step as NumPy arrays, from one compiled program."""
    params = jax.tree.map(jnp.zeros_like, grads[0])
    program = jax.jit(lambda grads, params: scan(tx, grads, params)[0])
    return unstack(jax.tree.map(np.asarray, program(stack(grads), params)), len(grads))


def worst_error(updates, want, scales):
    """The largest error of the updates of a leaf, relative to the terms summed.

    It is infinite where the reference is 0 and the update is not. All three are [steps, ...].
    """
    error = np.abs(np.asarray(updates, np.asarray(want).dtype) - want)
    assert not np.isnan(error).any()
    relative = np.divide(error, scales, out=np.full_like(error, np.inf), where=np.array(scales) > 0)
    return np.where(error == 0, 0, relative).max(initial=0)


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
