"""The spatial operation phi: what one block of squared gradients tells about their scale.

What is kept per block ("cells": v, or a delayed phi(g^2)) is a list of arrays, of three kinds.
phi="none": one array per leaf, of its shape. `block_axes`: one array per leaf, whose reduced axes
have size 1. Otherwise every leaf is one block, and a single vector holds the cells of all, so that
hundreds of leaves cost one small operation instead of hundreds.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adashift_optax import _checks

BlockAxes = Sequence[int] | Callable[[Any, Any], Sequence[int] | None] | None


def accumulator_dtype(x: jax.Array, real: bool = False) -> jnp.dtype:
    """float32 or wider (complex64 or wider where x is complex, unless `real`)."""
    # Not by promote_types, which refuses to mix dtypes under jax_numpy_dtype_promotion="strict".
    dtype = jnp.dtype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x.dtype
    return jnp.finfo(dtype).dtype if real else dtype


def widest(dtypes: Iterable[jnp.dtype]) -> jnp.dtype:
    """The widest of real `dtypes`; float32 if there are none."""
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))


def squared(g: jax.Array) -> jax.Array:
    """|g|^2 in float32 or wider: optax's convention for complex gradients."""
    g = g.astype(accumulator_dtype(g))
    return jnp.real(g * jnp.conj(g)) if jnp.iscomplexobj(g) else g * g


@dataclasses.dataclass(frozen=True)
class Blocks:
    """phi over the blocks that `block_axes` names."""

    phi: str | Callable[[jax.Array], jax.Array]
    block_axes: BlockAxes

    @property
    def elementwise(self) -> bool:
        return self.phi == "none"

    @property
    def pooled(self) -> bool:
        """Whether one vector holds the cells of all leaves."""
        return not self.elementwise and self.block_axes is None

    def init(self, params: Any) -> Any:
        """Zero cells for `params`: a vector, or a tree like `params`."""
        if self.pooled:
            leaves = jax.tree.leaves(params)
            return jnp.zeros([len(leaves)], widest(accumulator_dtype(p, real=True) for p in leaves))
        return jax.tree_util.tree_map_with_path(self._cell, params)

    def _cell(self, path: Any, p: jax.Array) -> jax.Array:
        zeros = jnp.zeros_like(p, accumulator_dtype(p, real=True))
        if self.elementwise:
            return zeros
        axes = self.block_axes(path, p) if callable(self.block_axes) else self.block_axes
        # A reduction, not a fresh array, so that the axes that stay keep their sharding.
        return jnp.sum(zeros, _checks.check_axes(axes, p.ndim, path), keepdims=True)

    def reduce(self, grads: Sequence[jax.Array], like: Sequence[jax.Array]) -> list[jax.Array]:
        """phi(g^2) of every block, as cells of the shape of `like`."""
        if self.pooled:
            values = [self._phi(squared(g), None) for g in grads]
            if not values:
                return list(like)
            return [jnp.stack([x.astype(like[0].dtype) for x in values])]
        # Axes of size 1 need no separate record of whether they were reduced: it is the same.
        axes = [tuple(a for a, size in enumerate(c.shape) if size == 1) for c in like]
        return [
            self._phi(squared(g), a).astype(c.dtype).reshape(c.shape)
            for g, a, c in zip(grads, axes, like, strict=True)
        ]

    def _phi(self, g2: jax.Array, axes: tuple[int, ...] | None) -> jax.Array:
        """Phi over `axes` (None: all of them)."""
        if self.phi == "max":
            return jnp.max(g2, axes, initial=0)
        if self.phi == "mean":
            size = math.prod(g2.shape if axes is None else [g2.shape[a] for a in axes])
            return jnp.sum(g2, axes) / max(size, 1)
        phi = self.phi
        assert not isinstance(phi, str)  # for the type checker: names are checked beforehand
        if axes is None:
            return _checks.check_phi_value(phi(g2) if g2.size else jnp.zeros([], g2.dtype))
        kept = [a for a in range(g2.ndim) if a not in axes]
        blocks = jnp.transpose(g2, (*kept, *axes))
        num_blocks = math.prod(g2.shape[a] for a in kept)
        if not g2.size:
            return jnp.zeros(num_blocks, g2.dtype)
        blocks = blocks.reshape(num_blocks, *(g2.shape[a] for a in axes))
        return jax.vmap(lambda block: _checks.check_phi_value(phi(block)))(blocks)

    def spread(self, cells: Sequence[jax.Array], grads: Sequence[jax.Array]) -> list[jax.Array]:
        """The cells as one array per leaf that broadcasts against it."""
        return [cells[0][i] for i in range(len(grads))] if self.pooled else list(cells)
