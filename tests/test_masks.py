"""Parameters that are left out: boxes that hold no array or many, and masks.

In each case Optax's own Adam works, and is run first to show that the program is a right one.
Gradients are always 1, so that Adam and `adashift` make steps of the rate, and
`adashift_factored` those of Adam with Nesterov's momentum.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from test_flax import apply

from adashift_optax import adashift, adashift_factored, adashiftw, scale_by_adashift

RATE, DECAY, N = 0.1, 0.5, 2
OURS = {
    "max": functools.partial(adashift, RATE, n=N),
    "none": functools.partial(adashift, RATE, n=N, phi="none"),
    "axes": functools.partial(adashift, RATE, n=N, block_axes=lambda path, leaf: (leaf.ndim - 1,)),
    "b1=0": functools.partial(adashift, RATE, b1=0, n=N),
    "bfloat16": functools.partial(adashift, RATE, n=N, queue_dtype="bfloat16"),
    "callable phi": functools.partial(adashift, RATE, n=N, phi=lambda g2: jnp.max(g2)),
    "factored": functools.partial(adashift_factored, RATE),
    "factored, b1=0": functools.partial(adashift_factored, RATE, b1=0),
}
NESTEROV = ("factored",)


@pytest.fixture(autouse=True)
def _as_a_user():
    """Optax's own transformations mix dtypes."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def last(txs, params, steps=N + 2):
    """The last updates of every optimizer, in one program."""

    def run(params):
        updates = []
        for tx in txs:
            u, state = None, tx.init(params)
            for _ in range(steps):
                u, state = tx.update(params, state, params)
            updates.append(u)
        return updates

    return jax.jit(run)(params)


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
        self.first, self.second = (
            nnx.Linear(3, 3, kernel_init=ones, bias_init=ones, rngs=nnx.Rngs(0)) for _ in range(2)
        )


IN_NNX = {
    "masked": lambda tx: optax.masked(tx, matrices),
    "partition": lambda tx: optax.partition({"ours": tx, "rest": optax.sgd(1.0)}, labels),
    "masked, nothing": lambda tx: optax.masked(tx, lambda p: jax.tree.map(lambda x: False, p)),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", IN_NNX)
def test_nnx_optimizer_of_a_part_of_the_model(wrapper):
    """Its variables hold a MaskedNode in the place of an array. The smallest case first."""

    def trained(tx):
        model = Model()
        optimizer = nnx.Optimizer(model, IN_NNX[wrapper](tx), wrt=nnx.Param)
        grads = nnx.grad(lambda m: sum(jnp.sum(x) for x in jax.tree.leaves(nnx.state(m))))(model)
        for _ in range(N + 2):
            apply(optimizer, model, grads)
        return jax.tree.leaves(nnx.state(model))

    adam, nadam = trained(optax.adam(RATE)), trained(optax.adam(RATE, nesterov=True))
    for name, make in OURS.items():
        idle = 0 if "factored" in name or wrapper == "masked, nothing" else N * RATE
        for x, y in zip(trained(make()), nadam if name in NESTEROV else adam, strict=True):
            np.testing.assert_allclose(x, y + idle * (y.ndim > 1), rtol=2e-5)


def partitioned(value, *names):
    return linen.Partitioned(value, names)


BOXES = {
    "nnx, no array": lambda: {"w": nnx.Param(None), "v": nnx.Param(jnp.ones(3))},
    "nnx, many arrays": lambda: {"w": nnx.Param({"a": jnp.ones((2, 3)), "b": -jnp.ones(3)})},
    "nnx, a tuple": lambda: [nnx.Param((jnp.ones((2, 3)), jnp.ones(1))), nnx.Param(())],
    "nnx, MaskedNode": lambda: {"w": nnx.Param(optax.MaskedNode()), "v": jnp.ones(3)},
    "linen, no array": lambda: {"w": partitioned(None), "v": jnp.ones(3)},
    "linen, many arrays": lambda: partitioned(
        {"a": jnp.ones((2, 3)), "b": -jnp.ones((3, 2))}, "x", "y"
    ),
    "linen, MaskedNode": lambda: {
        "w": linen.LogicallyPartitioned(optax.MaskedNode(), ("x",)),
        "v": linen.LogicallyPartitioned(jnp.ones((2, 3)), ("x", "y")),
    },
    "nnx in linen": lambda: partitioned(nnx.Param(jnp.ones((2, 3))), "x", "y"),
    "None leaves": lambda: {"w": jnp.ones((2, 2)), "b": None},
    "no leaves": dict,
}


@pytest.mark.parametrize("box", BOXES)
def test_a_box_holds_a_tree(box):
    """Nothing, one array or many, in init and in update."""
    params = BOXES[box]()
    adams = [optax.adam(RATE), optax.adam(RATE, nesterov=True)]
    adam, nadam, *found = last([*adams, *(make() for make in OURS.values())], params)
    for name, updates in zip(OURS, found, strict=True):
        assert_close(updates, nadam if name in NESTEROV else adam)


PLAIN = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
BOOLS = {"w": True, "b": False}


@jax.tree_util.register_pytree_with_keys_class
class Callable(dict):
    """A tree that is callable, as Equinox's modules are, and so is a tree of bools made of it."""

    def __call__(self, x):
        return x

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.DictKey(k), self[k]) for k in sorted(self)], tuple(sorted(self))

    @classmethod
    def tree_unflatten(cls, keys, leaves):
        return cls(zip(keys, leaves, strict=True))


