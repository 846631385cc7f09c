"""The queue of gradients: in which dtype a slot holds them, and by what they are scaled."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from adashift_optax import _queue
from adashift_optax._blocks import Blocks, accumulator_dtype
from adashift_optax._boxes import map_leaves


@jax.custom_jvp
def _constant(x: jax.Array) -> jax.Array:
    """`x`, which may not depend on what is differentiated by: its bits have no derivative."""
    return x


@partial(_constant.defjvp, symbolic_zeros=True)
def _constant_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    if not isinstance(tangents[0], SymbolicZero):
        raise TypeError(
            "queue_dtype must be None where updates are differentiated by gradients, because a "
            "queue of bits would drop a part of the derivative. Leave queue_dtype out there."
        )
    return primals[0], jnp.zeros_like(primals[0])


@dataclasses.dataclass(frozen=True)
class GradientQueue:
    """A delay of n steps for gradients, in `dtype` or (None) as wide as they are accumulated.

    Dtypes narrower than 32 bits are held as their bits: XLA on CPU widens a whole bfloat16 ring to
    update one slot of it, but not one of integers.
    """

    n: int
    dtype: jnp.dtype | None
    peaks: Blocks  # phi="max" over the blocks that share a scale

    def init(self, params: Any) -> tuple[Any, Any]:
        """Empty rings for `params` and, where the dtype needs them, rings of scales."""
        # Of no parameters (optax.tree.map_params asks so) as of the widest there are.
        dtypes = [accumulator_dtype(p) for p in jax.tree.leaves(params) or [0.0]]
        rings = map_leaves(
            lambda p: _queue.empty(p, self.n, self._held(accumulator_dtype(p))), params
        )
        if not any(self._needs_scale(dtype) for dtype in dtypes):
            return rings, None
        cells = self.peaks.init(params)
        return rings, map_leaves(lambda c: _queue.empty(c, self.n, c.dtype), cells)

    def push(
        self, rings: Any, scale_rings: Any, g: list[jax.Array], slot: jax.Array
    ) -> tuple[Any, Any, list[jax.Array], list[jax.Array]]:
        """Pushes `g`; returns the rings, `g` as it was rounded on entering, and g_{t-n}.

        What enters the window must be what later leaves it, or the difference stays in m.
        """
        scales = old_scales = []
        scaled = scale_rings is not None
        if scaled:
            like = [ring[0] for ring in jax.tree.leaves(scale_rings)]
            cells = self.peaks.reduce(g, like, of=jnp.abs)
            cells = [self._scale(peak) for peak in cells]
            scale_rings, old_cells = _queue.push_all(scale_rings, cells, slot, self.n)
            scales, old_scales = (
                [c.astype(x.dtype) for c, x in zip(self.peaks.spread(s, len(g)), g, strict=True)]
                for s in (cells, old_cells)
            )
            # A product, which XLA does not store for its two readers as it does a quotient.
            g = [x * (1 / scale) for x, scale in zip(g, scales, strict=True)]
        g = [self._round(x) for x in g]
        rings, old = _queue.push_all(rings, [self._encode(x) for x in g], slot, self.n)
        g_old = [self._decode(bits, x.dtype) for bits, x in zip(old, g, strict=True)]
        if scaled:
            g = [x * scale for x, scale in zip(g, scales, strict=True)]
            g_old = [x * scale for x, scale in zip(g_old, old_scales, strict=True)]
        return rings, scale_rings, g, g_old

    def _held(self, dtype: jnp.dtype) -> jnp.dtype:
        """The dtype of the ring for gradients accumulated in `dtype`."""
        if self.dtype is None or self.dtype.itemsize >= 4:
            return self.dtype or dtype
        return jnp.dtype(f"uint{8 * self.dtype.itemsize}")

    def _needs_scale(self, dtype: jnp.dtype) -> bool:
        """Whether exponents of `dtype` do not fit: then each block is scaled by a power of 2."""
        return self.dtype is not None and jnp.finfo(self.dtype).nexp < jnp.finfo(dtype).nexp

    @property
    def _largest(self) -> float:
        """The largest number with the exponents of an IEEE format (float8_e4m3fn has one more)."""
        info = jnp.finfo(self.dtype)
        return (2 - 2.0**-info.nmant) * 2.0 ** (2 ** (info.nexp - 1) - 1)

    def _scale(self, peak: jax.Array) -> jax.Array:
        """The least power of 2 that brings `peak`, the largest |g| of a block, into range."""
        # Within these bounds neither it nor its inverse is 0, infinite or denormal. Beside a NaN or
        # inf the finite rest of a block rounds to 0, on entering and so on leaving.
        bound = jnp.finfo(peak.dtype).maxexp - 28
        # Nor may what is rounded up in the queue overflow when it leaves: the largest is cut off.
        top = min(bound, jnp.finfo(peak.dtype).maxexp - 2 ** (jnp.finfo(self.dtype).nexp - 1))
        exponent = jnp.ceil(jnp.log2(peak / self._largest))
        return jnp.exp2(jnp.clip(jnp.nan_to_num(exponent, nan=bound), -bound, top))

    def _round(self, g: jax.Array) -> jax.Array:
        """`g` rounded to what a slot can hold, in its own dtype."""
        if self.dtype is None:
            return g
        info, largest = jnp.finfo(self.dtype), jnp.asarray(self._largest, g.dtype)
        g = jnp.where(jnp.isfinite(g), jnp.clip(g, -largest, largest), g)
        # Not by converting back and forth, which XLA may drop as excess precision.
        return jax.lax.reduce_precision(g, info.nexp, info.nmant)

    def _encode(self, rounded: jax.Array) -> jax.Array:
        """A rounded gradient as the ring holds it. This conversion is exact."""
        if self.dtype is None:
            return rounded
        narrow, held = rounded.astype(self.dtype), self._held(rounded.dtype)
        if held == self.dtype:
            return narrow
        return jax.lax.bitcast_convert_type(_constant(narrow), held)

    def _decode(self, bits: jax.Array, dtype: jnp.dtype) -> jax.Array:
        """What :meth:`_encode` was given."""
        if self.dtype is not None and bits.dtype != self.dtype:
            bits = jax.lax.bitcast_convert_type(bits, self.dtype)
        return bits.astype(dtype)
