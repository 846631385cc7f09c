"""Random trees, arguments and gradients for Hypothesis, and what the reference says of them."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import reference
from common import adafactors, rising
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("ADASHIFT_EXAMPLES", "0"))


def examples(few):
    """`few` examples, the same each time; with ADASHIFT_EXAMPLES=300 set 300 new ones."""
    return settings(
        max_examples=EXAMPLES or few,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # no shrinking, which would compile hundreds of examples
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of a tree of parameters, and the axes of one block of it (None: all)."""

    shape: tuple[int, ...]
    dtype: str
    axes: tuple[int, ...] | None
    params: str | None = None  # the dtype of the parameter, where the gradient has another

    @property
    def info(self):
        return jnp.finfo(self.updates)

    @property
    def updates(self):
        """The dtype of updates where parameters are given: the wider of the two."""
        return np.dtype(jnp.promote_types(self.dtype, self.params or self.dtype)).name

    @property
    def held(self):
        """The float type that m is computed in, at least."""
        wide = {"float64", "complex128"}
        return "float64" if {self.dtype, self.params or self.dtype} <= wide else "float32"


# What magnitudes of gradients span, in powers of 10 each way: no square, nor the ratio of two of
# them (phi="factored"), leaves the range of what it is computed in. What does is for test_numbers.
SPREAD = {
    "float16": 3,
    "bfloat16": 8,
    "float32": 8,
    "complex64": 8,
    "float64": 60,
    "complex128": 60,
}
NARROW = ("float16", "bfloat16", "float32", "complex64")  # what there is without 64-bit JAX
REAL = ("float16", "bfloat16", "float32", "float64")
SHAPES = st.lists(st.integers(1, 3), max_size=4).map(tuple) | st.sampled_from([(0,), (2, 0)])


@st.composite
def leaf_specs(draw, dtypes=tuple(SPREAD), shapes=SHAPES):
    shape = draw(shapes)
    axes = st.sets(st.sampled_from(range(len(shape)))) if shape else st.just(())
    axes = draw(st.none() | axes.map(lambda chosen: tuple(sorted(chosen))))
    return Leaf(shape, draw(st.sampled_from(dtypes)), axes)


def trees(dtypes=tuple(SPREAD), shapes=SHAPES, most=6):
    """Nested dicts, lists and tuples of leaves and None, or a single leaf."""

    def nest(inner):
        return (
            st.dictionaries(st.sampled_from("abcd"), inner, max_size=4)
            | st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
        )

    leaf = leaf_specs(dtypes, shapes)
    return st.recursive(leaf | st.none(), nest, max_leaves=most).filter(jax.tree.leaves)


def ordered(xp) -> Callable[[Any], Any]:
    """A phi that knows its elements apart: homogeneous, and their order matters."""
    return lambda g2: xp.sum(g2.reshape(-1) * xp.arange(1, g2.size + 1, dtype=g2.dtype))


def schedule(count):
    return jnp.asarray(count, float) * 0.125 + 0.0625


PHIS = ("max", "mean", "none", "factored", "ordered")
# v - (1 - b2) v is rounded to 2^-24 of v in float32. Where later squares are 0, that is v: its
# relative error is then 2^-24 / b2 per step, and a b2 below 2^-24 is 0. So 0, or from 0.1 on. The
# same goes for b1 where m is such a mean: with window="ema".
ARGUMENTS = {
    "n": st.integers(1, 6),
    "b1": st.sampled_from([0, 0.9, 0.999]) | st.floats(0, 0.9999),
    "b2": st.sampled_from([0, 0.9, 0.999, adafactors, rising]) | st.floats(0.1, 0.999999),
    "eps": st.sampled_from([0.0, 1e-10, 1e-3]),
    "phi": st.sampled_from(PHIS),
    "window": st.sampled_from(["sliding", "hopping", "ema"]),
    "warm_start": st.booleans(),
    "clip_value": st.sampled_from([None, 0.25, schedule]),
}


def arguments(**others):
    """Keyword arguments of scale_by_adashift (a phi "ordered" stands for the callable)."""
    drawn = st.fixed_dictionaries({**ARGUMENTS, **others})
    return drawn.filter(lambda args: args["window"] != "ema" or not 0 < args["b1"] < 0.1)


def library(args):
    """`args` as the library takes them."""
    return args | ({"phi": ordered(jnp)} if args["phi"] == "ordered" else {})


