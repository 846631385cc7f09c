"""Parameters in Flax's boxes: what a leaf of the state inherits from the parameter it belongs to.

``nnx.Variable`` and linen's ``Partitioned`` carry the name of a mesh axis per array axis. A state
leaf of another shape needs other names: inherited unchanged, they would shard the slots of a queue,
or an axis that phi has reduced to size 1. Both kinds are known by their methods, not by importing
Flax. A box may hold any tree: one array, none (``optax.MaskedNode``) or several.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer
from optax import Params

Tree = TypeVar("Tree")

# Metadata of nnx.Variable that name the axes; the second overrides the first in nnx.Optimizer.
_NAMES = ("out_sharding", "optimizer_sharding", "sharding_names", "sharding")


def is_box(x: object) -> bool:
    """Whether `x` is an ``nnx.Variable`` or a box of linen (``flax.core.meta.AxisMetadata``)."""
    return hasattr(x, "get_metadata") or hasattr(x, "replace_boxed")


def unboxed(tree: Params) -> Params:
    """`tree` with what its boxes hold in their place."""

    def value(x: Any) -> Params:
        if not is_box(x):
            return x
        # Not by its methods, which on a mesh want an array in it.
        (inner,) = jax.tree.leaves(x, is_leaf=lambda y: y is not x)
        return unboxed(inner)

    return jax.tree.map(value, tree, is_leaf=is_box)


def map_leaves(make: Callable[..., jax.Array], tree: Tree, with_path: bool = False) -> Tree:
    """`make`(leaf), or `make`(path, leaf), for every array of `tree`, in a box of the same kind."""

    def visit(path: jax.tree_util.KeyPath, x: Any) -> Params:
        if not is_box(x):
            return make(path, x) if with_path else make(x)
        old = unboxed(x)
        new = jax.tree_util.tree_map_with_path(lambda more, y: visit((*path, *more), y), old)
        if hasattr(x, "get_metadata"):
            names = {
                key: _rename(value, old, new)
                for key, value in x.get_metadata().items()
                if key in _NAMES and value is not None
            }
            return x.replace(new, **names)
        if hasattr(x, "names"):
            x = dataclasses.replace(x, names=_rename(x.names, old, new))
        return x.replace_boxed(new)

    return jax.tree_util.tree_map_with_path(visit, tree, is_leaf=is_box)


def map_to_others(make: Callable[..., jax.Array], tree: Tree, with_path: bool = False) -> Tree:
    """:func:`map_leaves` where `make` gives arrays of another shape than the leaf's.

    They are in no container that might tell of the axes of its arrays (`plain_nodes`). Of a tree
    without leaves it is one number: by such a tree ``optax.tree.map_params`` asks what in a state
    is like the parameters, and a number says that this is not.
    """
    if not jax.tree.leaves(tree):
        return jnp.zeros([])  # pyright: ignore[reportReturnType]
    return plain_nodes(map_leaves(make, tree, with_path))


def plain_nodes(tree: Any) -> Any:
    """`tree` with ordered dicts for nodes that are no sequences, mappings or boxes.

    Named arrays are such nodes, and give the names of their axes to whatever is in them.
    """
    children, structure = jax.tree_util.tree_flatten_with_path(tree, lambda x: x is not tree)
    if is_box(tree) or jax.tree_util.treedef_is_leaf(structure):
        return tree
    plain = [plain_nodes(child) for _, child in children]
    if tree is None or isinstance(tree, (Sequence, Mapping)):
        return structure.unflatten(plain)
    names = (jax.tree_util.keystr(path, simple=True) for path, _ in children)
    return OrderedDict(zip(names, plain, strict=True))


def zeros_like(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Zeros in the place of `x`, also under jit on a mesh whose axes are `AxisType.Auto`."""
    zeros = jnp.zeros_like(x, dtype)
    if not isinstance(x, Tracer):
        return zeros
    # There the sharding of x is no part of its type. It goes to what is computed from x, as far as
    # XLA can tell: behind the barrier it cannot see that nothing of x is taken.
    never = jax.lax.optimization_barrier(jnp.zeros([], bool))
    x = x if jnp.iscomplexobj(zeros) else jnp.real(x)
    return jnp.where(never, x.astype(dtype), zeros)


def _rename(names: tuple[str | None, ...], old: Any, new: Params) -> tuple[str | None, ...]:
    """The axis names of `new`: none for leading axes that `old` lacks, nor for reduced ones.

    They are the names of one array. Of a box that holds none or several, they stay as they are.
    """
    if not isinstance(new, jax.Array):
        return names
    shape = jnp.shape(old)
    lead = new.ndim - len(shape)
    kept = (
        name if size == now else None
        for name, size, now in zip(names, shape, new.shape[lead:], strict=False)
    )
    return (*(None,) * lead, *kept)
