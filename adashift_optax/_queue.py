"""The delay line: a ring of slots that hands back what was pushed n steps ago.

Nothing outside this file knows the order of the slots.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adashift_optax._boxes import zeros_like


def num_slots(n: int) -> int:
    """Slots of a delay of `n`: one more than n, so that a push can write before it reads.

    Reading the oldest entry before overwriting it makes XLA copy the whole ring at every step.
    Written first, the donated buffer is consumed in place and the read depends on the write.
    A single slot is replaced as a whole, which needs no spare one.
    """
    return 1 if n == 1 else n + 1


def empty(like: jax.Array, n: int, dtype: jnp.dtype) -> jax.Array:
    """A ring of zeros [num_slots(n), *like.shape]."""
    # Broadcasting zeros in the place of `like`, unlike zeros(shape), keeps its sharding.
    return jnp.broadcast_to(zeros_like(like, dtype), (num_slots(n), *jnp.shape(like)))


def push_all(
    rings: Any, values: Sequence[jax.Array], slot: jax.Array, n: int
) -> tuple[Any, list[jax.Array]]:
    """Writes one value over the oldest entry of each ring of a tree, at `slot`.

    Returns the rings and what was pushed n steps ago (zeros before).
    """
    leaves, treedef = jax.tree.flatten(rings)
    oldest = next_of(slot, num_slots(n))
    pushed = [_push(ring, x, slot, oldest) for ring, x in zip(leaves, values, strict=True)]
    return treedef.unflatten([ring for ring, _ in pushed]), [old for _, old in pushed]


def next_of(clock: jax.Array, period: int) -> jax.Array:
    """The clock one step on, modulo `period`."""
    return jnp.where(clock == period - 1, 0, clock + 1)


def _push(
    ring: jax.Array, value: jax.Array, slot: jax.Array, oldest: jax.Array
) -> tuple[jax.Array, jax.Array]:
    if ring.shape[0] == 1:
        return value[None], ring[0]
    ring = jax.lax.dynamic_update_index_in_dim(ring, value, slot, 0, allow_negative_indices=False)
    return ring, jax.lax.dynamic_index_in_dim(
        ring, oldest, 0, keepdims=False, allow_negative_indices=False
    )


def after(v: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, computed after `v` >= 0, where `v` was made from the buffer that `x` is to overwrite.

    Without the select nothing orders the two, and XLA copies the old buffer first.
    """
    return jnp.where(v >= 0, x, 0)
