"""Arithmetic in which no digit is lost, and no finite number becomes one that is not."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from optax import Params, Updates

# For what is done to one leaf: without an outer jit one call instead of one for each operation; in
# one, nothing but a trace that is made once for each shape.
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


@inlined
def squared(g: jax.Array) -> jax.Array:
    """|g|^2: optax's convention for complex gradients."""
    return jnp.real(g * jnp.conj(g)) if jnp.iscomplexobj(g) else g * g


def mean(x: jax.Array, axes: tuple[int, ...] | int | None) -> jax.Array:
    """The mean, 0 over nothing."""
    total = jnp.sum(x, axes)
    # A float, because a leaf may have more elements than an int32 can count.
    return total / float(max(x.size // max(total.size, 1), 1))


def root(x: jax.Array) -> jax.Array:
    """The square root, whose derivative is 0 at 0: an infinite one would become NaN later."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


@inlined
def inverse_root(x: jax.Array, eps: ArrayLike) -> jax.Array:
    """1 / (sqrt(x) + eps), and 0 where x is 0: no scale yet, no step."""
    known = x > 0
    # The inner select keeps the derivative finite, as in `root`.
    root = jnp.sqrt(jnp.where(known, x, 1))
    return jnp.where(known, 1 / (root + jnp.asarray(eps, x.dtype)), 0)


@inlined
def inverse_root_of_product(x: jax.Array, y: jax.Array, eps: ArrayLike) -> jax.Array:
    """1 / (sqrt(x y) + eps) without under- or overflow, and 0 where one of the two is 0."""
    known = (x > 0) & (y > 0)
    product = root(x) * root(y) + jnp.asarray(eps, x.dtype)
    # Below the smallest normal number the quotient would be infinite.
    product = jnp.maximum(product, jnp.finfo(x.dtype).tiny)
    return jnp.where(known, 1 / product, 0)


def one_minus_power(b: ArrayLike, k: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """1 - b^k, with an exponent of at least 1.

    By expm1, because 1 - b^k loses 5 digits in float32 for b = 0.999 and small k.
    """
    log_b = np.log(b) if isinstance(b, float) and b else jnp.log1p(jnp.asarray(b) - 1)
    return -jnp.expm1(jnp.maximum(k, 1).astype(dtype) * jnp.asarray(log_b, dtype))


@inlined
def rescaled(m: jax.Array, scale: jax.Array, clip: ArrayLike | None) -> jax.Array:
    """Returns m * scale, at most `clip`, and finite wherever m is finite."""
    u = m * scale.astype(m.dtype)
    info = jnp.finfo(m.dtype)
    limit = jnp.asarray(info.max)
    if clip is not None:
        limit = jnp.minimum(jnp.asarray(clip, info.dtype), limit)
    return jax.lax.select(jnp.isfinite(m), clipped(u, limit), u)


def clipped(u: jax.Array, limit: jax.Array) -> jax.Array:
    """Every element of `u`, at most of magnitude `limit`."""
    if not jnp.iscomplexobj(u):
        return jax.lax.clamp(-limit, u, limit)
    size = jnp.abs(u)
    large = size > limit
    return u * jnp.where(large, limit / jnp.where(large, size, 1), 1).astype(u.dtype)


def widened(x: ArrayLike) -> jax.Array:
    """`x` in float32 or wider, if it is a float or complex number."""
    x = jnp.asarray(x)
    return x.astype(accumulator_dtype(x)) if jnp.issubdtype(x.dtype, jnp.inexact) else x


def narrowed(u: Updates, updates: Updates, params: Params | None) -> Updates:
    """`u`, whose leaves are wide, in the dtypes that an optimizer gives its updates.

    That is the wider of the gradient's and, where `params` are given for all of `updates`, the
    parameter's, as in ``optax.adam``.
    """
    leaves, tree = jax.tree.flatten(u)
    given, theirs = jax.tree.leaves(updates), jax.tree.leaves(params)
    if len(theirs) != len(given):
        theirs = given
    with jax.numpy_dtype_promotion("standard"):
        dtypes = map(jnp.promote_types, map(jnp.result_type, given), map(jnp.result_type, theirs))
    return tree.unflatten(map(_narrowed, leaves, dtypes))


@partial(inlined, static_argnums=1)
def _narrowed(u: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`u` in `dtype`, of which a finite one becomes at most the largest number."""
    info, wide = jnp.finfo(dtype), jnp.finfo(u.dtype)
    if info.max >= wide.max:
        return u.astype(dtype)
    limit = jnp.asarray(info.max, wide.dtype)
    return jax.lax.select(jnp.isfinite(u), clipped(u, limit), u).astype(dtype)
