"""Which step it is: t, and where it stands in the periods of the rings and of the hops."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class Step(NamedTuple):
    """The update that is being made.

    Attributes:
      t: its number, from 1 on. It stops at the largest int32.
      slot: the slot of every ring that it writes.
      phase: (t - 1) mod n, for what hops.
    """

    t: jax.Array
    slot: jax.Array
    phase: jax.Array


@dataclasses.dataclass(frozen=True)
class Clock:
    """Where in a turn of the rings (and of the hops, if something hops) the next step is.

    Unlike the count it never stops. It is held as the only value of a dict, whose key is `kind`: a
    state of another kind has another structure, which whatever restores checkpoints refuses.
    """

    kind: str
    n: int
    slots: int
    hops: bool

    def init(self) -> dict[str, jax.Array]:
        return {self.kind: jnp.zeros([], jnp.int32)}

    def step(
        self, clock: dict[str, jax.Array], count: jax.Array
    ) -> tuple[dict[str, jax.Array], Step]:
        """The next clock, and the step that `clock` and `count` steps before it make."""
        hand = clock[self.kind]
        # Without hops the hand itself is the slot: a remainder made XLA's step on CPU 15 % slower.
        slot = jax.lax.rem(hand, jnp.int32(self.slots)) if self.hops else hand
        phase = jax.lax.rem(hand, jnp.int32(self.n))
        hand = next_of(hand, self.slots * self.n if self.hops else self.slots)
        return {self.kind: hand}, Step(jnp.asarray(optax.safe_increment(count)), slot, phase)


def next_of(clock: jax.Array, period: int) -> jax.Array:
    """The clock one step on, modulo `period`."""
    return jnp.where(clock == period - 1, 0, clock + 1)
