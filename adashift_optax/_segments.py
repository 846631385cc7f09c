"""The second moment of a hopping window that keeps every element apart, without a queue."""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from optax import Params, Updates

from adashift_optax._blocks import real_zeros
from adashift_optax._clock import Step
from adashift_optax._delay import after
from adashift_optax._numbers import decayed, in_range, inlined, squared
from adashift_optax._second import Averaged, Kept, SecondMoment, chosen, correction


class OfSegments(SecondMoment):
    """For phi="none" without a queue: squares join v when a hopping window has dropped them.

    They do so by segments. One starts where a mean of the window is emptied, at the phases 0 and
    n // 2, and m_t holds the previous and the current one. `nu_queue` is a pair: the squares of the
    latest segment that started at phase 0, and of the latest that started at n // 2.
    """

    hops = True

    def init_queue(self, params: Params, nu: Any) -> tuple[Params, Params]:
        return real_zeros(params), real_zeros(params)

    def join(self, kept: Kept, g_out: Any, now: Step) -> Averaged:
        (nu, segments, log), phase, half = kept, now.phase, self.n // 2
        starts, sizes, oldest = self._starts(now), (half, self.n - half), now.t - self.n

        @cache
        def losses(dtype: jnp.dtype) -> tuple[jax.Array, ...]:
            return tuple(self.decay.lost(oldest, size, dtype) for size in sizes)

        nu = jax.tree.map(lambda v, *x: _joined(v, *x, starts, losses(v.dtype)), nu, *segments)
        for start, size in zip(starts, sizes, strict=True):
            log = chosen(start, self.decay.joined(log, oldest, size), log)
        in_v = now.t - 1 - phase - jnp.where(phase < half, self.n - half, 0)
        return nu, log, correction(self.decay, nu, log, in_v)

    def push(self, queue: tuple[Params, Params], g: Updates, nu: Params, now: Step) -> Any:
        second = now.phase >= self.n // 2
        share = cache(partial(self.decay.share, now.t))

        def grown(segment: Params, *when: jax.Array) -> Params:
            return jax.tree.map(lambda *x: _grown(*x, *when, share(x[-1].dtype)), segment, g, nu)

        return tuple(map(grown, queue, self._starts(now), (~second, second)))

    def _starts(self, now: Step) -> tuple[jax.Array, jax.Array]:
        """Whether the segment of each half of a period starts anew."""
        return now.phase == 0, now.phase == self.n // 2


@inlined
def _joined(
    v: jax.Array,
    first: jax.Array,
    second: jax.Array,
    starts: tuple[jax.Array, ...],
    losses: tuple[jax.Array, ...],
) -> jax.Array:
    """`v` with the segment that starts anew, for whose squares it loses a share."""
    for segment, start, loss in zip((first, second), starts, losses, strict=True):
        v = jax.lax.select(start, (v - loss * v) + segment, v)
    return v


@inlined
def _grown(
    segment: jax.Array,
    g: jax.Array,
    v: jax.Array,
    start: jax.Array,
    current: jax.Array,
    share: jax.Array,
) -> jax.Array:
    """`segment`, emptied if it is to `start`, with the squares of `g` if it is the `current` one.

    It is made after `v`, which has read it.
    """
    x = squared(g).astype(v.dtype)
    # What is out of range counts as 0: reading vhat here would make XLA copy all three arrays.
    x = jnp.where(in_range(x), x, 0)
    grown = decayed(jnp.where(start, 0, segment), x, share)
    return after(v, jax.lax.select(current, grown, segment))
