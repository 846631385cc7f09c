"""Parameters in Flax's boxes: what a leaf of the state inherits from the parameter it belongs to.

``nnx.Variable`` and linen's ``Partitioned`` carry the name of a mesh axis per array axis. A state
leaf of another shape needs other names: inherited unchanged, they would shard the slots of a queue,
or an axis that phi has reduced to size 1. Both kinds are known by their methods, not by importing
Flax. A box may hold any tree: one array, none (``optax.MaskedNode``) or several.
"""

import dataclasses
from collections.abc import Callable
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
        return unboxed(x.get_value() if hasattr(x, "get_metadata") else x.unbox())

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
