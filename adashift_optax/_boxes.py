"""Parameters in Flax's boxes, and whether updates and a state belong together.

``nnx.Variable`` and linen's ``Partitioned`` carry the name of a mesh axis per array axis. A state
leaf of another shape needs other names: inherited unchanged, they would shard the slots of a queue,
or an axis that phi has reduced to size 1. Both kinds are known by their methods, not by importing
Flax. A box may hold any tree: one array, none (``optax.MaskedNode``) or several.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath
from optax import OptState, Params, Updates

from adashift_optax._checks import at, check_inexact, dtype_of

Tree = TypeVar("Tree")
State = TypeVar("State", bound=NamedTuple)
Paths = list[KeyPath]
Kinds = tuple[tuple[tuple[int, ...], np.dtype], ...]

# Fields of a state that are no trees.
_COUNTERS = ("count", "slot")
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

    def visit(path: KeyPath, x: Any) -> Params:
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


def map_to_others(make: Callable[..., jax.Array], tree: Tree, with_path: bool = False) -> Any:
    """:func:`map_leaves` where `make` gives arrays of another shape than the leaf's.

    Of a tree without leaves it is one number: by such a tree ``optax.tree.map_params`` asks what in
    a state is like the parameters, and a number says that this is not.
    """
    return map_leaves(make, tree, with_path) if jax.tree.leaves(tree) else jnp.zeros([])


def _rename(names: Any, old: Any, new: Params) -> Any:
    """The axis names of `new`: none for leading axes that `old` lacks, nor for reduced ones.

    They are the names of one array. Of a box that holds none or several, they stay as they are.
    """
    if not isinstance(new, jax.Array) or not isinstance(names, (str, tuple, list)):
        return names
    names = (names,) if isinstance(names, str) else names  # Flax takes one name as it is
    shape = jnp.shape(old)
    lead = new.ndim - len(shape)
    kept = (
        name if size == now else None
        for name, size, now in zip(names, shape, new.shape[lead:], strict=False)
    )
    return (*(None,) * lead, *kept)


def leaves_of(updates: Updates) -> tuple[list[jax.Array], Paths]:
    """The leaves of `updates`, and where each is, without boxes."""
    leaves = jax.tree_util.tree_leaves_with_path(unboxed(updates))
    return [leaf for _, leaf in leaves], [path for path, _ in leaves]


def flat(state: State) -> State:
    """`state` with a list of leaves in the place of each tree; None stays None.

    So boxes and containers of the state need not be those of the updates.
    """
    trees = ((k, x) for k, x in state._asdict().items() if x is not None and k not in _COUNTERS)
    return state._replace(**{name: jax.tree.leaves(tree) for name, tree in trees})


def like(tree: Tree, other: Any) -> Tree:
    """The leaves of `other` in the containers and boxes of `tree`."""
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(other))


def checker(init: Callable[[Params], OptState]) -> Callable[[Updates, OptState], None]:
    """A check that updates and a state belong together: that `init` would make such a state.

    It looks at names, shapes and kinds of numbers, and remembers what it has seen as long as the
    optimizer lives, so that steps without jit only look that up. It keeps no array.

    Raises:
      ValueError, TypeError: they do not.
    """

    @functools.lru_cache(maxsize=16)
    def check(tree: Any, kinds: Kinds, state_tree: Any, state_kinds: Kinds) -> None:
        check_inexact("updates", unboxed(tree.unflatten(dtype for _, dtype in kinds)))
        updates, state = (
            unboxed(t.unflatten(jax.ShapeDtypeStruct(*kind) for kind in k))
            for t, k in ((tree, kinds), (state_tree, state_kinds))
        )
        # In the width of the parameters, which updates need not have: the state tells it.
        wide = any(dtype in (jnp.float64, jnp.complex128) for _, dtype in state_kinds)
        dtypes = (jnp.float64, jnp.complex128) if wide else (jnp.float32, jnp.complex64)

        def parameter(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            is_complex = jnp.issubdtype(x.dtype, jnp.complexfloating)
            return jax.ShapeDtypeStruct(x.shape, dtypes[is_complex])

        expected = jax.eval_shape(init, jax.tree.map(parameter, updates))
        flatten = jax.tree_util.tree_leaves_with_path
        for old, new in itertools.zip_longest(flatten(state), flatten(expected)):
            if not _alike(old, new):
                raise ValueError(
                    "state and updates must belong together; got a state with "
                    f"{_describe(old)}, where init makes {_describe(new)} for these updates. Pass "
                    "gradients of the parameters that init saw, and the state of an optimizer "
                    "with the same arguments; or call init again. Gradients of real parameters "
                    "must be real (jnp.real), of complex ones complex (x.astype)."
                )

    def check_trees(updates: Updates, state: OptState) -> None:
        (leaves, tree), (kept, kept_tree) = jax.tree.flatten(updates), jax.tree.flatten(state)
        check(tree, _kinds(leaves), kept_tree, _kinds(kept))

    return check_trees


def _kinds(leaves: list[Any]) -> Kinds:
    return tuple((np.shape(x), dtype_of(x)) for x in leaves)


def _alike(old: Any, new: Any) -> bool:
    """Whether name and shape are the same, and the dtype of one kind, at least 32 bits wide.

    A configured narrow dtype must match exactly.
    """
    if old is None or new is None:
        return False
    (old_path, x), (new_path, y) = old, new
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    if x.shape != y.shape or (old_path != new_path and name(old_path) != name(new_path)):
        return False
    if not jnp.issubdtype(y.dtype, jnp.inexact) or y.dtype.itemsize < 4:
        return x.dtype == y.dtype
    kind = jnp.complexfloating if jnp.issubdtype(y.dtype, jnp.complexfloating) else jnp.floating
    return jnp.issubdtype(x.dtype, kind) and x.dtype.itemsize >= 4


def _describe(leaf: Any) -> str:
    if leaf is None:
        return "nothing more"
    path, x = leaf
    return f"{x.dtype}{list(x.shape)} at {at(path)}"
