"""The first moment m_t: the weighted mean of the latest gradients, none older than n - 1 steps.

All keep means rather than sums, so that finite gradients cannot overflow them.
"""

import abc
import dataclasses
import functools
from typing import ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from optax import Params, Updates

from adashift_optax._boxes import map_leaves, zeros_like
from adashift_optax._clock import Step
from adashift_optax._numbers import (
    accumulator_dtype,
    below_largest,
    cast,
    inlined,
    one_minus,
    one_minus_power,
    widened,
)

Mu = TypeVar("Mu")  # the field `mu` of the state
Pair = tuple[Params, Params]


@dataclasses.dataclass(frozen=True)
class FirstMoment(abc.ABC, Generic[Mu]):
    """The window of gradients of which m_t is the mean. It has no arrays: the state has them.

    Attributes:
      n: at most so many gradients are in the window.
      reads_queue: whether `step` needs the gradients that leave the queue.
      hops: whether `step` needs the phase.
    """

    n: int
    reads_queue: ClassVar[bool] = False
    hops: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, params: Params) -> Mu:
        """The field `mu` of the state."""

    @abc.abstractmethod
    def step(
        self, mu: Mu, g: Updates, g_in: Updates, g_out: Updates | None, now: Step, b1: ArrayLike
    ) -> tuple[Mu, Updates]:
        """The next `mu`, and m_t: after g_t came, `g_in` entered the queue and `g_out` left it."""


class Latest(FirstMoment[None]):
    """One gradient: m_t = g_t."""

    def init(self, params: Params) -> None:
        return None

    def step(
        self, mu: None, g: Updates, g_in: Updates, g_out: Updates | None, now: Step, b1: ArrayLike
    ) -> tuple[None, Updates]:
        return mu, jax.tree.map(widened, g)


class Sliding(FirstMoment[Params]):
    """The paper's window: m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i, kept by its recurrence.

    Rounding errors of the recurrence shrink by b1 at every step.
    """

    reads_queue = True

    def init(self, params: Params) -> Params:
        return zeros(params)

    def step(
        self, mu: Params, g: Updates, g_in: Updates, g_out: Updates | None, now: Step, b1: ArrayLike
    ) -> tuple[Params, Updates]:
        weights = functools.cache(functools.partial(self._weights, b1))

        m = jax.tree.map(lambda m, *g: _slid(m, *g, *weights(m.dtype)), mu, g_in, g_out)
        return m, m

    def _weights(self, b1: ArrayLike, dtype: jnp.dtype) -> list[jax.Array]:
        """The weights of m_{t-1}, g_t and g_{t-n} in m_t."""
        xp = jnp
        if isinstance(b1, float):
            # Rounded first, or a gradient would fade by another b1 than the one it leaves with.
            xp, b1 = np, float(np.asarray(b1, jnp.finfo(dtype).dtype))
        powers = b1 ** xp.arange(self.n + 1, dtype=xp.result_type(b1))
        total = xp.sum(powers[:-1])
        return [jnp.asarray(w, dtype) for w in (b1, 1 / total, powers[-1] / total)]


class Hopping(FirstMoment[Pair]):
    """Constant memory: two means of the latest gradients, each emptied every n steps in turn.

    With p = (t - 1) mod n the first is emptied before step p = 0, the second before p = n // 2, and
    m_t is the older one. It holds between n // 2 + 1 and n of the latest gradients. Neither reads
    the other, so both are updated in place.
    """

    hops = True

    def init(self, params: Params) -> Pair:
        first = zeros(params)
        return first, jax.tree.map(jnp.copy, first)  # one buffer cannot be donated twice

    def step(
        self,
        mu: Pair,
        g: Updates,
        g_in: Updates,
        g_out: Updates | None,
        now: Step,
        b1: ArrayLike,
    ) -> tuple[Pair, Updates]:
        half = self.n // 2
        first_is_older = now.phase >= half
        first, second = (
            self._grow(mean, g, (now.phase + (self.n - start)) % self.n, b1)
            for mean, start in zip(mu, (0, half), strict=True)
        )
        m = jax.tree.map(functools.partial(jax.lax.select, first_is_older), first, second)
        return (first, second), m

    def _grow(self, mean: Params, g: Updates, since: jax.Array, b1: ArrayLike) -> Params:
        """`mean`, which was emptied `since` steps ago, with g_t in it."""
        fresh = since == 0

        @functools.cache
        def weights(dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
            real = jnp.finfo(dtype).dtype  # a complex power of 0 is NaN
            now, before = (one_minus_power(b1, k, real) for k in (since + 1, since))
            weights = jnp.asarray(b1, real) * before / now, one_minus(b1, real) / now
            return weights[0].astype(dtype), weights[1].astype(dtype)

        return jax.tree.map(lambda mean, g: _grown(mean, g, fresh, *weights(mean.dtype)), mean, g)


def zeros(params: Params) -> Params:
    """Zeros like `params`, in float32 or wider."""
    return map_leaves(lambda p: zeros_like(p, accumulator_dtype(p)), params)


@inlined
def _slid(
    m: jax.Array, g: jax.Array, old: jax.Array, keep: jax.Array, enter: jax.Array, leave: jax.Array
) -> jax.Array:
    g, old = (below_largest(cast(x, m.dtype)) for x in (g, old))
    return keep * m + (enter * g - leave * old)


@inlined
def _grown(
    mean: jax.Array, g: jax.Array, fresh: jax.Array, keep: jax.Array, enter: jax.Array
) -> jax.Array:
    # Emptied by select: a weight of 0 would keep a NaN.
    g = below_largest(cast(g, mean.dtype))
    return jax.lax.select(fresh, g, keep * mean + enter * g)
