"""The first moment m_t: the weighted mean of the latest gradients, none older than n - 1 steps.

All keep means rather than sums, so that finite gradients cannot overflow them.
"""

import abc
import dataclasses
import functools
from typing import Any, ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from optax import Params, Updates

from adashift_optax._boxes import map_leaves, zeros_like
from adashift_optax._clock import Step
from adashift_optax._numbers import (
    accumulator_dtype,
    apart_on_cpu,
    below_largest,
    cast,
    decayed,
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
      warm: whether m_t is the mean of t gradients while t <= n, instead of unused.
      dtype: that of `mu`; None: float32 or wider.
      shortest: the n from which on it is another window than the latest gradient.
      reads_queue: whether `step` needs the gradients that leave the queue.
      hops: whether `step` needs the phase.
    """

    n: int
    warm: bool = False
    dtype: np.dtype | None = None
    shortest: ClassVar[int] = 2
    reads_queue: ClassVar[bool] = False
    hops: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, params: Params) -> Mu:
        """The field `mu` of the state."""

    def zeros(self, params: Params) -> Params:
        """One mean of nothing."""
        return map_leaves(lambda p: zeros_like(p, self.dtype or accumulator_dtype(p)), params)

    def held(self, mu: Mu) -> tuple[Mu, Mu]:
        """`mu` as the state holds it, and the same in float32 or wider."""
        if self.dtype is None:
            return mu, mu
        mu = jax.tree.map(lambda m: cast(m, self.dtype), mu)
        return mu, jax.tree.map(widened, apart_on_cpu(mu))

    def limited(self, g: Any) -> Any:
        """`g`, of which a `mu` that is rounded to a narrow dtype makes no infinite mean."""
        return g if self.dtype is None else jax.tree.map(_limited, g)

    @abc.abstractmethod
    def step(
        self, mu: Mu, g: Updates, g_in: Updates, g_out: Updates | None, now: Step, b1: ArrayLike
    ) -> tuple[Mu, Updates]:
        """The next `mu`, and m_t: after g_t came, `g_in` entered the queue and `g_out` left it."""

    def of_scaled(self, mu: Mu, s: Updates, now: Step, b1: ArrayLike) -> tuple[Mu, Updates]:
        """The next `mu`, and u_t, where `s` is m_t over the root of vhat_t: here it is u_t."""
        del now, b1
        return mu, s


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
        return self.zeros(params)

    def step(
        self, mu: Params, g: Updates, g_in: Updates, g_out: Updates | None, now: Step, b1: ArrayLike
    ) -> tuple[Params, Updates]:
        weights = functools.cache(functools.partial(self._weights, b1))
        g_in, g_out = self.limited(g_in), self.limited(g_out)
        mu = jax.tree.map(lambda m, *g: _slid(m, *g, *weights(m.dtype)), mu, g_in, g_out)
        mu, m = self.held(mu)
        if not self.warm:
            return mu, m

        @functools.cache
        def to_mean(dtype: jnp.dtype) -> jax.Array:
            """The weights of n gradients over those of the t that there are."""
            of_n, of_t = (one_minus_power(b1, k, jnp.finfo(dtype).dtype) for k in (self.n, now.t))
            return jnp.where(now.t < self.n, of_n / of_t, 1).astype(dtype)

        return mu, jax.tree.map(lambda m: m * to_mean(m.dtype), m)

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
        first = self.zeros(params)
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
        if self.warm:  # the second mean has not been emptied yet
            first_is_older |= now.t <= self.n
        first, second = (
            self._grow(mean, g, (now.phase + (self.n - start)) % self.n, b1)
            for mean, start in zip(mu, (0, half), strict=True)
        )
        mu, (first, second) = self.held((first, second))
        return mu, jax.tree.map(functools.partial(jax.lax.select, first_is_older), first, second)

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


class Ema(FirstMoment[Params]):
    """Scale first: each gradient over its own root of vhat_t, and then their running mean.

    m_t = b1 m_{t-1} + (1 - b1) s_t, where s_t is scaled; u_t = m_t / (1 - b1^k) of k such.
    """

    shortest = 1

    def init(self, params: Params) -> Params:
        return self.zeros(params)

    def step(
        self, mu: Params, g: Updates, g_in: Updates, g_out: Updates | None, now: Step, b1: ArrayLike
    ) -> tuple[Params, Updates]:
        return mu, jax.tree.map(widened, g)

    def of_scaled(self, mu: Params, s: Updates, now: Step, b1: ArrayLike) -> tuple[Params, Updates]:
        k = now.t if self.warm else now.t - self.n

        @functools.cache
        def weights(dtype: jnp.dtype) -> tuple[jax.Array, jax.Array]:
            real = jnp.finfo(dtype).dtype  # a complex power of 0 is NaN
            correction = 1 / one_minus_power(b1, k, real)
            return one_minus(b1, real).astype(dtype), correction.astype(dtype)

        s = self.limited(s)
        mu = jax.tree.map(lambda m, s: _average(m, s, weights(m.dtype)[0]), mu, s)
        mu, m = self.held(mu)
        return mu, jax.tree.map(lambda m: m * weights(m.dtype)[1], m)


@inlined
def _limited(g: jax.Array) -> jax.Array:
    # m is rounded up by as much as half, before it is divided by the weights of few gradients.
    g, limit = widened(g), 2.0 ** (jnp.finfo(jnp.float32).maxexp - 2)
    return jax.lax.select(jnp.isfinite(g), jnp.clip(g, -limit, limit), g)


@inlined
def _slid(
    m: jax.Array, g: jax.Array, old: jax.Array, keep: jax.Array, enter: jax.Array, leave: jax.Array
) -> jax.Array:
    g, old = (below_largest(cast(x, m.dtype)) for x in (g, old))
    return keep * m + (enter * g - leave * old)


@inlined
def _average(m: jax.Array, s: jax.Array, share: jax.Array) -> jax.Array:
    return decayed(m, below_largest(cast(s, m.dtype)), share)


@inlined
def _grown(
    mean: jax.Array, g: jax.Array, fresh: jax.Array, keep: jax.Array, enter: jax.Array
) -> jax.Array:
    # Emptied by select: a weight of 0 would keep a NaN.
    g = below_largest(cast(g, mean.dtype))
    return jax.lax.select(fresh, g, keep * mean + enter * g)