FREEZE = flax.core.freeze
MASKS = {  # mask, parameters: what optax.adamw takes
    "tree": (BOOLS, PLAIN),
    "function": (matrices, PLAIN),
    "class that is callable": (Callable(BOOLS), Callable(PLAIN)),
    "in a class that is callable": ({"m": Callable(BOOLS)}, {"m": Callable(PLAIN)}),
    "ints": ({"w": 1, "b": 0}, PLAIN),
    "NumPy": ({"w": np.True_, "b": np.False_}, PLAIN),
    "prefix": ({"x": True, "y": False}, {"x": PLAIN, "y": PLAIN}),
    "one bool": (True, PLAIN),
    "FrozenDict": (FREEZE(BOOLS), FREEZE(PLAIN)),
    "None leaves": ({"w": True, "b": None}, {"w": jnp.ones((2, 2)), "b": None}),
    "no leaves": ({}, {}),
}


@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_those_of_optax(mask):
    mask, params = MASKS[mask]
    decayed = dict(weight_decay=DECAY, mask=mask)
    adam = dict(nesterov=True)
    decayed_adam, decayed_nadam, masked_adam, masked_nadam, *found = last(
        [
            optax.adamw(RATE, **decayed),
            optax.adamw(RATE, **decayed, **adam),
            optax.masked(optax.adam(RATE), mask),
            optax.masked(optax.adam(RATE, **adam), mask),
            adashiftw(RATE, n=N, **decayed),
            adashift_factored(RATE, **decayed),
            optax.masked(adashift(RATE, n=N), mask),
            optax.masked(adashift_factored(RATE), mask),
        ],
        params,
    )
    wanted = (decayed_adam, decayed_nadam, masked_adam, masked_nadam)
    for updates, want in zip(found, wanted, strict=True):
        assert_close(updates, want)


def test_named_arrays_of_other_libraries_are_refused():
    """A plain error: the axes of arrays in the state are others."""

    @jax.tree_util.register_pytree_node_class
    class Named:
        axes = ("in", "out")

        def tree_flatten(self):
            return (jnp.ones((4, 2)),), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls()

    for tx in (adashift(0.1), adashift_factored(0.1), scale_by_adashift(phi="none")):
        with pytest.raises(
            TypeError, match=r"params must be plain arrays.*got the named array Named"
        ):
            tx.init({"w": Named()})
