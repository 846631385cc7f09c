"""The second moment v_t: running means of squared gradients that have left the momentum window."""

import abc
import dataclasses
from functools import partial
from typing import ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax import OptState, Params, Updates

from adashift_optax._blocks import Blocks, real_zeros
from adashift_optax._clock import Step
from adashift_optax._delay import DelayLine, after, after_on_cpu
from adashift_optax._numbers import (
    in_range,
    inlined,
    inverse_root,
    one_minus_power,
    squared,
    widest,
)

Kept = TypeVar("Kept")  # the fields `nu` and `nu_queue` of the state
Cells = tuple[OptState, OptState]
Elements = tuple[Params, None]
Segments = tuple[Params, tuple[Params, Params]]


@dataclasses.dataclass(frozen=True)
class SecondMoment(abc.ABC, Generic[Kept]):
    """What v_t is the mean of. It has no arrays: the state has them.

    Attributes:
      n: v_t holds no gradient younger than n steps.
      reads_queue: whether `step` needs the gradients that leave the queue.
      hops: whether `step` needs the phase.
    """

    n: int
    reads_queue: ClassVar[bool] = False
    hops: ClassVar[bool] = False

    @abc.abstractmethod
    def init(self, params: Params) -> Kept:
        """The fields `nu` and `nu_queue` of the state."""

    @abc.abstractmethod
    def step(
        self, kept: Kept, g: Updates, g_out: Updates | None, now: Step, b2: ArrayLike
    ) -> tuple[Kept, OptState]:
        """The next fields, and vhat_t: after g_t came, and `g_out` left the queue."""

    def scales(self, vhat: OptState, eps: ArrayLike, like: Updates) -> Updates:
        """1 / (sqrt(vhat) + eps), 0 where vhat is 0: a tree like `like` that broadcasts to it."""
        del like
        return jax.tree.map(lambda v: inverse_root(v, eps), vhat)


@dataclasses.dataclass(frozen=True)
class OfBlocks(SecondMoment[Cells]):
    """v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2), with phi(g^2) in a delay line of its own."""

    blocks: Blocks

    def init(self, params: Params) -> Cells:
        nu = self.blocks.init(params)
        return nu, DelayLine(self.n).init(nu, lambda c: c.dtype)

    def step(
        self, kept: Cells, g: Updates, g_out: Updates | None, now: Step, b2: ArrayLike
    ) -> tuple[Cells, OptState]:
        (nu, nu_queue), line = kept, DelayLine(self.n)
        x = line.read(nu_queue, now.slot)
        new_nu, vhat = _averaged(nu, x, b2, now.t - self.n)
        x = after_on_cpu(new_nu, self.blocks.reduce(g, nu))
        return (new_nu, line.write(nu_queue, x, now.slot)), vhat

    def scales(self, vhat: OptState, eps: ArrayLike, like: Updates) -> Updates:
        return self.blocks.scales(vhat, eps, like)


class OfElements(SecondMoment[Elements]):
    """v_t = b2 v_{t-1} + (1 - b2) g_{t-n}^2: for phi="none", of what leaves the queue."""

    reads_queue = True

    def init(self, params: Params) -> Elements:
        return real_zeros(params), None

    def step(
        self, kept: Elements, g: Updates, g_out: Updates | None, now: Step, b2: ArrayLike
    ) -> tuple[Elements, OptState]:
        nu, _ = kept
        x = jax.tree.map(lambda v, x: squared(x).astype(v.dtype), nu, g_out)
        nu, vhat = _averaged(nu, x, b2, now.t - self.n)
        return (nu, None), vhat


class OfSegments(SecondMoment[Segments]):
    """For phi="none" without a queue: squares join v when a hopping window has dropped them.

    They do so by segments. One starts where a mean of the window is emptied, at the phases 0 and
    n // 2, and m_t holds the previous and the current one. `nu_queue` is a pair: the squares of the
    latest segment that started at phase 0, and of the latest that started at n // 2.
    """

    hops = True

    def init(self, params: Params) -> Segments:
        nu, first, second = (real_zeros(params) for _ in range(3))
        return nu, (first, second)

    def step(
        self, kept: Segments, g: Updates, g_out: Updates | None, now: Step, b2: ArrayLike
    ) -> tuple[Segments, OptState]:
        (nu, (first, second)), half, phase = kept, self.n // 2, now.phase
        starts, losses = (phase == 0, phase == half), (1 - b2**half, 1 - b2 ** (self.n - half))
        nu = jax.tree.map(partial(_joined, starts, losses), nu, first, second)
        first = jax.tree.map(partial(_grown, starts[0], phase < half, 1 - b2), first, g, nu)
        second = jax.tree.map(partial(_grown, starts[1], phase >= half, 1 - b2), second, g, nu)
        in_v = now.t - 1 - phase - jnp.where(phase < half, self.n - half, 0)
        return (nu, (first, second)), _times(nu, _correction(nu, b2, in_v))


@inlined
def _joined(
    starts: tuple[jax.Array, ...], losses: tuple[ArrayLike, ...], v: jax.Array, *segments: jax.Array
) -> jax.Array:
    """`v` with the segment that starts anew, for whose squares it loses a share."""
    for start, loss, segment in zip(starts, losses, segments, strict=True):
        joined = (v - jnp.asarray(loss, v.dtype) * v) + segment
        v = jax.lax.select(start, joined, v)
    return v


@inlined
def _grown(
    start: jax.Array,
    current: jax.Array,
    a: ArrayLike,
    segment: jax.Array,
    g: jax.Array,
    v: jax.Array,
) -> jax.Array:
    """`segment`, emptied if it is to `start`, with the squares of `g` if it is the `current` one.

    It is made after `v`, which has read it.
    """
    x = squared(g).astype(v.dtype)
    # What is out of range counts as 0: reading vhat here would make XLA copy all three arrays.
    x = jnp.where(in_range(x), x, 0)
    grown = _decayed(jnp.where(start, 0, segment), x, a)
    return after(v, jax.lax.select(current, grown, segment))


def _averaged(v: OptState, x: OptState, b2: ArrayLike, k: jax.Array) -> tuple[OptState, OptState]:
    """The new v, of k squares of which x is the latest, and its vhat."""
    now, before = (_correction(v, b2, squares) for squares in (k, k - 1))
    v = jax.tree.map(lambda v, x: _average(v, x, 1 - b2, before), v, x)
    return v, _times(v, now)


@inlined
def _average(v: jax.Array, x: jax.Array, a: ArrayLike, to_vhat: jax.Array) -> jax.Array:
    """b2 v + (1 - b2) x, where an x that is out of range counts as vhat."""
    return _decayed(v, jnp.where(in_range(x), x, v * to_vhat.astype(v.dtype)), a)


def _decayed(v: jax.Array, x: jax.Array, a: ArrayLike) -> jax.Array:
    """b2 v + (1 - b2) x, where `a` is 1 - b2."""
    a = jnp.asarray(a, v.dtype)
    # Not b2 * v: the rounding error of b2 = 0.999 in float32 would bias v.
    return (v - a * v) + a * x


def _correction(v: OptState, b2: ArrayLike, k: jax.Array) -> jax.Array:
    """The factor that makes vhat of a `v` of k squares: cheaper than a quotient."""
    return 1 / one_minus_power(b2, k, widest(c.dtype for c in jax.tree.leaves(v)))


def _times(v: OptState, factor: jax.Array) -> OptState:
    return jax.tree.map(lambda c: c * factor.astype(c.dtype), v)
