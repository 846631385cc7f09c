"""Arithmetic in float32 or wider, and what happens at the ends of its range.

Three rules: a statistic that is not finite does not join v (`joined`); where a_t g^2 overflows,
the step of the factored rule is 0; what enters the window is at most 2^120 (`bounded`).
"""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

# For what is done to one leaf: without an outer jit one call instead of one for each operation.
inlined = partial(jax.jit, inline=True)


def accumulator_dtype(x: ArrayLike, real: bool = False) -> jnp.dtype:
    """float32 or wider (complex64 or wider where x is complex, unless `real`)."""
    dtype = jnp.result_type(x)
    # Not by promote_types, which refuses to mix dtypes under jax_numpy_dtype_promotion="strict".
    dtype = jnp.dtype(jnp.float32) if jnp.finfo(dtype).bits < 32 else dtype
    return jnp.finfo(dtype).dtype if real else dtype


def widest(dtypes: Iterable[jnp.dtype]) -> jnp.dtype:
    """The widest of real `dtypes`; float32 if there are none."""
    return max(dtypes, key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))


def widened(x: ArrayLike) -> jax.Array:
    """`x` in float32 or wider, if it is a float or complex number."""
    x = jnp.asarray(x)
    return x.astype(accumulator_dtype(x)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


@inlined
def squared(g: jax.Array, factor: ArrayLike = 1.0) -> jax.Array:
    """`factor` |g|^2 in float32 or wider: optax's convention for complex gradients.

    The factor goes in first. Then XLA on CPU does not see that a factor's square and one without
    have a part in common, which it would store.
    """
    g = widened(g)
    real = jnp.asarray(factor, jnp.finfo(g.dtype).dtype)
    if jnp.iscomplexobj(g):
        return real * g.real * g.real + real * g.imag * g.imag
    return real * g * g


def mean(x: jax.Array, axes: tuple[int, ...], keepdims: bool = False) -> jax.Array:
    """The mean, 0 over nothing."""
    total = jnp.sum(x, axes, keepdims=keepdims)
    # A float, because a leaf may have more elements than an int32 can count.
    return total / float(max(x.size // max(total.size, 1), 1))


def one_minus(b: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """1 - b, made before b is rounded to `dtype`, which would lose the digits of a b near 1."""
    if isinstance(b, float):
        return jnp.asarray(1 - b, dtype)
    return (1 - jnp.asarray(b, widest([jnp.result_type(b), dtype]))).astype(dtype)


def one_minus_power(b: ArrayLike, k: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """1 - b^k, with an exponent of at least 1.

    By expm1, because 1 - b^k loses 5 digits in float32 for b = 0.999 and small k.
    """
    log_b = np.log(b) if isinstance(b, float) and b else jnp.log1p(-one_minus(b, dtype))
    return -jnp.expm1(jnp.maximum(k, 1).astype(dtype) * jnp.asarray(log_b, dtype))


def decayed(v: jax.Array, x: jax.Array, share: jax.Array) -> jax.Array:
    """Returns (1 - share) v + share x."""
    # Not b * v: the rounding error of b = 0.999 in float32 would bias v.
    return (v - share * v) + share * x


@inlined
def joined(v: jax.Array, x: jax.Array, share: jax.Array) -> jax.Array:
    """`v` with `x` in it, if x is finite, and so small that no rounding makes v infinite."""
    return decayed(v, jnp.where(x <= jnp.finfo(x.dtype).max / 2, x, v), share)


@inlined
def times(m: jax.Array, scale: jax.Array) -> jax.Array:
    """Their product, as wide as the wider of the two."""
    with jax.numpy_dtype_promotion("standard"):
        return m * scale


@jax.custom_jvp
def ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns x / y, and 0 where y is 0."""
    return jnp.where(y > 0, x / jnp.where(y > 0, y, 1), 0)


# JAX's own derivative has y^2, which is a fourth power of gradients: it would under- or overflow.
ratio.defjvp(lambda xy, dxy: (q := ratio(*xy), ratio(dxy[0] - q * dxy[1], xy[1])))


def is_zero(b: object) -> bool:
    """Whether `b` is known to be 0 before jit: a traced one may be more."""
    return isinstance(b, float) and b == 0


def rounded(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x` in its own dtype, rounded to what `dtype` can hold."""
    info = jnp.finfo(dtype)
    if info.bits >= jnp.finfo(x.dtype).bits:
        return x
    # Not by converting back and forth, which XLA may drop as excess precision.
    return jax.lax.reduce_precision(x, info.nexp, info.nmant)


@inlined
def inverse_root(x: jax.Array, eps: ArrayLike) -> jax.Array:
    """1 / (sqrt(x) + eps), and 0 where x is 0: no scale yet, no step."""
    known = x > 0
    # The inner select keeps the derivative finite: an infinite one would become NaN later.
    root = jnp.sqrt(jnp.where(known, x, 1))
    return jnp.where(known, 1 / (root + jnp.asarray(eps, x.dtype)), 0)


@partial(inlined, static_argnames="maxexp")
def bounded(g: jax.Array, maxexp: int) -> jax.Array:
    """`g`, of which finite components are at most 2^120 (2^1016 in 64 bits): sums are finite.

    `maxexp` is that of the dtype that will hold it.
    """
    if jnp.iscomplexobj(g):
        return jax.lax.complex(bounded(g.real, maxexp), bounded(g.imag, maxexp))
    limit = jnp.asarray(2.0 ** (min(maxexp, jnp.finfo(g.dtype).maxexp) - 8), g.dtype)
    return jax.lax.select(jnp.isfinite(g), jax.lax.clamp(-limit, g, limit), g)
