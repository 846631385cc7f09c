"""Parameters that are left out: boxes that hold no array or many, masks, and named arrays.

In each case Optax's own Adam works, and is run first to show that the program is a right one.
Gradients are always 1, so that Adam and `adashift` make steps of the rate, and
`adashift_factored` those of Adam with Nesterov's momentum.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from test_flax import FLAX, apply

from adashift_optax import adashift, adashift_factored, adashiftw, scale_by_adashift

RATE, DECAY, N = 0.1, 0.5, 2
ours = partial(adashift, RATE, n=N)
OURS = {
    "max": ours,
    "none": partial(ours, phi="none"),
    "axes": partial(ours, block_axes=lambda path, leaf: (leaf.ndim - 1,)),
    "b1=0": partial(ours, b1=0),
    "bfloat16": partial(ours, queue_dtype="bfloat16"),
    "factored": partial(adashift_factored, RATE, 0.9),
    "factored, b1=0": partial(adashift_factored, RATE, 0),
}

pytestmark = pytest.mark.usefixtures("standard_promotion")


def last(txs, params):
    """The last updates of every optimizer, in one program."""

    def of(tx):
        u, state = None, tx.init(params)
        for _ in range(N + 2):
            u, state = tx.update(params, state, params)
        return u

    return jax.jit(lambda: [of(tx) for tx in txs])()


def matrices(params):
    """The usual mask of weight decay, and of what is trained."""
    return jax.tree.map(lambda x: jnp.ndim(x) > 1, params)


def assert_close(tree, others):
    """Two trees of one structure, boxes included."""
    assert jax.tree.structure(tree) == jax.tree.structure(others)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(FLAX == (0, 11), reason="there Adam fails too: Flax takes no optax.masked")
@pytest.mark.parametrize("trained", [matrices, lambda p: jax.tree.map(lambda x: False, p)])
def test_nnx_optimizer_of_a_part_of_the_model(trained):
    """Its variables hold a MaskedNode in the place of an array."""

    def end(tx):
        one = nnx.initializers.ones_init()
        model = nnx.Linear(3, 3, kernel_init=one, bias_init=one, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.masked(tx, trained), wrt=nnx.Param)
        grads = nnx.grad(lambda m: sum(jnp.sum(x) for x in jax.tree.leaves(nnx.state(m))))(model)
        for _ in range(N + 2):
            apply(optimizer, model, grads)
        return nnx.state(model)

    adam, nadam, idle = (end(tx) for tx in (*ADAMS, optax.sgd(0.0)))
    for name, make in OURS.items():
        first = 1 if "factored" in name else 1 - N / (N + 2)  # what the idle steps leave of the way
        want = nadam if name == "factored" else adam
        assert_close(end(make()), jax.tree.map(lambda y, s, f=first: s + f * (y - s), want, idle))


ADAMS = (optax.adam(RATE), optax.adam(RATE, nesterov=True))
PLAIN = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}


class Ellipsoid(NamedTuple):
    """No array with named axes, and no box."""

    center: Any
    axes: Any

    def get_metadata(self):
        return self

    def __getattr__(self, name):  # as some dicts, it answers for every name
        return self


BOXES = {
    "no box": lambda: Ellipsoid(jnp.ones(2), jnp.ones((2, 2))),
    "nnx, axes": lambda: {"w": nnx.Param(jnp.ones((2, 2)), axes=("x", "y"))},
    "nnx, no array": lambda: {"w": nnx.Param(None), "v": nnx.Param(jnp.ones(3))},
    "nnx, many arrays": lambda: [nnx.Param({"a": jnp.ones((2, 3)), "b": -jnp.ones(3)})],
    "nnx, MaskedNode": lambda: {"w": nnx.Param(optax.MaskedNode()), "v": jnp.ones(3)},
    "linen, no array": lambda: {"w": linen.Partitioned(None, ()), "v": jnp.ones(3)},
    "linen, many arrays": lambda: linen.Partitioned(PLAIN, ("x", "y")),
    "linen, MaskedNode": lambda: {"w": linen.LogicallyPartitioned(optax.MaskedNode(), ("x",))},
    "nnx in linen": lambda: linen.Partitioned(nnx.Param(jnp.ones((2, 3))), ("x", "y")),
    "None leaves": lambda: {"w": jnp.ones((2, 2)), "b": None},
    "no leaves": dict,
}


@pytest.mark.slow
@pytest.mark.parametrize("box", BOXES)
def test_a_box_holds_a_tree(box):
    """Nothing, one array or many, in init and in update."""
    if "nnx" in box and FLAX < (0, 11):
        pytest.skip("to this Flax a Param is an array, also to Adam")
    adam, nadam, *found = last([*ADAMS, *(make() for make in OURS.values())], BOXES[box]())
    for name, updates in zip(OURS, found, strict=True):
        assert_close(updates, nadam if name == "factored" else adam)


BOOLS = {"w": True, "b": False}
MASKS = {  # mask, parameters: what optax.adamw takes
    "tree": (BOOLS, PLAIN),
    "function": (matrices, PLAIN),
    "NumPy": ({"w": np.True_, "b": np.False_}, PLAIN),
    "prefix": ({"x": True, "y": False}, {"x": PLAIN, "y": PLAIN}),
    "one bool": (True, PLAIN),
    "None leaves": ({"w": True, "b": None}, {"w": jnp.ones((2, 2)), "b": None}),
    "no leaves": ({}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS)
def test_masks_are_those_of_optax(mask):
    mask, params = MASKS[mask]
    decayed = dict(weight_decay=DECAY, mask=mask)
    wanted = [optax.adamw(RATE, **decayed), optax.adamw(RATE, **decayed, nesterov=True)]
    found = [adashiftw(RATE, n=N, **decayed), adashift_factored(RATE, 0.9, **decayed)]
    masked = [optax.masked(tx, mask) for tx in (*ADAMS, ours(), adashift_factored(RATE, 0.9))]
    updates = last([*wanted, *masked[:2], *found, *masked[2:]], params)
    for want, u in zip(updates[:4], updates[4:], strict=True):
        assert_close(u, want)


def test_parameters_without_a_gradient():
    """None where the parameters have an array or, as in Equinox, a function."""
    grads, params = {"b": None, "f": None, "w": PLAIN["w"]}, {**PLAIN, "f": jnp.tanh}
    make = partial(OURS["factored, b1=0"], weight_decay=DECAY)
    txs = optax.adamw(RATE, weight_decay=DECAY), make(), make(mask=matrices)
    want, *found = (tx.update(grads, tx.init(grads), params)[0] for tx in txs)
    for u in found:
        assert_close(u, want)


@pytest.mark.parametrize("tx", [ours(), adashift_factored(RATE), scale_by_adashift(phi="none")])
def test_named_arrays_of_other_libraries_are_refused(tx):
    """A plain error: the axes of arrays in the state are others."""

    class Named:
        axes, dtype = ("in", "out"), jnp.dtype(float)

    jax.tree_util.register_pytree_node(Named, lambda x: ((jnp.ones(2),), None), lambda *_: Named())
    with pytest.raises(TypeError, match=r"params must be plain arrays.*got the named array Named"):
        tx.init({"w": Named()})
