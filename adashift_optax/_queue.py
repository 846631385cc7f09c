"""The delay line: a ring of slots that hands back what was pushed `n` steps ago.

Nothing outside this file knows the order of the slots.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def num_slots(n: int) -> int:
    """Slots of a delay of `n`: one more than n, so that a push can write before it reads.

    Reading the oldest entry before overwriting it makes XLA copy the whole ring at every step.
    Written first, the donated buffer is consumed in place and the read depends on the write.
    A single slot is replaced as a whole, which needs no spare one.
    """
    return 1 if n == 1 else n + 1


def empty(like: jax.Array, n: int, dtype: DTypeLike) -> jax.Array:
    """A ring of zeros [num_slots(n), *like.shape]."""
    # Broadcasting zeros_like, unlike zeros(shape), keeps the sharding of `like`.
    return jnp.broadcast_to(jnp.zeros_like(like, dtype), (num_slots(n), *like.shape))


def next_slot(slot: jax.Array, n: int) -> jax.Array:
    """The slot after `slot`: the oldest entry, and where the next push writes."""
    return jnp.where(slot == num_slots(n) - 1, 0, slot + 1)


def push(ring: jax.Array, value: jax.Array, slot: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
    """Writes `value` at `slot`; returns the ring and what was pushed n steps ago (zeros before)."""
    value = value.astype(ring.dtype)
    if n == 1:
        return value[None], ring[0]
    ring = jax.lax.dynamic_update_index_in_dim(ring, value, slot, 0)
    return ring, jax.lax.dynamic_index_in_dim(ring, next_slot(slot, n), 0, keepdims=False)


def wait(ring: jax.Array, v: jax.Array) -> jax.Array:
    """`ring`, computed after `v` >= 0: for a single slot, which is to be read before it is written.

    Nothing in `push` orders the two, and XLA would copy the old slot. A select on `v`, which was
    computed from the old slot, does.
    """
    return jnp.where(v >= 0, ring, 0)
