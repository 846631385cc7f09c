"""The second moment v_t: running means of squared gradients that have left the momentum window."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adashift_optax._queue import after
from adashift_optax._window import Hopping


def decayed(v: jax.Array, x: jax.Array, vhat: jax.Array, b2: Any) -> jax.Array:
    """b2 v + (1 - b2) x. An x that is not finite (overflow included) counts as `vhat`."""
    a = jnp.asarray(1 - b2, v.dtype)
    # Not b2 * v: the rounding error of b2 = 0.999 in float32 would bias v.
    return (v - a * v) + a * jnp.where(jnp.isfinite(x), x, vhat)


def count_in_hops(count: jax.Array, phase: jax.Array, hop: Hopping) -> jax.Array:
    """How many gradients :func:`hopped` has in v: all before the previous segment."""
    return count - 1 - phase - jnp.where(phase < hop.half, hop.n - hop.half, 0)


def hopped(
    v: jax.Array,
    segments: Sequence[jax.Array],
    x: jax.Array,
    b2: Any,
    phase: jax.Array,
    hop: Hopping,
) -> tuple[list[jax.Array], jax.Array]:
    """Segments and v without a delay line: squares join v when m has dropped their segment.

    A segment starts where a part of `hop` is emptied; m_t holds the previous and the current one.
    `segments` are the squares of the latest first and second segment, `x` those of g_t. An x that
    is not finite counts as 0: reading vhat here would make XLA copy all three arrays.
    """
    starts = [phase == 0, phase == hop.half]
    lengths = [hop.half, hop.n - hop.half]
    for start, length, segment in zip(starts, lengths, segments, strict=True):
        v = jnp.where(start, jnp.asarray(b2**length, v.dtype) * v + segment, v)
    current = [phase < hop.half, phase >= hop.half]
    new = []
    for start, now, segment in zip(starts, current, segments, strict=True):
        grown = decayed(jnp.where(start, 0, segment), x, jnp.zeros([], x.dtype), b2)
        new.append(after(v, jnp.where(now, grown, segment)))
    return new, v
