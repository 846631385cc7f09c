"""phi: what the squared gradients of a block tell about its scale.

What is kept of the blocks, v or a delayed phi(g^2), is a list of arrays: the cells. A block is a
whole leaf, or the `block_axes` of a leaf, or with phi="none" an element.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jax.typing import ArrayLike
from optax import Params

from adashift_optax import _checks
from adashift_optax._boxes import Paths, map_leaves, map_to_others
from adashift_optax._numbers import accumulator_dtype, mean, squared, widest
from adashift_optax._xla import zeros_like

Phi = Literal["max", "mean", "none"] | Callable[[jax.Array], ArrayLike]
AxesOf = Callable[[KeyPath, jax.ShapeDtypeStruct], Sequence[int] | None]
BlockAxes = Sequence[int] | AxesOf | None
Arrays = list[jax.Array]

# The cells of so many whole leaves are one vector, so that hundreds of leaves cost a few small
# kernels. In one vector of all, XLA would compile one kernel for each index that is read.
POOL = 8


def largest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The maximum, 0 over nothing."""
    return jnp.max(x, axes) if x.size else jnp.sum(x, axes)


REDUCTIONS = {"max": largest, "mean": mean}


def is_pooled(phi: Phi, block_axes: BlockAxes) -> bool:
    """Whether each block is a whole leaf, so that the cells of several leaves are one vector."""
    return block_axes is None and phi != "none"


def init_cells(params: Params, phi: Phi, block_axes: BlockAxes) -> Any:
    """Cells of 0 for `params`: vectors, or a tree in which the reduced axes have size 1."""

    def zeros(p: jax.Array) -> jax.Array:
        return zeros_like(p, accumulator_dtype(p, real=True))

    def reduced(path: KeyPath, p: jax.Array) -> jax.Array:
        axes = _axes(block_axes, path, p)
        # A reduction, not a fresh array, so that the axes that stay keep their sharding.
        return jnp.sum(zeros(p), axes, keepdims=True) if axes else zeros(p)

    if phi == "none":
        return map_leaves(zeros, params)
    leaves = jax.tree.leaves(params)
    if not leaves or not is_pooled(phi, block_axes):
        return map_to_others(reduced, params, with_path=True)
    dtype = widest(accumulator_dtype(p, real=True) for p in leaves)
    return tuple(jnp.zeros([len(pool)], dtype) for pool in _pools(leaves))


def squares(g: Arrays, paths: Paths, like: Arrays, phi: Phi, block_axes: BlockAxes) -> Arrays:
    """phi(g^2) of every block: cells of the dtypes of `like`."""
    if phi == "none":
        cells = [squared(x) for x in g]
    elif is_pooled(phi, block_axes):
        each = [_phi_of(phi, squared(x), tuple(range(x.ndim))) for x in g]
        cells = [
            jnp.stack([x.astype(v.dtype) for x in pool])
            for pool, v in zip(_pools(each), like, strict=True)
        ]
    else:
        cells = [
            _phi_of(phi, squared(x), _axes(block_axes, path, x))
            for x, path in zip(g, paths, strict=True)
        ]
    return [x.astype(v.dtype).reshape(v.shape) for x, v in zip(cells, like, strict=True)]


def spread(cells: Arrays, leaves: int, phi: Phi, block_axes: BlockAxes) -> Arrays:
    """Each leaf's cells, in a shape that broadcasts to it."""
    if not is_pooled(phi, block_axes):
        return cells
    index = jax.lax.index_in_dim
    return [index(cells[i // POOL], i % POOL, keepdims=False) for i in range(leaves)]


def _pools(leaves: Arrays) -> list[Arrays]:
    return [leaves[i : i + POOL] for i in range(0, len(leaves), POOL)]


def _phi_of(phi: Phi, g2: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Phi over `axes` of each block; of nothing it is 0."""
    if not callable(phi):
        return REDUCTIONS[phi](g2, axes)
    kept = [a for a in range(g2.ndim) if a not in axes]
    num_blocks = math.prod(g2.shape[a] for a in kept)
    if not g2.size:
        return jnp.zeros(num_blocks, g2.dtype)
    if not kept:  # without vmap, so that phi may use collectives
        return _checks.check_phi_value(phi(g2))
    blocks = jnp.transpose(g2, (*kept, *axes))
    blocks = blocks.reshape(num_blocks, *(g2.shape[a] for a in axes))
    return jax.vmap(lambda block: _checks.check_phi_value(phi(block)))(blocks)


def check_block_axes(block_axes: Any) -> Any:
    """`block_axes`, None, a tuple of ints or a callable."""
    if block_axes is None or callable(block_axes):
        return block_axes
    if isinstance(block_axes, (tuple, list)) and all(map(_is_axis, block_axes)):
        return tuple(block_axes)
    rule = "None, a tuple of ints or a callable (path, leaf) -> tuple | None"
    remedy = "Pass e.g. block_axes=(-2, -1)."
    _checks.refuse(TypeError, "block_axes", rule, repr(block_axes), remedy)


def _is_axis(a: object) -> bool:
    return isinstance(a, numbers.Integral) and not isinstance(a, bool)


def _axes(block_axes: BlockAxes, path: KeyPath, leaf: jax.Array) -> tuple[int, ...]:
    """The axes of one leaf that are reduced, in [0, ndim) and in their order."""
    ndim, axes = jnp.ndim(leaf), block_axes
    if callable(axes):
        axes = axes(path, jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)))
    if axes is None:
        return tuple(range(ndim))
    axes = check_block_axes(axes)
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        got = f"{axes} for the leaf {_checks.at(path)} of rank {ndim}"
        remedy = "Pass a callable (path, leaf) -> tuple | None to choose axes leaf by leaf."
        _checks.refuse(ValueError, "block_axes", "different axes of each leaf", got, remedy)
    return tuple(sorted(a % ndim for a in axes))
