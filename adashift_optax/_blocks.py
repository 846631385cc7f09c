"""The spatial operation phi: what the squared gradients of one block tell about their scale.

What is kept per block ("cells": v, or a delayed phi(g^2)) is a list of arrays:
  phi="none"      one per leaf, of its shape;
  phi="factored"  two per leaf: row means [..., rows, 1] and column means [..., 1, columns];
  block_axes      one per leaf, whose reduced axes have size 1;
  otherwise       every leaf is one block, and a vector holds the cells of GROUP leaves, so that
                  hundreds of leaves cost a few small operations instead of hundreds.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adashift_optax import _checks
from adashift_optax._boxes import map_leaves, zeros_like

# Of 300 leaves, one vector would make XLA compile 300 kernels that differ in the index they read.
GROUP = 8

AxisName = str | tuple[str, ...] | None
BlockAxes = Sequence[int] | Callable[[Any, Any], Sequence[int] | None] | None


def accumulator_dtype(x: Any, real: bool = False) -> jnp.dtype:
    """float32 or wider (complex64 or wider where x is complex, unless `real`)."""
    dtype = jnp.result_type(x)
    # Not by promote_types, which refuses to mix dtypes under jax_numpy_dtype_promotion="strict".
    dtype = jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype
    return jnp.finfo(dtype).dtype if real else dtype


def widest(dtypes: Iterable[jnp.dtype]) -> jnp.dtype:
    """The widest of real `dtypes`; float32 if there are none."""
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))


def squared(g: jax.Array) -> jax.Array:
    """|g|^2 in float32 or wider: optax's convention for complex gradients."""
    g = g.astype(accumulator_dtype(g))
    return jnp.real(g * jnp.conj(g)) if jnp.iscomplexobj(g) else g * g


def _groups(leaves: Sequence[Any]) -> list[Sequence[Any]]:
    return [leaves[i : i + GROUP] for i in range(0, len(leaves), GROUP)]