def block_axes(tree):
    """The `block_axes` that gives every leaf of `tree` its own."""
    axes = {path: leaf.axes for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    return lambda path, leaf: axes[path]


def _plain(rng, shape, spread):
    return rng.standard_normal(shape)


def _late(rng, shape, spread):
    """Nothing in the first half of the steps."""
    g = _plain(rng, shape, spread)
    g[: len(g) // 2] = 0
    return g


KINDS = {
    "plain": _plain,
    "small_spread": lambda rng, shape, p: (  # 0 or 1 to 64
        np.sign(_plain(rng, shape, p)) * 2.0 ** rng.uniform(0, 6, shape) * (rng.random(shape) < 0.8)
    ),
    "spread": lambda rng, shape, p: _plain(rng, shape, p) * 10.0 ** rng.uniform(-p, p, shape),
    "sparse": lambda rng, shape, p: _plain(rng, shape, p) * (rng.random(shape) < 0.3),
    "late": _late,
    "constant": lambda rng, shape, p: np.broadcast_to(_plain(rng, shape[1:], p), shape),
}


def gradients(tree, steps, kind, seed):
    """A tree like `tree` of gradients [steps, *shape]."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        parts = [
            KINDS[kind](rng, (steps, *leaf.shape), SPREAD[leaf.dtype])
            for _ in range(1 + leaf.dtype.startswith("complex"))
        ]
        g = parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
        return g.astype(jnp.dtype(leaf.dtype))

    return jax.tree.map(draw, tree)


def zeros(tree):
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.params or leaf.dtype), tree)


def scan(tx, grads, params):
    """The updates of all steps, [steps, *shape] each."""

    def step(state, g):
        updates, state = tx.update(g, state, params)
        return state, updates

    return jax.lax.scan(step, tx.init(params), grads)[1]


def run(tx, grads, params):
    """The same from one compiled program, as NumPy arrays."""
    updates = jax.jit(lambda grads, params: scan(tx, grads, params))(grads, params)
    return jax.tree.map(np.asarray, updates)


TOLERANCE = {"float64": 1e-12, "float32": 2e-5}  # of test_exact.py, relative to the terms of m


def left_weights(n, b1, t):
    """What float arithmetic of unit roundoff 1 may leave of g_{t-i}, i >= n: (8 + 6i - 3n) b1^i.

    In S_t = b1 S_{t-1} + (g_t - b1^n g_{t-n}) each weight is rounded, each product and each sum:
    g_{t-i} entered with 4 roundings, and each step since made 3; it left with 4, and each step
    since made 3. To first order (4 + 3i) + (4 + 3(i - n)) of its b1^i do not cancel. Where
    magnitudes differ widely this is more than the error of what is in the window.
    """
    w = np.array([(8 + 6 * i - 3 * n) * b1**i if i >= n > 1 else 0.0 for i in range(t)])
    return w / sum(b1**i for i in range(n))


def expected(
    leaf, grads, n, b1, b2, eps, phi, window, clip_value=None, axes=None, off=0.0, of=None,
    warm_start=False,
):  # fmt: skip
    """The reference's updates of one leaf, [steps, *shape], and how far off ours may be.

    `off`: what relative error of gradients, of those in v too, may do to updates.
    `of`: the gradients that v is made of, if a queue rounds those of m.
    """
    largest = float(leaf.info.max)  # finite gradients give finite updates

    def clip(count):
        value = clip_value(count) if callable(clip_value) else clip_value
        return largest if value is None else min(largest, max(0.0, float(value)))

    phi = ordered(np) if phi == "ordered" else phi
    args, last = (n, b1, b2, eps, phi, axes), (of, warm_start)
    want, scales = map(np.array, reference.adashift(list(grads), *args, clip, window, *last))
    allowed, moves = (TOLERANCE[leaf.held] + off) * scales, scales > 0
    if window == "sliding":
        left = np.array(reference.adashift(list(grads), *args, None, left_weights, *last)[1])
        allowed, moves = allowed + float(jnp.finfo(leaf.held).eps) / 2 * left, moves | (left > 0)
    # Where the clip cuts off much, what remains is its own value, in the direction of m.
    # With "ema" it is a mean of such.
    size = np.abs(np.array(reference.adashift(list(grads), *args, None, window, *last)[0]))
    cut = (size > 2 * np.abs(want)) & (size > 2 * allowed) & (window != "ema")
    share = np.divide(allowed, size, out=np.zeros_like(allowed), where=cut)
    clipped = np.abs(want) * (2 * share + TOLERANCE[leaf.held])
    allowed = np.where(cut, np.minimum(allowed, clipped), allowed)
    # Rounded to the dtype of the updates at last, denormals perhaps to 0.
    least = leaf.info.smallest_subnormal if leaf.updates == "float16" else leaf.info.tiny
    rounded = float(leaf.info.eps) / 2 * np.abs(want) + float(least)
    return want, np.where(moves, allowed + rounded, 0)


def assert_within(got, want, allowed):
    error = np.abs(np.asarray(got, want.dtype) - want)
    assert np.all(error <= allowed), f"off by {error[~(error <= allowed)]}"
