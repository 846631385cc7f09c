"""The spatial operation phi: what the squared gradients of one block tell about their scale.

What is kept of the blocks, v or a delayed phi(g^2), is a tree of arrays: the cells.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax.tree_util import KeyPath
from jax.typing import ArrayLike
from optax import Params, Updates

from adashift_optax import _checks
from adashift_optax._axes import AxesOf, BlockAxes, check_axes, outputs
from adashift_optax._boxes import map_leaves, map_to_others, zeros_like
from adashift_optax._numbers import (
    accumulator_dtype,
    apart_on_cpu,
    in_range,
    inverse_root,
    inverse_root_of_product,
    mean,
    squared,
    widest,
)

# Of 300 leaves, one vector would make XLA compile 300 kernels that differ in the index they read.
GROUP = 8

AxisName = str | tuple[str, ...] | None
Phi = Literal["max", "mean", "none", "factored"] | Callable[[jax.Array], ArrayLike]


def largest(x: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    """The maximum, 0 over nothing."""
    return jnp.max(x, axes) if x.size else jnp.sum(x, axes)


def mean_of_shards(cells: tuple[jax.Array, ...], axis_name: AxisName) -> tuple[jax.Array, ...]:
    """``jax.lax.pmean``, whose sum could overflow."""
    shards = jax.lax.axis_size(axis_name)
    return jax.lax.psum(tuple(c / shards for c in cells), axis_name)


# What a name stands for: phi over some axes of the squares, and over the shards of one block.
REDUCTIONS = {"max": (largest, jax.lax.pmax), "mean": (mean, mean_of_shards)}
PHIS = (*REDUCTIONS, "none", "factored")


Cells = TypeVar("Cells")
Vectors = tuple[jax.Array, ...]
Factors = tuple[Params, Params, Params]


@dataclasses.dataclass(frozen=True)
class Blocks(abc.ABC, Generic[Cells]):
    """How leaves are divided into blocks, and in what form one number is kept for each."""

    @abc.abstractmethod
    def init(self, params: Params) -> Cells:
        """Cells of 0 for `params`."""

    @abc.abstractmethod
    def reduce(self, g: Updates, like: Cells) -> Cells:
        """Phi of the squares of `g` in each block: cells of the dtypes of `like`."""

    def spread(self, cells: Cells, like: Updates) -> Updates:
        """What of `cells` belongs to each leaf: a tree like `like` that broadcasts to it."""
        del like
        return cells  # pyright: ignore[reportReturnType]

    def scales(self, vhat: Cells, eps: ArrayLike, like: Updates) -> Updates:
        """1 / (sqrt(vhat) + eps), 0 where vhat is 0: a tree like `like` that broadcasts to it."""
        return self.spread(jax.tree.map(lambda v: inverse_root(v, eps), vhat), like)


class Elements(Blocks[Params]):
    """Each element is a block of its own."""

    def init(self, params: Params) -> Params:
        return real_zeros(params)

    def reduce(self, g: Updates, like: Params) -> Params:
        return jax.tree.map(lambda x, c: squared(x).astype(c.dtype), g, like)


@dataclasses.dataclass(frozen=True)
class WholeLeaves(Blocks[Vectors]):
    """Each leaf is one block. The cells of GROUP leaves are one vector, so that hundreds of leaves
    cost a few small operations instead of hundreds.

    With `axis_name` what is seen of each leaf is a shard on these mesh axes.
    """

    phi: Phi
    axis_name: AxisName = None
    of: Callable[[jax.Array], jax.Array] = squared

    def init(self, params: Params) -> Vectors:
        leaves = jax.tree.leaves(params)
        if not leaves:  # as map_to_others does
            return jnp.zeros([])  # pyright: ignore[reportReturnType]
        dtype = widest(accumulator_dtype(p, real=True) for p in leaves)
        return tuple(jnp.zeros([len(group)], dtype) for group in _groups(leaves))

    def reduce(self, g: Updates, like: Vectors) -> Vectors:
        groups = _groups([_phi_of(self.phi, self.of(x), None) for x in jax.tree.leaves(g)])
        if not groups:
            return like
        cells = tuple(
            jnp.stack([x.astype(c.dtype) for x in group])
            for group, c in zip(groups, like, strict=True)
        )
        if self.axis_name is None:
            return cells
        return REDUCTIONS[str(self.phi)][1](cells, self.axis_name)

    def spread(self, cells: Vectors, like: Updates) -> Updates:
        leaves, treedef = jax.tree.flatten(like)

        def cell(i: int) -> jax.Array:
            return jax.lax.index_in_dim(cells[i // GROUP], i % GROUP, keepdims=False)

        return treedef.unflatten([cell(i) for i in range(len(leaves))])


@dataclasses.dataclass(frozen=True)
class Axes(Blocks[Params]):
    """`block_axes` of a leaf are reduced together: in its cells they have size 1."""

    phi: Phi
    block_axes: Sequence[int] | AxesOf
    of: Callable[[jax.Array], jax.Array] = squared

    def init(self, params: Params) -> Params:
        def cells(path: KeyPath, p: jax.Array) -> jax.Array:
            axes = self.block_axes
            if callable(axes):
                axes = axes(path, jax.ShapeDtypeStruct(jnp.shape(p), jnp.result_type(p)))
            return _reduced_zeros(path, p, axes)

        return map_to_others(cells, params, with_path=True)

    def reduce(self, g: Updates, like: Params) -> Params:
        def one(x: jax.Array, c: jax.Array) -> jax.Array:
            # Of an axis of size 1 nobody can tell whether it was reduced: it is the same.
            axes = tuple(a for a, size in enumerate(c.shape) if size == 1)
            return _phi_of(self.phi, self.of(x), axes).astype(c.dtype).reshape(c.shape)

        return jax.tree.map(one, g, like)


class Factored(Blocks[Factors]):
    """Three trees of cells: means of rows [..., rows, 1], of columns [..., 1, columns] and of both
    [..., 1, 1]. A leaf of rank < 2 is kept whole in the first; the others have a 0 for it.

    The third could be made of the first. But where rows are sharded, that is an all-reduce, and the
    update would wait for it. tests/test_order.py and tests/test_compiled.py guard this.
    """

    def init(self, params: Params) -> Factors:
        def one(axes: tuple[int, ...], path: KeyPath, p: jax.Array) -> jax.Array:
            whole = () if axes == (-1,) else None
            return _reduced_zeros(path, p, axes if jnp.ndim(p) >= 2 else whole)

        axes = ((-1,), (-2,), (-2, -1))
        rows, columns, both = (map_to_others(partial(one, a), params, True) for a in axes)
        return rows, columns, both

    def reduce(self, g: Updates, like: Factors) -> Factors:
        def one(axis: int, x: jax.Array, c: jax.Array) -> jax.Array:
            x = squared(x) if x.ndim < 2 else mean(squared(x), axis)
            return jnp.zeros_like(c) if x.size != c.size else x.astype(c.dtype).reshape(c.shape)

        def of_rows(r: jax.Array, c: jax.Array) -> jax.Array:
            # What joins no row of v must not join their mean: v would be far too small.
            r = jnp.where(in_range(r), r, 0)
            return jnp.zeros_like(c) if r.ndim < 2 else mean(r, -2)[..., None, :]

        rows = jax.tree.map(partial(one, -1), g, like[0])
        columns = jax.tree.map(partial(one, -2), apart_on_cpu(g), like[1])
        return rows, columns, jax.tree.map(of_rows, rows, like[2])

    def scales(self, vhat: Factors, eps: ArrayLike, like: Updates) -> Updates:
        # vhat = rows x columns / mean(rows), which is Adafactor's.
        def one(rows: jax.Array, columns: jax.Array, of_rows: jax.Array) -> jax.Array:
            if rows.ndim < 2:
                return inverse_root(rows, eps)
            # The ratio first, because products may underflow; of eighths, because XLA makes a
            # quotient a product with a reciprocal, and that of the largest numbers underflows.
            rows, of_rows = rows * 0.125, of_rows * 0.125
            # It may lack rows. A mean of k numbers >= 0 is at least a kth of each.
            of_rows = jnp.maximum(of_rows, rows / max(rows.shape[-2], 1))
            share = jnp.where(of_rows > 0, rows / jnp.where(of_rows > 0, of_rows, 1), 0)
            return inverse_root_of_product(share, columns, eps)

        return jax.tree.map(one, *vhat)


def make_blocks(
    phi: Phi,
    block_axes: BlockAxes,
    axis_name: AxisName,
    of: Callable[[jax.Array], jax.Array] = squared,
) -> Blocks:
    """The blocks of these arguments."""
    if phi in ("none", "factored"):
        return Elements() if phi == "none" else Factored()
    if block_axes is None:
        return WholeLeaves(phi, axis_name, of)
    return Axes(phi, outputs if block_axes == "outputs" else block_axes, of)


def real_zeros(params: Params) -> Params:
    """Zeros like `params`, real and float32 or wider."""
    return map_leaves(lambda p: zeros_like(p, accumulator_dtype(p, real=True)), params)


def _groups(leaves: Sequence[jax.Array]) -> list[Sequence[jax.Array]]:
    return [leaves[i : i + GROUP] for i in range(0, len(leaves), GROUP)]


def _reduced_zeros(path: KeyPath, p: jax.Array, axes: Sequence[int] | None) -> jax.Array:
    """Real zeros of the shape of `p` with `axes` reduced (None: all of them)."""
    zeros = zeros_like(p, accumulator_dtype(p, real=True))
    axes = check_axes(axes, zeros.ndim, path)
    # A reduction, not a fresh array, so that the axes that stay keep their sharding.
    return jnp.sum(zeros, axes, keepdims=True) if axes else zeros


def _phi_of(phi: Phi, g2: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
    """Phi over `axes` (None: all of them); of nothing it is 0."""
    if not callable(phi):
        return REDUCTIONS[phi][0](g2, axes)
    if axes is None:
        return _checks.check_phi_value(phi(g2) if g2.size else jnp.zeros([], g2.dtype))
    kept = [a for a in range(g2.ndim) if a not in axes]
    num_blocks = math.prod(g2.shape[a] for a in kept)
    if not g2.size:
        return jnp.zeros(num_blocks, g2.dtype)
    blocks = jnp.transpose(g2, (*kept, *axes))
    blocks = blocks.reshape(num_blocks, *(g2.shape[a] for a in axes))
    return jax.vmap(lambda block: _checks.check_phi_value(phi(block)))(blocks)
