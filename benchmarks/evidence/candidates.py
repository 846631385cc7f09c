"""Variants of `adashift_factored`: those among which tasks A choose, and the one without the delay.

    v_t = (1 - a_t) R C / mean(R) + kappa a_t g_t^2,    s_t = g_t / (sqrt(v_t) + eps)

R and C are the means over rows and columns of the step before, or of today where nothing is
delayed. The momentum of s_t stands behind, in a transformation of its own.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

B2, EPS = 0.999, 1e-10
Direction = optax.GradientTransformation


class Candidate(NamedTuple):
    """The constants that are chosen.

    Attributes:
      nesterov: whether the momentum looks ahead.
      kappa: the factor on the element's own square.
      growing: whether a_t is max(1 - b2, t^-0.8). If not, it is (1 - b2) / (1 - b2^t): a constant
        with the bias correction of R, C and v.
    """

    nesterov: bool = True
    b1: float = 0.9
    kappa: float = 1.0
    growing: bool = True

    @property
    def name(self) -> str:
        """The name in the results."""
        momentum = "" if self.b1 == 0 else " nesterov" if self.nesterov else " plain"
        shares = "growing" if self.growing else "constant"
        return f"candidate{momentum} b1={self.b1:g} kappa={self.kappa:g} {shares}"

    @property
    def constants(self) -> int:
        """How many numbers the rule has beside b2 and eps: of equals the one with fewer wins."""
        return (self.b1 != 0) + (self.kappa != 1) + self.growing

    def make(self, delayed: bool = True, clipped: bool = False, last: bool = False) -> Direction:
        """Its direction. `clipped`: the RMS of each leaf of s_t is at most 1, as in Adafactor's
        recipe. `last`: the root of v_t divides the momentum of g_t, as in Adam.
        """
        move, none = momentum(self.b1, self.nesterov), optax.identity()
        scaled = scale(self.kappa, self.growing, delayed, move if last else none)
        clip = optax.clip_by_block_rms(1.0) if clipped else none
        return optax.chain(scaled, clip, none if last else move)


class ScaleState(NamedTuple):
    """`squares`: of each leaf (R, C), or v itself for rank 0 and 1. `inner`: of what is divided."""

    count: jax.Array
    squares: Any
    inner: Any


def scale(kappa: float, growing: bool, delayed: bool, of: Direction) -> Direction:
    """From g_t to s_t, or to what `of` makes of g_t instead of g_t, over the same root of v_t."""

    def means(g: jax.Array) -> tuple[jax.Array, ...]:
        x = jnp.square(g)
        return (x.mean(-1, keepdims=True), x.mean(-2, keepdims=True)) if x.ndim > 1 else (x,)

    def init(params: Any) -> ScaleState:
        squares = jax.tree.map(lambda p: means(jnp.zeros_like(p)), params)
        return ScaleState(jnp.zeros([], jnp.int32), squares, of.init(params))

    def update(g: Any, state: ScaleState, params: Any = None) -> tuple[Any, ScaleState]:
        del params
        count = optax.safe_increment(state.count)
        t = count.astype(jnp.float32)
        a = jnp.maximum(1 - B2, t**-0.8) if growing else (1 - B2) / -jnp.expm1(t * math.log(B2))
        today = jax.tree.map(means, g)
        x, inner = of.update(g, state.inner)
        squares = jax.tree.map(lambda old, new: old - a * old + a * new, state.squares, today)

        def scaled(g: jax.Array, x: jax.Array, old: Any, new: Any) -> jax.Array:
            used = old if delayed or g.ndim < 2 else new
            whole = used[0]
            if g.ndim > 1:
                mean = used[0].mean(-2, keepdims=True)
                whole = jnp.where(mean > 0, used[0] / jnp.where(mean > 0, mean, 1), 0) * used[1]
            v = whole - a * whole + kappa * a * g * g
            return jnp.where(v > 0, x / (jnp.sqrt(jnp.where(v > 0, v, 1)) + EPS), 0)

        s = jax.tree.map(scaled, g, x, state.squares, squares)
        return s, ScaleState(count, squares, inner)

    return optax.GradientTransformation(init, update)


def momentum(b1: float, nesterov: bool, dtype: Any = None) -> Direction:
    """The mean of what comes in, with bias correction: plain, or Nesterov's as in `optax.adam`."""
    if b1 == 0:
        return optax.identity()
    if not nesterov:
        return optax.ema(b1, accumulator_dtype=dtype)

    def init(params: Any) -> optax.EmaState:
        zeros = jax.tree.map(lambda p: jnp.zeros_like(p, dtype), params)
        return optax.EmaState(jnp.zeros([], jnp.int32), zeros)

    def one(m: jax.Array, x: jax.Array) -> jax.Array:
        return (b1 * m.astype(x.dtype) + (1 - b1) * x).astype(m.dtype)

    def update(s: Any, state: optax.EmaState, params: Any = None) -> tuple[Any, optax.EmaState]:
        del params
        count = optax.safe_increment(state.count)
        t = count.astype(jnp.float32)
        m = jax.tree.map(one, state.ema, s)
        now, ahead = (1 - b1) / (1 - b1**t), b1 / (1 - b1 ** (t + 1))
        u = jax.tree.map(lambda m, x: ahead * m.astype(x.dtype) + now * x, m, s)
        return u, optax.EmaState(count, m)

    return optax.GradientTransformation(init, update)
