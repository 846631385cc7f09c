"""Controls that the library does not have: no delay, and Adam with a b2 that grows."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

EPS = 1e-10
Blocks = Literal["none", "rows", "factored"]
B2 = float | Callable[[jax.Array], jax.Array]


def growing(k: jax.Array) -> jax.Array:
    """Adafactor's b2 for the k-th square: 0 for the first, whose weight is therefore 1."""
    return 1 - jnp.asarray(k, jnp.float32) ** -0.8


class ScaleFirstState(NamedTuple):
    """`weight` is the sum of the weights of the squares in `nu`."""

    count: jax.Array
    weight: jax.Array
    mu: Any
    nu: Any


def scale_first(
    blocks: Blocks, b1: float, b2: B2, clip: float | None, delayed: bool = False
) -> optax.GradientTransformation:
    """Each gradient over the root of vhat, clipped, and then the running mean of such quotients.

    With `delayed` vhat is made of the gradients before today's, as the library's window="ema" at
    n=1 does. Without, it holds today's too, and all else is equal.
    """

    def init(params: Any) -> ScaleFirstState:
        nu = jax.tree.map_with_path(lambda path, p: squares(blocks, path, p * 0), params)
        mu = jax.tree.map(jnp.zeros_like, params)
        return ScaleFirstState(jnp.zeros([], jnp.int32), jnp.zeros([]), mu if b1 else None, nu)

    def update(g: Any, state: ScaleFirstState, params: Any = None) -> Any:
        del params
        t = state.count + 1
        decay = b2(t) if callable(b2) else jnp.float32(b2)
        new = jax.tree.map_with_path(lambda path, x: squares(blocks, path, x), g)
        nu = jax.tree.map(lambda v, x: decay * v + (1 - decay) * x, state.nu, new)
        weight = decay * state.weight + (1 - decay)
        used, of = (state.nu, state.weight) if delayed else (nu, weight)
        s = jax.tree.map(lambda x, v: quotient(x, v, jnp.maximum(of, 1e-30), clip), g, used)
        mu = state.mu
        if b1:
            mu = jax.tree.map(lambda m, x: b1 * m + (1 - b1) * x, mu, s)
            k = (t - 1 if delayed else t).astype(jnp.float32)
            total = jnp.where(k > 0, 1 - b1**k, 1)
            s = jax.tree.map(lambda m: m / total, mu)
        return s, ScaleFirstState(t, weight, mu, nu)

    return optax.GradientTransformation(init, update)


def squares(blocks: Blocks, path: Any, g: jax.Array) -> tuple[jax.Array, ...]:
    """What v keeps of the squares of a leaf: one array, or the means of its rows and columns."""
    x = g**2
    if blocks == "none" or (blocks == "factored" and x.ndim < 2):
        return (x,)
    if blocks == "factored":
        return x.mean(-1, keepdims=True), x.mean(-2, keepdims=True)
    if x.ndim < 2:
        return (x.mean(keepdims=True),)
    table = getattr(path[-1], "key", "") == "embedding"
    return (x.mean(-1 if table else tuple(range(x.ndim - 1)), keepdims=True),)


def quotient(
    g: jax.Array, v: tuple[jax.Array, ...], weight: jax.Array, clip: float | None
) -> jax.Array:
    """`g` over the root of vhat = v / weight: 0 where v is 0."""
    v = tuple(x / weight for x in v)
    whole = v[0]
    if len(v) == 2:
        of_rows = v[0].mean(-2, keepdims=True)
        whole = jnp.where(of_rows > 0, v[0] / jnp.where(of_rows > 0, of_rows, 1), 0) * v[1]
    s = jnp.where(whole > 0, g / (jnp.sqrt(jnp.where(whole > 0, whole, 1)) + EPS), 0)
    return s if clip is None else jnp.clip(s, -clip, clip)


def growing_adam(b1: float) -> optax.GradientTransformation:
    """Adam whose b2 grows: its first weight is 1, so v needs no correction."""

    def init(params: Any) -> optax.ScaleByAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update(g: Any, state: optax.ScaleByAdamState, params: Any = None) -> Any:
        del params
        t = state.count + 1
        b2, total = growing(t), 1 - b1 ** t.astype(jnp.float32)
        mu = jax.tree.map(lambda m, x: b1 * m + (1 - b1) * x, state.mu, g)
        nu = jax.tree.map(lambda v, x: b2 * v + (1 - b2) * x**2, state.nu, g)
        u = jax.tree.map(lambda m, v: m / total / (jnp.sqrt(v) + 1e-8), mu, nu)
        return u, optax.ScaleByAdamState(t, mu, nu)

    return optax.GradientTransformation(init, update)
