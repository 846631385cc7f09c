"""The queue of gradients: in which dtype a slot holds them, and by what they are scaled."""

import dataclasses
import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from optax import OptState, Params, Updates

from adashift_optax._blocks import Blocks
from adashift_optax._delay import DelayLine
from adashift_optax._numbers import accumulator_dtype, apart_on_cpu, cast, inlined, widened

in_dtype = partial(inlined, static_argnames="dtype")


class Scaled(NamedTuple):
    """A queue in a dtype of fewer exponents than the gradients'.

    Attributes:
      held: the rings, of gradients divided by a power of 2 for each block.
      scale: rings of these powers of 2.
    """

    held: OptState
    scale: Any


@dataclasses.dataclass(frozen=True)
class NoQueue:
    """Nothing reads it."""

    n: int

    @property
    def held_as(self) -> str | None:
        """What `queue_dtype` names, if it has an effect."""
        return None

    def init(self, params: Params) -> OptState | None:
        """The field `queue` of the state."""
        return None

    def push(
        self, queue: OptState, g: Updates, slot: jax.Array
    ) -> tuple[OptState, Updates, Updates | None]:
        """The queue with g_t in it, g_t as it will leave, and g_{t-n}."""
        return queue, g, None


class Queue(NoQueue):
    """A delay of n steps for gradients, as wide as they are accumulated."""

    def init(self, params: Params) -> OptState:
        return DelayLine(self.n).init(params, accumulator_dtype)

    def push(
        self, queue: OptState, g: Updates, slot: jax.Array
    ) -> tuple[OptState, Updates, Updates | None]:
        g = jax.tree.map(lambda x, ring: cast(x, ring.dtype), g, queue)
        queue, g_old = DelayLine(self.n).push(queue, g, slot)
        return queue, g, g_old


@dataclasses.dataclass(frozen=True)
class NarrowQueue(Queue):
    """The same in `dtype`, to which g_t is rounded.

    Dtypes narrower than 32 bits are held as their bits: XLA on CPU widens a whole bfloat16 ring to
    update one slot of it, but not one of integers.

    Attributes:
      peaks: phi="max" of |g| over the blocks that share a scale, if they need one.
    """

    dtype: jnp.dtype
    peaks: Blocks

    @property
    def held_as(self) -> str:
        return self.dtype.name

    def init(self, params: Params) -> OptState:
        rings = DelayLine(self.n).init(params, lambda p: _bits(self.dtype))
        # Of no parameters (optax.tree.map_params asks so) as of the widest there are.
        given = [jnp.finfo(accumulator_dtype(p)) for p in jax.tree.leaves(params) or [0.0]]
        if all(jnp.finfo(self.dtype).nexp >= info.nexp for info in given):
            return rings
        return Scaled(rings, DelayLine(self.n).init(self.peaks.init(params), lambda c: c.dtype))

    def push(
        self, queue: OptState, g: Updates, slot: jax.Array
    ) -> tuple[OptState, Updates, Updates | None]:
        # What enters the window must be what later leaves it, or the difference stays in m.
        if not isinstance(queue, Scaled):
            return self._push_rounded(queue, g, slot)
        peaks = self.peaks.reduce(apart_on_cpu(g), jax.tree.map(lambda ring: ring[0], queue.scale))
        scale = jax.tree.map(partial(_scale, dtype=self.dtype), peaks)
        scales, old = DelayLine(self.n).push(queue.scale, scale, slot)
        scale, old_scale = (self.peaks.spread(s, g) for s in (scale, old))
        # In the dtype of the scale, of which float32 may not have the exponent. A product, because
        # XLA would store a quotient for its two readers.
        g = jax.tree.map(lambda x, s: cast(x, s.dtype) * (1 / s), g, scale)
        held, g, g_old = self._push_rounded(queue.held, g, slot)
        g, g_old = (
            jax.tree.map(lambda x, s: x * s, *pair) for pair in ((g, scale), (g_old, old_scale))
        )
        return Scaled(held, scales), g, g_old

    def _push_rounded(
        self, rings: OptState, g: Updates, slot: jax.Array
    ) -> tuple[OptState, Updates, Updates]:
        g = jax.tree.map(partial(_rounded, dtype=self.dtype), g)
        bits = jax.tree.map(partial(_encoded, dtype=self.dtype), g)
        rings, old = DelayLine(self.n).push(rings, bits, slot)
        return rings, g, jax.tree.map(partial(_decoded, dtype=self.dtype), old, g)


def _largest(dtype: jnp.dtype) -> float:
    """The largest number with the exponents of an IEEE format (float8_e4m3fn has one more)."""
    info = jnp.finfo(dtype)
    return (2 - 2.0**-info.nmant) * 2.0 ** (2 ** (info.nexp - 1) - 1)


@in_dtype
def _scale(peak: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The least power of 2 that brings `peak`, the largest |g| of a block, into range."""
    # Within these bounds neither it nor its inverse is 0, infinite or denormal. Beside a NaN or inf
    # the finite rest of a block rounds to 0, on entering and so on leaving.
    bound = jnp.finfo(peak.dtype).maxexp - 28
    # Nor may what is rounded up in the queue overflow when it leaves: the largest is cut off.
    top = min(bound, jnp.finfo(peak.dtype).maxexp - 2 ** (jnp.finfo(dtype).nexp - 1))
    # By exponents alone: XLA's logarithms and powers of 2 are not exact.
    (digits, k), (most, at) = jnp.frexp(peak), math.frexp(_largest(dtype))
    k = jnp.where(jnp.isfinite(peak), k - at + (digits > most).astype(jnp.int32), bound)
    return jnp.ldexp(jnp.ones_like(peak), jnp.clip(k, -bound, top))


@in_dtype
def _rounded(g: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`g` rounded to what a slot can hold, in float32 or wider."""
    g = widened(g)
    info, largest = jnp.finfo(dtype), jnp.asarray(_largest(dtype), g.dtype)
    g = jnp.where(jnp.isfinite(g), jnp.clip(g, -largest, largest), g)
    # Not by converting back and forth, which XLA may drop as excess precision.
    return jax.lax.reduce_precision(g, info.nexp, info.nmant)


@in_dtype
def _encoded(rounded: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """A rounded gradient as the ring holds it. This conversion is exact."""
    narrow = rounded.astype(dtype)
    if _bits(dtype) == dtype:
        return narrow
    return jax.lax.bitcast_convert_type(_constant(narrow), _bits(dtype))


@in_dtype
def _decoded(bits: jax.Array, like: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What `_encoded` was given, which was of the dtype of `like`."""
    if bits.dtype != dtype:
        bits = jax.lax.bitcast_convert_type(bits, dtype)
    return bits.astype(like.dtype)


def _bits(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of rings for `dtype`."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype(f"uint{8 * dtype.itemsize}")


@jax.custom_jvp
def _constant(x: jax.Array) -> jax.Array:
    """`x`, which may not depend on what is differentiated by: its bits have no derivative."""
    return x


@partial(_constant.defjvp, symbolic_zeros=True)
def _constant_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array | SymbolicZero]
) -> tuple[jax.Array, jax.Array]:
    if not isinstance(tangents[0], SymbolicZero):
        raise TypeError(
            "queue_dtype must be None where updates are differentiated by gradients, because a "
            "queue of bits would drop a part of the derivative. Leave queue_dtype out there."
        )
    return primals[0], jnp.zeros_like(primals[0])
