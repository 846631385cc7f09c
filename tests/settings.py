"""The settings of both optimizers in one table, and their programs, each compiled once.

`run(name)` has the updates of many steps and the last state, `step(name)` the compiled donated step
of the public optimizer. Many tests ask the same program, so that few are compiled.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference
from common import (
    SHAPES,
    compile_donated,
    exact_in_8_bits,
    in_64_bits,
    make_grads,
    scan,
    stack,
    train_step,
)
from compiler import AS_USERS, COMPILE_QUICKLY

from adashift_optax import (
    adashift,
    adashift_factored,
    adashiftw,
    scale_by_adashift,
    scale_by_adashift_factored,
)

AXES = {"stack": (1, 2), "conv": (0, 1), "matrix": (0,), "vector": ()}


def axes_of(path, leaf):
    """A `block_axes` with other axes for each leaf."""
    return AXES.get(path[-1].key)


def ordered(xp):
    """A phi of NumPy or JAX that knows its elements apart: homogeneous, their order matters."""
    return lambda g2: xp.sum(g2.reshape(-1) * xp.arange(1, g2.size + 1, dtype=g2.dtype))


PAPER = {
    "max": {},  # the defaults: n = 10, b1 = 0.9, b2 = 0.999
    "mean": {"phi": "mean", "n": 3, "b2": 0.9},
    "none": {"phi": "none", "n": 3},
    "callable": {"phi": ordered(jnp), "n": 2, "b1": 0.5},
    "axes": {"phi": "mean", "block_axes": (-1, 0), "n": 3},
    "callable axes": {"phi": ordered(jnp), "block_axes": axes_of, "n": 2},
    "b1=0": {"b1": 0, "n": 3},
    "none b1=0": {"phi": "none", "b1": 0, "n": 2, "eps": 1e-3},
    "n=1": {"n": 1},
    "none n=1": {"phi": "none", "n": 1, "b2": 0},
    "bfloat16": {"queue_dtype": "bfloat16", "n": 4},
    "none bfloat16": {"phi": "none", "queue_dtype": jnp.bfloat16, "n": 3},
}
FACTORED = {
    "factored": {},
    "factored bfloat16": {"mu_dtype": "bfloat16"},
    "factored b1=0": {"b1": 0, "b2": 0.9},
}
SETTINGS = PAPER | FACTORED

# Every form that a field of the state has: enough for what only carries the state along.
LAYOUTS = (
    "max",  # mu, a ring of gradients, vectors of whole leaves and their rings
    "axes",  # trees in which the reduced axes have size 1
    "b1=0",  # neither mu nor a ring of gradients
    "none bfloat16",  # a ring of bits, no ring of statistics
    "factored",
    "factored bfloat16",
    "factored b1=0",
)


def scale_by(name):
    """The direction, without a learning rate."""
    if name in FACTORED:
        return scale_by_adashift_factored(**FACTORED[name])
    return scale_by_adashift(**PAPER[name])


def optimizer(name, learning_rate=0.1, weight_decay=0.0):
    """The public optimizer."""
    if name in FACTORED:
        return adashift_factored(learning_rate, **FACTORED[name], weight_decay=weight_decay)
    if weight_decay:
        return adashiftw(learning_rate, **PAPER[name], weight_decay=weight_decay)
    return adashift(learning_rate, **PAPER[name])


def shapes(name):
    """The leaves that a setting can have: with axes as a tuple, not those that lack these axes."""
    if name != "axes":
        return SHAPES
    return {leaf: shape for leaf, shape in SHAPES.items() if len(shape) > 1}


def expected(name, grads, leaf=None):
    """The updates of one leaf by the reference, and their scales.

    `grads` are those of every step; what a bfloat16 array holds must be exact in bfloat16.
    """
    kwargs = dict(SETTINGS[name])
    kwargs.pop("queue_dtype", None)
    if name in FACTORED:
        kept = (lambda m: m.astype(jnp.bfloat16).astype(float)) if "mu_dtype" in kwargs else None
        kwargs.pop("mu_dtype", None)
        return reference.factored(grads, **kwargs, **({"kept": kept} if kept else {}))
    axes = kwargs.pop("block_axes", None)
    kwargs["axes"] = AXES.get(leaf) if callable(axes) else axes
    if callable(kwargs.get("phi")):
        kwargs["phi"] = ordered(np)
    return reference.adashift(grads, **kwargs)


@dataclasses.dataclass(frozen=True)
class Run:
    """What became of a setting in many steps."""

    grads: Any  # a tree of [steps, *shape]
    updates: Any  # the same
    first: Any  # the state of init
    state: Any  # the last one


@functools.cache
def run(name, dtype="float32", steps=45):
    """The direction of a setting over many steps of gradients of mixed shapes.

    In float32 it is compiled as users do, in float64 in a sixth of that time.
    """
    grads = stack(make_grads(steps, shapes(name), dtype))
    if "queue_dtype" in SETTINGS[name]:
        grads = jax.tree.map(exact_in_8_bits, grads)
    tx = scale_by(name)
    with in_64_bits(dtype == "float64"):
        first = tx.init(jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads))
        options = AS_USERS if dtype == "float32" else COMPILE_QUICKLY
        program = jax.jit(lambda g, state: scan(tx, g, None, state), compiler_options=options)
        updates, state = program(grads, first)
        return Run(grads, jax.tree.map(np.asarray, updates), first, state)


LEAF = (256, 512)  # 512 KiB in float32


@functools.cache
def step(name, params="float32", grads="float32", weight_decay=0.0):
    """The compiled program of a donated step of the public optimizer on a large leaf and a bias."""
    tx = optimizer(name, weight_decay=weight_decay)
    p, g = ({"w": jnp.ones(LEAF, d), "b": jnp.ones(LEAF[1:], d)} for d in (params, grads))
    if name == "axes":
        del p["b"], g["b"]
    with jax.numpy_dtype_promotion("standard"):  # Optax's own parts mix dtypes
        return compile_donated(train_step(tx), p, tx.init(p), g)