def _mean(x: jax.Array, axes: tuple[int, ...] | int | None) -> jax.Array:
    """The mean, 0 over nothing."""
    total = jnp.sum(x, axes)
    return total / max(x.size // max(total.size, 1), 1)


def _root(x: jax.Array) -> jax.Array:
    """The square root, whose derivative is 0 at 0: an infinite one would become NaN later."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def _inverse(root: jax.Array, eps: Any) -> jax.Array:
    """1 / (root + eps), and 0 where the root is 0: no scale yet, no step."""
    known = root > 0
    return jnp.where(known, 1 / (jnp.where(known, root, 1) + jnp.asarray(eps, root.dtype)), 0)


@dataclasses.dataclass(frozen=True)
class Blocks:
    """The operation phi over the blocks that `block_axes` names.

    With `axis_name` each leaf is one block, and what is seen of it a shard on these mesh axes.
    """

    phi: str | Callable[[jax.Array], jax.Array]
    block_axes: BlockAxes = None
    axis_name: AxisName = None

    @property
    def elementwise(self) -> bool:
        return self.phi == "none"

    @property
    def factored(self) -> bool:
        return self.phi == "factored"

    @property
    def pooled(self) -> bool:
        """Whether vectors hold the cells of GROUP leaves each."""
        return not self.elementwise and not self.factored and self.block_axes is None

    def init(self, params: Any) -> Any:
        """Zero cells for `params`: vectors, a tree like `params`, or (rows, columns) of trees."""
        if self.pooled:
            leaves = jax.tree.leaves(params)
            if not leaves:  # a leaf for any number of vectors, as optax.tree.map_params wants it
                return jnp.zeros([0])
            dtype = widest(accumulator_dtype(p, real=True) for p in leaves)
            return tuple(jnp.zeros([len(group)], dtype) for group in _groups(leaves))
        cells = [
            map_leaves(lambda path, p, k=k: self._cell(path, p, k), params, with_path=True)
            for k in range(1 + self.factored)
        ]
        return tuple(cells) if self.factored else cells[0]

    def _cell(self, path: Any, p: Any, k: int) -> jax.Array:
        zeros = zeros_like(p, accumulator_dtype(p, real=True))
        if self.elementwise or (self.factored and zeros.ndim < 2 and k == 0):
            return zeros
        if self.factored:  # a leaf of rank < 2 has no columns: all of it is in its rows
            axes = (-1 - k,) if zeros.ndim >= 2 else None
        else:
            axes = self.block_axes(path, p) if callable(self.block_axes) else self.block_axes
        # A reduction, not a fresh array, so that the axes that stay keep their sharding.
        return jnp.sum(zeros, _checks.check_axes(axes, zeros.ndim, path), keepdims=True)

    def num_leaves(self, cells: Sequence[Any]) -> int:
        """How many leaves `cells` are of."""
        if self.pooled:
            return sum(math.prod(jnp.shape(c)) for c in cells)
        return len(cells) // (1 + self.factored)

    def fits(self, cells: Sequence[tuple[int, ...]], shapes: Sequence[Any]) -> bool:
        """Whether cells of these shapes are of leaves of these `shapes` (None: any)."""
        num = len(shapes)
        if self.pooled:
            return list(cells) == [(len(group),) for group in _groups(shapes)] or (
                not num and list(cells) == [(0,)]
            )
        if len(cells) != num * (1 + self.factored):
            return False
        return all(
            shape is None or self._fits(cells[i::num], shape) for i, shape in enumerate(shapes)
        )

    def _fits(self, cells: Sequence[tuple[int, ...]], shape: tuple[int, ...]) -> bool:
        if self.elementwise:
            return cells[0] == shape
        if self.factored:
            rank = len(shape) >= 2
            rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, *shape[-1:])
            return tuple(cells) == ((rows, columns) if rank else (shape, (1,) * len(shape)))
        (cell,) = cells
        return len(cell) == len(shape) and all(
            c in (1, size) for c, size in zip(cell, shape, strict=True)
        )

    def reduce(
        self,
        g: Sequence[jax.Array],
        like: Sequence[jax.Array],
        of: Callable[[jax.Array], jax.Array] = squared,
    ) -> list[jax.Array]:
        """Applies phi to `of`(g) in every block of `g`; returns cells of the form of `like`."""
        if not g:
            return list(like)
        if self.pooled:
            values = _groups([self._phi(of(x), None) for x in g])
            cells = [
                jnp.stack([x.astype(c.dtype) for x in group])
                for group, c in zip(values, like, strict=True)
            ]
            return cells if self.axis_name is None else self._across(cells)
        if self.factored:
            rows = [_mean(of(x), -1) if x.ndim >= 2 else of(x) for x in g]
            # Behind a barrier, or XLA would see two readers of one square, and store it for them.
            apart = jax.lax.optimization_barrier(list(g))
            columns = [_mean(of(x), -2) if x.ndim >= 2 else jnp.zeros([]) for x in apart]
            values = rows + columns
        else:
            # Of an axis of size 1 nobody can tell whether it was reduced: it is the same.
            axes = [tuple(a for a, size in enumerate(c.shape) if size == 1) for c in like]
            values = [self._phi(of(x), a) for x, a in zip(g, axes, strict=True)]
        return [x.astype(c.dtype).reshape(c.shape) for x, c in zip(values, like, strict=True)]

    def _phi(self, g2: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
        """Applies phi over `axes` (None: all of them)."""
        phi = self.phi
        if phi == "max":
            return jnp.max(g2, axes) if g2.size else jnp.sum(g2, axes)
        if phi == "mean":
            return _mean(g2, axes)
        assert not isinstance(phi, str)  # for the type checker: names are checked beforehand
        if axes is None:
            return _checks.check_phi_value(phi(g2) if g2.size else jnp.zeros([], g2.dtype))
        kept = [a for a in range(g2.ndim) if a not in axes]
        num_blocks = math.prod(g2.shape[a] for a in kept)
        if not g2.size:
            return jnp.zeros(num_blocks, g2.dtype)
        blocks = jnp.transpose(g2, (*kept, *axes))
        blocks = blocks.reshape(num_blocks, *(g2.shape[a] for a in axes))
        return jax.vmap(lambda block: _checks.check_phi_value(phi(block)))(blocks)

    def _across(self, cells: list[jax.Array]) -> list[jax.Array]:
        """Cells of whole leaves from those of their shards, which are all of one size."""
        across = jax.lax.pmax if self.phi == "max" else jax.lax.pmean
        with _checks.axis_names(self.axis_name):
            return across(cells, self.axis_name)

    def spread(self, cells: Sequence[jax.Array], num: int) -> list[jax.Array]:
        """One array for each of `num` leaves that broadcasts against it (not if factored)."""
        if not self.pooled:
            return list(cells)
        take = jax.lax.index_in_dim
        return [take(cells[i // GROUP], i % GROUP, keepdims=False) for i in range(num)]

    def scales(self, v: Sequence[jax.Array], to_vhat: Any, eps: Any, num: int) -> list[jax.Array]:
        """1 / (sqrt(v * to_vhat(v)) + eps) for each of `num` leaves, 0 where v is 0."""
        if not self.factored:
            return self.spread([_inverse(_root(c * to_vhat(c)), eps) for c in v], num)
        scales = []
        for rows, columns in zip(v[:num], v[num:], strict=True):
            if rows.ndim < 2:
                root = _root(rows * to_vhat(rows))
            else:
                # Adafactor's rows x columns / mean(rows); the ratio first, lest products underflow.
                mean = _mean(rows, -2)[..., None, :]
                share = jnp.where(mean > 0, rows / jnp.where(mean > 0, mean, 1), 0)
                root = _root(share) * _root(columns * to_vhat(columns))
            scales.append(_inverse(root, eps))
        return scales
