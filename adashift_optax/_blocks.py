"""phi: what the squared gradients of a block tell about its scale.

What is kept of the blocks, v or a delayed phi(g^2), is a list of arrays: the cells.
"""

import numbers
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jax.typing import ArrayLike
from optax import Params

from adashift_optax import _checks
from adashift_optax._boxes import Arrays, Paths, each, map_leaves, map_to_others
from adashift_optax._numbers import accumulator_dtype, mean, squared, widest
from adashift_optax._xla import zeros_like

Phi = Literal["max", "mean", "none"] | Callable[[jax.Array], ArrayLike]
AxesOf = Callable[[KeyPath, jax.ShapeDtypeStruct], Sequence[int] | None]
BlockAxes = Sequence[int] | AxesOf | None

# The cells of so many whole leaves are one vector, so that hundreds of leaves cost a few small
# kernels. In one vector of all, XLA would compile one kernel for each index that is read.
POOL = 8


REDUCTIONS = {"max": partial(jnp.max, initial=0), "mean": mean}  # both 0 over nothing


class Blocks(NamedTuple):
    """What shares one v: an element (phi="none"), `axes` of a leaf, or (None) a whole leaf."""

    phi: Phi
    axes: BlockAxes

    @property
    def pooled(self) -> bool:
        """Whether blocks are whole leaves, so that the cells of several are one vector."""
        return self.axes is None and self.phi != "none"

    def init(self, params: Params) -> Any:
        """Cells of 0: vectors, or a tree like `params` in which the reduced axes have size 1."""

        def zeros(path: KeyPath, p: jax.Array) -> jax.Array:
            zeros = zeros_like(p, accumulator_dtype(p, real=True))
            axes = () if self.phi == "none" else axes_of(self.axes, path, p)
            return jnp.sum(zeros, axes, keepdims=True) if axes else zeros

        # Reductions, not fresh arrays: they are on the mesh of the leaf, and axes that stay keep
        # their sharding.
        leaves = jax.tree.leaves(params)
        if not leaves or not self.pooled:
            return (map_leaves if self.phi == "none" else map_to_others)(zeros, params)
        dtype = widest(accumulator_dtype(p, real=True) for p in leaves)
        return tuple(pools_of([jnp.sum(zeros_like(p, dtype)) for p in leaves], dtype))

    def squares(self, g: Arrays, paths: Paths, like: Arrays) -> Arrays:
        """phi(g^2) of every block: cells of the dtypes of `like`."""
        cells = each(squared, g)
        if self.phi != "none":
            axes = [axes_of(self.axes, path, x) for path, x in zip(paths, g, strict=True)]
            cells = each(partial(phi_of, self.phi), cells, axes)
        if self.pooled:
            cells = pools_of(cells, like[0].dtype)
        return each(lambda x, v: x.astype(v.dtype).reshape(v.shape), cells, like)

    def spread(self, cells: Arrays, leaves: int) -> Arrays:
        """Each leaf's cells, in a shape that broadcasts to it."""
        index = partial(jax.lax.index_in_dim, keepdims=False)
        return [index(cells[i // POOL], i % POOL) for i in range(leaves)] if self.pooled else cells


def pools_of(cells: Arrays, dtype: jnp.dtype) -> Arrays:
    """The cells of whole leaves in vectors, each of which is shared by some."""
    cells = [x.astype(dtype) for x in cells]
    return [jnp.stack(cells[i : i + POOL]) for i in range(0, len(cells), POOL)]


def phi_of(phi: Phi, g2: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Phi over `axes` of each block; of nothing it is 0."""
    if not callable(phi):
        return REDUCTIONS[phi](g2, axes)
    kept = [a for a in range(g2.ndim) if a not in axes]
    if not g2.size:
        return jnp.zeros([g2.shape[a] for a in kept], g2.dtype)

    def of_block(block: jax.Array) -> jax.Array:
        return _checks.check_phi_value(phi(block))

    for _ in kept:
        of_block = jax.vmap(of_block)
    return of_block(jnp.transpose(g2, (*kept, *axes)))


def check_block_axes(axes: Any) -> Any:
    """`axes`, None, a tuple of ints or a callable."""
    if axes is None or callable(axes):
        return axes
    is_list = isinstance(axes, (tuple, list))
    if is_list and all(isinstance(a, numbers.Integral) and not isinstance(a, bool) for a in axes):
        return tuple(axes)
    rule = "None, a tuple of ints or a callable (path, leaf) -> tuple | None"
    _checks.refuse(TypeError, "block_axes", rule, repr(axes), "Pass e.g. block_axes=(-2, -1).")


def axes_of(axes: Any, path: KeyPath, leaf: jax.Array) -> tuple[int, ...]:
    """The axes of one leaf that are reduced, in [0, ndim) and in their order."""
    ndim = jnp.ndim(leaf)
    if callable(axes):
        axes = axes(path, jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)))
    if axes is None:
        return tuple(range(ndim))
    axes = tuple(check_block_axes(axes))
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        got = f"{axes} for the leaf {_checks.at(path)} of rank {ndim}"
        remedy = "Pass a callable (path, leaf) -> tuple | None to choose axes leaf by leaf."
        _checks.refuse(ValueError, "block_axes", "different axes of each leaf", got, remedy)
    return tuple(sorted(a % ndim for a in axes))
