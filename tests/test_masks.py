"""Parameters that are left out: boxes that hold no array or many, and masks.

In each case Optax's own Adam works, and is run first to show that the program is a right one.
"""

import equinox as eqx
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from common import adafactors
from flax import linen, nnx

from adashift_optax import adashift, adashiftw

RATE, DECAY, N = 0.1, 0.5, 2
VARIANTS = {
    "max": {},
    "mean": {"phi": "mean", "window": "hopping"},
    "none": {"phi": "none"},
    "none, hopping": {"phi": "none", "window": "hopping"},
    "factored": {"phi": "factored"},
    "axes": {"block_axes": lambda path, leaf: (leaf.ndim - 1,)},
    "b1=0": {"b1": 0},
    "bfloat16": {"queue_dtype": "bfloat16"},
    "float8": {"queue_dtype": "float8_e5m2"},
    "callable phi": {"phi": lambda g2: jnp.max(g2)},
    "ema": {"window": "ema"},
    "ema, outputs, b2 schedule": {"window": "ema", "block_axes": "outputs", "b2": adafactors},
}


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def last(tx, params, grads=None, steps=4):
    """The last updates. Of gradients that are always 1, -1 and so on: with Adam's rate +-RATE."""
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(params if grads is None else grads, state, params)
    return updates


def matrices(params):
    """The usual mask of weight decay, and of what is trained."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def labels(params):
    return jax.tree.map(lambda x: "ours" if jnp.ndim(x) > 1 else "rest", params)


def assert_close(tree, others):
    """Two trees of one structure, boxes included."""
    assert jax.tree.structure(tree) == jax.tree.structure(others)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7)


class Model(nnx.Module):
    def __init__(self):
        ones = nnx.initializers.ones_init()

        def make():
            return nnx.Linear(3, 3, kernel_init=ones, bias_init=ones, rngs=nnx.Rngs(0))

        self.first, self.second = make(), make()


IN_NNX = {
    "masked": lambda tx: optax.masked(tx, matrices),
    "partition": lambda tx: optax.partition({"ours": tx, "rest": optax.sgd(1.0)}, labels),
    "masked, nothing": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda x: False, p)),
}


@pytest.mark.parametrize("wrapper", IN_NNX)
def test_nnx_optimizer_of_a_part_of_the_model(wrapper):
    """Its variables hold a MaskedNode in the place of an array. The smallest case first."""

    def trained(tx):
        model = Model()
        optimizer = nnx.Optimizer(model, IN_NNX[wrapper](tx), wrt=nnx.Param)
        grads = nnx.grad(lambda m: sum(jnp.sum(x) for x in jax.tree.leaves(nnx.state(m))))(model)
        for _ in range(N + 2):
            optimizer.update(model, grads)
        return nnx.as_pure(nnx.state(model))

    want = trained(optax.adam(RATE))
    # Of ones: Adam took N + 2 steps of RATE, AdaShift two.
    trained_by_us = wrapper != "masked, nothing"
    want = jax.tree.map(lambda x: x + N * RATE if x.ndim > 1 and trained_by_us else x, want)
    for kwargs in VARIANTS.values():
        assert_close(trained(adashift(RATE, N, **kwargs)), want)


BOXES = {
    "nnx, no array": lambda: {"w": nnx.Param(None), "v": nnx.Param(jnp.ones(3))},
    "nnx, many arrays": lambda: {"w": nnx.Param({"a": jnp.ones((2, 3)), "b": -jnp.ones(3)})},
    "nnx, a tuple": lambda: [nnx.Param((jnp.ones((2, 3)), jnp.ones(1))), nnx.Param(())],
    "nnx, MaskedNode": lambda: {"w": nnx.Param(optax.MaskedNode()), "v": jnp.ones(3)},
    "linen, no array": lambda: {"w": linen.Partitioned(None, ()), "v": jnp.ones(3)},
    "linen, many arrays": lambda: linen.Partitioned(
        {"a": jnp.ones((2, 3)), "b": -jnp.ones((3, 2))}, ("x", "y")
    ),
    "linen, MaskedNode": lambda: {
        "w": linen.LogicallyPartitioned(optax.MaskedNode(), ("x",)),
        "v": linen.LogicallyPartitioned(jnp.ones((2, 3)), ("x", "y")),
    },
    "nnx in linen": lambda: linen.Partitioned(nnx.Param(jnp.ones((2, 3))), ("x", "y")),
}


@pytest.mark.parametrize("box", BOXES)
def test_a_box_holds_a_tree(box):
    """Nothing, one array or many, in init and in update, for every phi."""
    params = BOXES[box]()
    want = last(optax.adam(RATE), params)
    for kwargs in VARIANTS.values():
        assert_close(last(adashift(RATE, N, **kwargs), params), want)


PLAIN = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}


class Callable(eqx.Module):
    """A module of Equinox has a __call__, and so does a tree of bools made of it."""

    w: object
    b: object

    def __call__(self, x):
        return x


FREEZE = flax.core.freeze
BOOLS = {"w": True, "b": False}
MASKS = {  # mask, parameters: what optax.adamw takes
    "tree": (BOOLS, PLAIN),
    "function": (matrices, PLAIN),
    "class that is callable": (Callable(True, False), Callable(**PLAIN)),
    "function, class that is callable": (matrices, Callable(**PLAIN)),
    "in a class that is callable": ({"m": Callable(True, False)}, {"m": Callable(**PLAIN)}),
    "ints": ({"w": 1, "b": 0}, PLAIN),
    "function of ints": (lambda p: {"w": 1, "b": 0}, PLAIN),
    "NumPy": ({"w": np.True_, "b": np.False_}, PLAIN),
    "arrays": ({"w": jnp.array(True), "b": np.array(False)}, PLAIN),
    "prefix": ({"x": True, "y": False}, {"x": PLAIN, "y": PLAIN}),
    "one bool": (True, PLAIN),
    "function of a prefix": (lambda p: {"x": True, "y": False}, {"x": PLAIN, "y": PLAIN}),
    "FrozenDict": (FREEZE(BOOLS), FREEZE(PLAIN)),
    "function, FrozenDict": (matrices, FREEZE(PLAIN)),
    "None leaves": ({"w": True, "b": None}, {"w": jnp.ones((2, 2)), "b": None}),
    "no leaves": ({}, {}),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_those_of_optax(mask):
    mask, params = MASKS[mask]
    want = last(optax.adamw(RATE, weight_decay=DECAY, mask=mask), params)
    assert_close(last(adashiftw(RATE, N, weight_decay=DECAY, mask=mask), params), want)
    assert_close(
        last(optax.masked(adashift(RATE, N), mask), params),
        last(optax.masked(optax.adam(RATE), mask), params),
    )
