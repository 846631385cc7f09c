"""The delay line: a ring of slots that hands back what was pushed n steps ago.

Nothing outside this file knows the order of the slots.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def num_slots(n: int) -> int:
    """Slots of a delay of `n`: one more than n, so that a push can write before it reads.

    Reading the oldest entry before overwriting it makes XLA copy the whole ring at every step.
    Written first, the donated buffer is consumed in place and the read depends on the write.
    A single slot is replaced as a whole, which needs no spare one.
    """
    return 1 if n == 1 else n + 1


def empty(like: jax.Array, n: int, dtype: jnp.dtype) -> jax.Array:
    """A ring of zeros [num_slots(n), *like.shape]."""
    # Broadcasting zeros_like, unlike zeros(shape), keeps the sharding of `like`.
    return jnp.broadcast_to(jnp.zeros_like(like, dtype), (num_slots(n), *jnp.shape(like)))


def tick(clock: jax.Array, n: int) -> jax.Array:
    """The clock one step on, modulo n (n + 1): it tells both t mod n and the slot to write."""
    return jnp.where(clock == n * num_slots(n) - 1, 0, clock + 1)


def push_all(
    rings: Any, values: Sequence[jax.Array], clock: jax.Array, n: int
) -> tuple[Any, list[jax.Array]]:
    """Writes one value over the oldest entry of each ring of a tree.

    Returns the rings and what was pushed n steps ago (zeros before). `clock` counts the pushes,
    modulo a multiple of the number of slots.
    """
    leaves, treedef = jax.tree.flatten(rings)
    write, read = (jax.lax.rem(clock + i, jnp.int32(num_slots(n))) for i in (0, 1))
    pushed = [_push(ring, x, write, read) for ring, x in zip(leaves, values, strict=True)]
    return treedef.unflatten([ring for ring, _ in pushed]), [old for _, old in pushed]


def _push(
    ring: jax.Array, value: jax.Array, write: jax.Array, read: jax.Array
) -> tuple[jax.Array, jax.Array]:
    if ring.shape[0] == 1:
        return value[None], ring[0]
    ring = jax.lax.dynamic_update_index_in_dim(ring, value, write, 0, allow_negative_indices=False)
    return ring, jax.lax.dynamic_index_in_dim(
        ring, read, 0, keepdims=False, allow_negative_indices=False
    )


def after(v: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, computed after `v` >= 0, where `v` was made from the buffer that `x` is to overwrite.

    Without the select nothing orders the two, and XLA copies the old buffer first.
    """
    return jnp.where(v >= 0, x, 0)
