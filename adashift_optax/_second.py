"""The second moment v_t: running means of squared gradients that have left the momentum window."""

import abc
import dataclasses
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from optax import OptState, Params, Updates

from adashift_optax._blocks import Blocks, Elements
from adashift_optax._clock import Step
from adashift_optax._decay import Decay
from adashift_optax._delay import DelayLine, after_on_cpu
from adashift_optax._numbers import decayed, in_range, inlined, on_cpu, widest


class Kept(NamedTuple):
    """The fields of the state that a second moment owns, of which it has the names."""

    nu: Any
    nu_queue: Any
    log_b2: jax.Array | None


# v, the logarithm of its decay, and the factor that makes vhat of it.
Averaged = tuple[Any, jax.Array | None, jax.Array]


@dataclasses.dataclass(frozen=True)
class SecondMoment(abc.ABC):
    """What v_t is the mean of. It has no arrays: the state has them.

    Attributes:
      n: v_t holds no gradient younger than n steps.
      decay: the weights of the squares in v.
      blocks: what shares one v.
      warm: whether vhat_t is made of today's and earlier gradients while t <= n.
      reads_queue: whether `step` needs the gradients that leave the queue.
      hops: whether `step` needs the phase.
    """

    n: int
    decay: Decay
    blocks: Blocks
    warm: bool = False
    reads_queue: ClassVar[bool] = False
    hops: ClassVar[bool] = False

    def init(self, params: Params) -> Kept:
        """The fields of the state."""
        nu = self.blocks.init(params)
        return Kept(nu, self.init_queue(params, nu), self.decay.init(params))

    def step(self, kept: Kept, g: Updates, g_out: Any, now: Step) -> tuple[Kept, Any]:
        """The next fields, and vhat_t: after g_t came, and `g_out` left the queue."""
        old = kept
        if self.warm:  # v of the gradients so far is dropped when the first delayed square joins
            kept = self._emptied(kept, now.t <= self.n + 1)
        nu, log, to_vhat = self.join(kept, g_out, now)
        if self.warm:
            so_far = averaged(self.decay, old.nu, self.blocks.reduce(g, nu), old.log_b2, now.t)
            nu, log, to_vhat = chosen(now.t <= self.n, so_far, (nu, log, to_vhat))
        queue = self.push(kept.nu_queue, g, nu, now)
        return Kept(nu, queue, log), _times(nu, to_vhat)

    def written(self, kept: Kept, mu: Any) -> Kept:
        """`kept`, written after `mu`, if there is one, was made of what it overwrites."""
        del mu
        return kept

    @abc.abstractmethod
    def init_queue(self, params: Params, nu: Any) -> Any:
        """The field `nu_queue` before the first step."""

    @abc.abstractmethod
    def join(self, kept: Kept, g_out: Any, now: Step) -> Averaged:
        """v_t: with the squares that have their turn."""

    @abc.abstractmethod
    def push(self, queue: Any, g: Updates, nu: Any, now: Step) -> Any:
        """`queue` with today's squares, written after `nu` was made of it."""

    def _emptied(self, kept: Kept, when: jax.Array) -> Kept:
        nu, log = jax.tree.map(lambda x: jnp.where(when, 0, x), (kept.nu, kept.log_b2))
        return Kept(nu, kept.nu_queue, log)


class OfPrevious(SecondMoment):
    """For n = 1: v_t is what the last step has left, and today's squares join it afterwards."""

    def init_queue(self, params: Params, nu: Any) -> None:
        return None

    def step(self, kept: Kept, g: Updates, g_out: Any, now: Step) -> tuple[Kept, Any]:
        nu, to_vhat = kept.nu, correction(self.decay, kept.nu, kept.log_b2, now.t - 1)
        new, log, _ = self.join(kept, g, now)
        if self.warm:  # the first vhat is today's square: to make it of `new`, XLA would store that
            x = jax.tree.map(lambda x: jnp.where(in_range(x), x, 0), self.blocks.reduce(g, nu))
            nu, to_vhat = chosen(now.t == 1, (x, jnp.ones_like(to_vhat)), (nu, to_vhat))
        return Kept(new, None, log), _times(nu, to_vhat)

    def written(self, kept: Kept, mu: Any) -> Kept:
        # Without momentum nothing that XLA stores comes before, and on CPU it copies v.
        elements = mu is not None and isinstance(self.blocks, Elements)
        if not elements:
            return kept
        return kept._replace(nu=on_cpu(partial(jax.tree.map, _after), kept.nu, mu))

    def join(self, kept: Kept, g_out: Any, now: Step) -> Averaged:
        x = self.blocks.reduce(g_out, kept.nu)
        return averaged(self.decay, kept.nu, x, kept.log_b2, now.t)

    def push(self, queue: None, g: Updates, nu: Any, now: Step) -> None:
        return queue


class OfBlocks(SecondMoment):
    """v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2), with phi(g^2) in a delay line of its own."""

    def init_queue(self, params: Params, nu: Any) -> Any:
        return DelayLine(self.n).init(nu, lambda c: c.dtype)

    def join(self, kept: Kept, g_out: Any, now: Step) -> Averaged:
        x = DelayLine(self.n).read(kept.nu_queue, now.slot)
        return averaged(self.decay, kept.nu, x, kept.log_b2, now.t - self.n)

    def push(self, queue: Any, g: Updates, nu: Any, now: Step) -> Any:
        x = after_on_cpu(nu, self.blocks.reduce(g, nu))
        return DelayLine(self.n).write(queue, x, now.slot)


class OfElements(SecondMoment):
    """v_t = b2 v_{t-1} + (1 - b2) g_{t-n}^2: for phi="none", of what leaves the queue."""

    reads_queue = True

    def init_queue(self, params: Params, nu: Any) -> None:
        return None

    def join(self, kept: Kept, g_out: Any, now: Step) -> Averaged:
        x = self.blocks.reduce(g_out, kept.nu)
        return averaged(self.decay, kept.nu, x, kept.log_b2, now.t - self.n)

    def push(self, queue: None, g: Updates, nu: Any, now: Step) -> None:
        return queue


def averaged(
    decay: Decay, v: OptState, x: OptState, log: jax.Array | None, k: jax.Array
) -> Averaged:
    """The mean of k squares, of which x is the latest and `v` that of the others."""
    to_vhat = correction(decay, v, log, k - 1)
    share = cache(partial(decay.share, k))
    v = jax.tree.map(lambda v, x: _average(v, x, share(v.dtype), to_vhat), v, x)
    log = decay.joined(log, k)
    return v, log, correction(decay, v, log, k)


@inlined
def _after(v: jax.Array, m: jax.Array) -> jax.Array:
    # XLA cannot know that v >= 0, so it has to look at m to choose between two equal things.
    return jnp.where(jnp.isnan(m), v, jnp.abs(v))


@inlined
def _average(v: jax.Array, x: jax.Array, share: jax.Array, to_vhat: jax.Array) -> jax.Array:
    """b2 v + (1 - b2) x, where an x that is out of range counts as vhat."""
    return decayed(v, jnp.where(in_range(x), x, v * to_vhat.astype(v.dtype)), share)


def correction(decay: Decay, v: OptState, log: jax.Array | None, k: jax.Array) -> jax.Array:
    """The factor that makes vhat of a `v` of k squares: cheaper than a quotient."""
    return 1 / decay.total(log, k, widest(c.dtype for c in jax.tree.leaves(v)))


def _times(v: OptState, factor: jax.Array) -> OptState:
    return jax.tree.map(lambda c: c * factor.astype(c.dtype), v)


def chosen(when: jax.Array, x: Any, y: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(when, x, y), x, y)
