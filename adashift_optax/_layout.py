"""Whether updates and state belong together: compared with what init makes of such updates.

Only names, shapes and kinds of numbers are looked at, once for each structure: compiled programs
are the same, and steps without jit only look up that this has been done.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath
from optax import OptState, Params, Updates

from adashift_optax._boxes import plain_nodes, unboxed
from adashift_optax._checks import at, check_inexact, dtype_of

State = TypeVar("State")
Tree = TypeVar("Tree")
Leaf = tuple[KeyPath, jax.ShapeDtypeStruct]
Kinds = tuple[tuple[tuple[int, ...], jnp.dtype], ...]


class Layout(NamedTuple):
    """How updates and a state are put together, without Flax's boxes.

    Attributes:
      updates: the containers of the updates.
      state: those of the state, in which every tree like the parameters is one like the updates.
    """

    updates: Any
    state: Any


def plain(updates: Updates, state: State, init: Callable[[Params], State]) -> tuple[Updates, State]:
    """Both without Flax's boxes, all in the containers of `updates`, if they fit together.

    Raises:
      ValueError, TypeError: they do not.
    """
    (leaves, tree), (kept, kept_tree) = jax.tree.flatten(updates), jax.tree.flatten(state)
    layout = _layout(init, tree, _kinds(leaves), kept_tree, _kinds(kept))
    return layout.updates.unflatten(leaves), layout.state.unflatten(kept)


def like(tree: Tree, other: Tree) -> Tree:
    """The leaves of `other` in the containers and boxes of `tree`."""
    return jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(other))


def _kinds(leaves: list[jax.Array]) -> Kinds:
    return tuple((np.shape(x), dtype_of(x)) for x in leaves)


@functools.lru_cache(maxsize=256)
def _layout(
    init: Callable[[Params], OptState],
    tree: Any,
    kinds: Kinds,
    state_tree: Any,
    state_kinds: Kinds,
) -> Layout:
    """The layout of updates and a state of these structures, if they fit together."""
    check_inexact("updates", unboxed(tree.unflatten(dtype for _, dtype in kinds)))
    updates, state = (
        unboxed(t.unflatten(jax.ShapeDtypeStruct(*kind) for kind in k))
        for t, k in ((tree, kinds), (state_tree, state_kinds))
    )
    # In the width of the parameters, which updates need not have: the state tells it.
    wide = any(dtype in (jnp.float64, jnp.complex128) for _, dtype in state_kinds)
    dtypes = (jnp.float64, jnp.complex128) if wide else (jnp.float32, jnp.complex64)

    def parameter(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, dtypes[jnp.issubdtype(x.dtype, jnp.complexfloating)])

    expected = jax.eval_shape(init, jax.tree.map(parameter, updates))
    flatten = jax.tree_util.tree_leaves_with_path
    for old, new in itertools.zip_longest(flatten(state), flatten(expected)):
        if not _alike(old, new):
            raise ValueError(
                "state and updates must belong together; got a state with "
                f"{_describe(old)}, where init makes {_describe(new)} for these updates. Pass "
                "gradients of the parameters that init saw, and the state of an optimizer with the "
                "same phi, block_axes and kind of b1 (0 or more); or call init again. Gradients of "
                "real parameters must be real (jnp.real), of complex ones complex (x.astype)."
            )
    return Layout(*(jax.tree.structure(plain_nodes(x)) for x in (updates, expected)))


def _alike(old: Leaf | None, new: Leaf | None) -> bool:
    """Whether name and shape are the same, and the dtype of one kind, at least 32 bits wide.

    A dtype that is narrower on purpose is the same.
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


def _describe(leaf: Leaf | None) -> str:
    if leaf is None:
        return "nothing more"
    path, x = leaf
    return f"{x.dtype}{list(x.shape)} at {at(path)}"
