"""The delay line: rings that hand back what was written n steps ago.

Nothing outside this file knows slots, their dtype, or in which order they are written and read.

With n + 1 slots the slot that is written is never the one that is read, so that the two may come in
either order. What decides is what XLA makes of the order:

- Write, then read (`push`): for gradients. XLA updates a donated buffer in place only if nothing
  reads the old one later. Here the write takes the buffer over, and the read depends on the write.
- Read, then write (`read`, then `write`): for the statistics of blocks. What was read is n steps
  old, so the update does not wait for today's statistic, which needs all of today's gradient. XLA
  can then make the update in the kernel that makes the gradient, and on a mesh it waits for no
  other device. These rings are a few numbers, so a copy of them costs nothing.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath

from adashift_optax._boxes import Arrays, map_to_others
from adashift_optax._numbers import accumulator_dtype, bounded, inlined, rounded, widened
from adashift_optax._xla import as_bits, from_bits, zeros_like


class Bits(NamedTuple):
    """Rings of the bits of bfloat16 numbers.

    The name is a part of every path in a checkpoint. Without it, a checkpoint of a queue of numbers
    would be converted to bits, and the other way round.
    """

    bits: Any


def rings(tree: Any, n: int, dtype: np.dtype | None = None) -> Any:
    """Rings of n + 1 slots of zeros for `tree`, of float32 or wider, or of the bits of `dtype`."""

    def ring(_: KeyPath, x: jax.Array) -> jax.Array:
        zeros = zeros_like(x, accumulator_dtype(x) if dtype is None else jnp.dtype(jnp.uint16))
        # Broadcasting zeros in the place of x, unlike zeros(shape), keeps its sharding.
        return jnp.broadcast_to(zeros, (n + 1, *zeros.shape))

    made = map_to_others(ring, tree)
    return made if dtype is None else Bits(made)


def after(slot: jax.Array, n: int) -> jax.Array:
    """The slot after `slot`, which is the oldest one."""
    return jnp.where(slot == n, 0, slot + 1)


def read(rings: Arrays, slot: jax.Array, n: int) -> Arrays:
    """What was written n steps before `slot` is (zeros in the first n steps)."""
    index = partial(jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
    return [index(ring, after(slot, n), 0) for ring in rings]


def write(rings: Arrays, values: Arrays, slot: jax.Array) -> Arrays:
    """`rings` with `values` in `slot`."""
    update = partial(jax.lax.dynamic_update_index_in_dim, allow_negative_indices=False)
    return [update(ring, x, slot, 0) for ring, x in zip(rings, values, strict=True)]


def push(rings: Arrays, g: Arrays, slot: jax.Array, n: int) -> tuple[Arrays, Arrays, Arrays]:
    """The queue with g_t in it; g_t as it will leave; and g_{t-n}.

    What enters the window must be what later leaves it, or the difference would stay in m.
    """
    stored = [_storable(x, ring.dtype) for x, ring in zip(g, rings, strict=True)]
    encoded = [_encoded(x, ring.dtype) for x, ring in zip(stored, rings, strict=True)]
    rings = write(rings, encoded, slot)
    old = [_decoded(x, like.dtype) for x, like in zip(read(rings, slot, n), stored, strict=True)]
    return rings, stored, old


@partial(inlined, static_argnames="ring")
def _storable(g: jax.Array, ring: jnp.dtype) -> jax.Array:
    """`g` rounded to what a slot can hold, in float32 or wider."""
    dtype = jnp.dtype(jnp.bfloat16) if ring == jnp.uint16 else ring
    g = bounded(widened(g), jnp.finfo(dtype).maxexp)
    return rounded(g, dtype) if ring == jnp.uint16 else g.astype(ring)


def _encoded(stored: jax.Array, ring: jnp.dtype) -> jax.Array:
    """A stored gradient as the ring holds it. This conversion is exact."""
    return as_bits(stored.astype(jnp.bfloat16)) if ring == jnp.uint16 else stored


def _decoded(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """What `_encoded` was given, which was of `dtype`."""
    return from_bits(x).astype(dtype) if x.dtype == jnp.uint16 else x
