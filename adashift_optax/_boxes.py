"""Parameters in Flax's boxes, and whether updates and a state belong together.

``nnx.Variable`` and linen's ``Partitioned`` carry the name of a mesh axis per array axis. A state
leaf of another shape needs other names: inherited unchanged, they would shard the slots of a queue,
or an axis that phi has reduced to size 1. Both kinds are known by their methods, not by importing
Flax. A box may hold any tree: one array, none (``optax.MaskedNode``) or several.
"""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import starmap, zip_longest
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import KeyPath
from optax import OptState, Params, Updates

from adashift_optax._checks import check_inexact, check_state, dtype_of, refuse
from adashift_optax._numbers import accumulator_dtype
from adashift_optax._xla import zeros_like

Tree = TypeVar("Tree")
State = TypeVar("State", bound=NamedTuple)
Arrays = list[jax.Array]
Paths = list[KeyPath]
Updated = tuple[Updates, OptState]

COUNTERS = ("count", "slot")  # the fields of a state that are no trees
# Metadata of nnx.Variable that name the axes; the second overrides the first in nnx.Optimizer.
_NAMES = ("out_sharding", "optimizer_sharding", "sharding_names", "sharding")


def is_box(x: object) -> bool:
    """Whether `x` is an ``nnx.Variable`` or a box of linen (``flax.core.meta.AxisMetadata``)."""
    of = type(x)  # not x itself: a dict with attributes may say that it has any
    return hasattr(of, "replace_boxed") or (hasattr(of, "get_metadata") and hasattr(of, "replace"))


def unboxed(tree: Params) -> Params:
    """`tree` with what its boxes hold in their place."""

    def value(x: Any) -> Params:
        if not is_box(x):
            return x
        # Not by its methods, which on a mesh want an array in it.
        (inner,) = jax.tree.leaves(x, is_leaf=lambda y: y is not x)
        return unboxed(inner)

    return jax.tree.map(value, tree, is_leaf=is_box)


def map_leaves(make: Callable[[KeyPath, Any], jax.Array], tree: Tree) -> Tree:
    """`make`(path, leaf) for every array of `tree`, in a box of the same kind."""

    def visit(path: KeyPath, x: Any) -> Params:
        if not is_box(x):
            return make(path, x)
        old = unboxed(x)
        new = jax.tree_util.tree_map_with_path(lambda more, y: visit((*path, *more), y), old)
        if hasattr(x, "get_metadata"):
            given = {k: x.get_metadata().get(k) for k in _NAMES}
            names = {k: _rename(v, old, new) for k, v in given.items() if v is not None}
            if hasattr(x, "to_variable"):  # Flax 0.10, where `replace` takes no names
                return type(x)(x.type, new, **{**x.get_metadata(), **names})
            return x.replace(new, **names)
        if hasattr(x, "names"):
            x = dataclasses.replace(x, names=_rename(x.names, old, new))
        return x.replace_boxed(new)

    return jax.tree_util.tree_map_with_path(visit, tree, is_leaf=is_box)


def zeros_of(params: Params, dtype: np.dtype | None = None) -> Params:
    """Zeros like `params`, of float32 or wider, or of `dtype`."""
    return map_leaves(lambda _, p: zeros_like(p, dtype or accumulator_dtype(p)), params)


def map_to_others(make: Callable[[KeyPath, Any], jax.Array], tree: Any) -> Any:
    """:func:`map_leaves` where `make` gives arrays of another shape than the leaf's.

    Of a tree without leaves it is one number: by such a tree ``optax.tree.map_params`` asks what in
    a state is like the parameters, and a number says that this is not.
    """
    return map_leaves(make, tree) if jax.tree.leaves(tree) else jnp.zeros([])


def _rename(names: Any, old: Any, new: Params) -> Any:
    """The axis names of `new`: none for leading axes that `old` lacks, nor for reduced ones.

    They are the names of one array. Of a box that holds none or several, they stay as they are.
    """
    if isinstance(names, NamedSharding):
        return NamedSharding(names.mesh, PartitionSpec(*_rename(names.spec, old, new)))
    if not isinstance(new, jax.Array) or not isinstance(names, (str, Sequence, PartitionSpec)):
        return names
    names = (names,) if isinstance(names, str) else names  # Flax takes one name as it is
    lead = new.ndim - jnp.ndim(old)
    kept = (
        name if size == now else None
        for name, size, now in zip(names, jnp.shape(old), new.shape[lead:], strict=False)
    )
    return (*(None,) * lead, *kept)


def each(function: Callable[..., Any], *lists: Sequence[Any]) -> list[Any]:
    """`function` of the items of lists, leaf by leaf."""
    return [function(*leaves) for leaves in zip(*lists, strict=True)]


def leaf_by_leaf(
    of: type[State],
    init: Callable[[Params], State],
    step: Callable[[Arrays, Paths, State], tuple[Arrays, State]],
) -> optax.GradientTransformationExtraArgs:
    """The transformation of `step`, which gets gradients, their paths and a state as flat lists.

    So boxes and containers of gradients, parameters and state need not be the same.
    """

    def like(tree: Tree, other: Any) -> Tree:
        return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(other))

    def update(updates: Updates, state: OptState, params: Any = None, **extra: Any) -> Updated:
        known = check_state(state, of)
        check_together(updates, known, init)
        leaves = jax.tree_util.tree_leaves_with_path(unboxed(updates))
        if not leaves:
            return updates, known
        trees = {k: x for k, x in known._asdict().items() if x is not None and k not in COUNTERS}
        old = known._replace(**{name: jax.tree.leaves(tree) for name, tree in trees.items()})
        u, new = step([x for _, x in leaves], [path for path, _ in leaves], old)
        return like(updates, u), like(known, new)

    return optax.GradientTransformationExtraArgs(lambda params: init(params), update)


def check_together(updates: Updates, state: OptState, init: Callable[[Params], Any]) -> None:
    """Updates and a state belong together: `init` would make such a state of such parameters.

    Names, shapes and kinds of numbers are compared, all of them known before jit. Nothing is kept.

    Raises:
      ValueError, TypeError: they do not.
    """
    check_inexact("updates", unboxed(updates))

    def parameter(x: Any) -> jax.ShapeDtypeStruct:
        is_complex = jnp.issubdtype(dtype_of(x), jnp.complexfloating)
        return jax.ShapeDtypeStruct(np.shape(x), jnp.complex64 if is_complex else jnp.float32)

    def named(path: KeyPath, x: Any) -> tuple[str, list[int], str]:
        kind = str(dtype_of(x))
        # Whether gradients, parameters, state and its counter are 64 bits wide is free.
        kind = {"float64": "float32", "complex128": "complex64", "int64": "int32"}.get(kind, kind)
        return jax.tree_util.keystr(path, simple=True, separator="/"), list(np.shape(x)), kind

    expected = jax.eval_shape(init, jax.tree.map(parameter, updates))
    flatten = jax.tree_util.tree_leaves_with_path
    leaves = (starmap(named, flatten(unboxed(tree))) for tree in (state, expected))
    for pair in zip_longest(*leaves):
        if pair[0] != pair[1]:
            found, wanted = (f"{x[2]}{x[1]} at {x[0]}" if x else "nothing more" for x in pair)
            got = f"a state with {found}, where init makes {wanted} for these updates"
            remedy = (
                "Pass gradients of the parameters that init saw, real or complex as these are, and "
                "the state of an optimizer with the same arguments; or call init again."
            )
            refuse(ValueError, "state and updates", "of one optimizer", got, remedy)
