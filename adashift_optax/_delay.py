"""The delay line: trees of rings that hand back what was written n steps ago.

Nothing outside this file knows the order of the slots.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp

from adashift_optax._boxes import map_to_others, zeros_like
from adashift_optax._clock import next_of
from adashift_optax._numbers import on_cpu

Tree = TypeVar("Tree")


@dataclasses.dataclass(frozen=True)
class DelayLine:
    """A delay of `n` steps for a tree of arrays, in rings of n + 1 slots.

    With n + 1 slots the slot that is written is never the one that is read, so that the two may
    come in either order. What decides is what XLA makes of the order:

    - Write, then read (`push`): for the queue of gradients. XLA updates a donated buffer in place
      only if nothing reads the old one later. Here the write takes the buffer over and the read
      depends on the write. In the other order XLA copies the whole queue at every step.
    - Read, then write (`read`, then `write`): for the statistics of blocks. What was read is n
      steps old, so the update that needs it does not wait for today's statistic, which needs all of
      today's gradient. XLA can then make the update in the kernel that makes the gradient (on TPU),
      or reduce the gradient in the kernel of the update (on GPU), and on a mesh the update waits
      for no other device. The rings are a few numbers, so a copy of them costs nothing.

    tests/test_state.py and tests/test_order.py guard both.
    """

    n: int

    @property
    def slots(self) -> int:
        return self.n + 1

    def init(self, tree: Tree, dtype: Callable[[jax.Array], jnp.dtype]) -> Tree:
        """Rings of zeros for `tree`, in the dtypes that `dtype` gives its leaves."""

        def ring(x: jax.Array) -> jax.Array:
            # Broadcasting zeros in the place of x, unlike zeros(shape), keeps its sharding.
            return jnp.broadcast_to(zeros_like(x, dtype(x)), (self.slots, *jnp.shape(x)))

        return map_to_others(ring, tree)

    def read(self, rings: Tree, slot: jax.Array) -> Tree:
        """What was written n steps before `slot` is (zeros in the first n steps)."""
        oldest = next_of(slot, self.slots)
        index = partial(jax.lax.dynamic_index_in_dim, keepdims=False, allow_negative_indices=False)
        return jax.tree.map(lambda ring: index(ring, oldest, 0), rings)

    def write(self, rings: Tree, values: object, slot: jax.Array) -> Tree:
        """`rings` with `values` in `slot`."""
        update = partial(jax.lax.dynamic_update_index_in_dim, allow_negative_indices=False)
        return jax.tree.map(lambda ring, x: update(ring, x, slot, 0), rings, values)

    def push(self, rings: Tree, values: object, slot: jax.Array) -> tuple[Tree, Tree]:
        """`rings` with `values` in `slot`, and what was written n steps before."""
        written = self.write(rings, values, slot)
        return written, self.read(written, slot)


def after(v: jax.Array, x: jax.Array) -> jax.Array:
    """`x`, computed after `v` >= 0, where `v` was made from the buffer that `x` is to overwrite.

    Without the select nothing orders the two, and XLA copies the old buffer first.
    """
    return jnp.where(v >= 0, x, 0)


def after_on_cpu(v: object, x: Tree) -> Tree:
    """:func:`after` for trees, in programs compiled for CPU; elsewhere `x` itself.

    XLA on CPU needs the order to update the rings of factored statistics in place. On GPU and TPU
    the select would make the new v wait for today's gradient, which the delay is there to avoid.
    """
    return on_cpu(lambda x, v: jax.tree.map(after, v, x), x, v)
