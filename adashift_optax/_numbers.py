"""Arithmetic in which no digit is lost, and no finite number becomes one that is not."""

import functools
from collections.abc import Callable, Iterable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from optax import Params, Updates

Tree = TypeVar("Tree")

# For what is done to one leaf: without an outer jit one call instead of one for each operation; in
# one, nothing but a trace that is made once for each shape.
inlined = functools.partial(jax.jit, inline=True)


def on_cpu(change: Callable[..., Tree], x: Tree, *others: object) -> Tree:
    """`change`(x, *others) in programs compiled for CPU; elsewhere, and without jit, `x` itself."""
    if not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((x, others))):
        return x  # nothing is compiled
    return jax.lax.platform_dependent(x, *others, cpu=change, default=lambda x, *others: x)


def apart_on_cpu(g: Tree) -> Tree:
    """`g` for one more reader, in programs compiled for CPU.

    XLA on CPU stores what two kernels make of the same array, if only one of them is a loop: the
    squares of a gradient, or a bfloat16 gradient in float32, as large as the parameters. Behind a
    barrier it takes the reader for one of another array. On GPU and TPU both readers become one
    kernel, which a barrier would prevent. tests/test_state.py and test_widths.py guard it.
    """
    barrier = functools.partial(jax.tree.map, jax.lax.optimization_barrier)  # for each by itself
    return on_cpu(barrier, g)


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
    """|g|^2 in float32 or wider: optax's convention for complex gradients."""
    g = widened(g)
    return g.real * g.real + g.imag * g.imag if jnp.iscomplexobj(g) else g * g


def magnitude(g: jax.Array) -> jax.Array:
    """|g| in float32 or wider."""
    return jnp.abs(widened(g))


def in_range(x: jax.Array) -> jax.Array:
    """Where a square is at most half of the largest number, so that no mean of such overflows."""
    return x <= jnp.finfo(x.dtype).max / 2


def mean(x: jax.Array, axes: tuple[int, ...] | int | None) -> jax.Array:
    """The mean, 0 over nothing.

    Its sum may overflow; then it counts as a square that has. To scale what is summed, XLA on CPU
    would need a loop of its own in the place of its library's sum of squares: 10 to 30 % of a step.
    """
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


def one_minus(b: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """1 - b, made before b is rounded to `dtype`, which would lose the digits of a b near 1."""
    if isinstance(b, float):
        return jnp.asarray(1 - b, dtype)
    b = jnp.asarray(b)
    return (1 - b.astype(widest([b.dtype, dtype]))).astype(dtype)


def one_minus_power(b: ArrayLike, k: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    """1 - b^k, with an exponent of at least 1.

    By expm1, because 1 - b^k loses 5 digits in float32 for b = 0.999 and small k.
    """
    if isinstance(b, float) and isinstance(k, int):
        return one_minus(b**k, dtype)
    log_b = np.log(b) if isinstance(b, float) and b else jnp.log1p(-one_minus(b, dtype))
    return -jnp.expm1(jnp.maximum(k, 1).astype(dtype) * jnp.asarray(log_b, dtype))


def decayed(v: jax.Array, x: jax.Array, share: jax.Array) -> jax.Array:
    """Returns b v + (1 - b) x, where `share` is 1 - b."""
    # Not b * v: the rounding error of b = 0.999 in float32 would bias v.
    return (v - share * v) + share * x


@inlined
def rescaled(m: jax.Array, scale: jax.Array, clip: ArrayLike | None) -> jax.Array:
    """Returns m * scale, at most `clip`, and finite wherever m is finite.

    A clip below 0, which only a traced one can be, is one at 0. The product is as wide as the wider
    of the two, because in a narrower dtype the scale may be infinite.
    """
    m = _as_wide(m, scale.dtype)
    info = jnp.finfo(m.dtype)
    limit, scale = jnp.asarray(info.max), scale.astype(info.dtype)
    if clip is not None:
        clip = jnp.asarray(clip, info.dtype)
        limit = jnp.where(clip > 0, jnp.minimum(clip, limit), 0)
    if not jnp.iscomplexobj(m):
        u = m * scale
        return jax.lax.select(jnp.isfinite(m), jax.lax.clamp(-limit, u, limit), u)
    # Of m / 2^k, whose magnitude is between 1 and 3, no step below can over- or underflow.
    unit, k = _unit(m)
    size = root(squared(unit))
    large = size * scale > jnp.ldexp(limit, -k)
    factor = jnp.where(large, limit / jnp.where(large, size, 1), scale)
    most = jnp.where(large, limit, info.max)  # limit / size may have been rounded up
    u = jnp.where(large, unit, m)
    u = [jax.lax.clamp(-most, x * factor, most) for x in (u.real, u.imag)]
    return jnp.where(jnp.isfinite(m), jax.lax.complex(*u), jnp.asarray(jnp.nan, m.dtype))


def _as_wide(m: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`m`, in the real `dtype` (complex of such) if that is wider."""
    if jnp.finfo(dtype).bits <= jnp.finfo(m.dtype).bits:
        return m
    if jnp.iscomplexobj(m):
        return jax.lax.complex(m.real.astype(dtype), m.imag.astype(dtype))
    return m.astype(dtype)


def _unit(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """That part of `z` = part 2^k of which the larger component is in [1, 2), and k."""
    k = exponent(jnp.maximum(abs(z.real), abs(z.imag)))
    return jax.lax.complex(jnp.ldexp(z.real, -k), jnp.ldexp(z.imag, -k)), k


def exponent(x: jax.Array) -> jax.Array:
    """The k for which x / 2^k is in [1, 2): a constant to what differentiates by x."""
    return jnp.frexp(jax.lax.stop_gradient(x))[1] - 1


def below_largest(g: jax.Array) -> jax.Array:
    """`g`, finite ones at most a thousandth below the largest number.

    The mean of largest numbers, rounded up, would overflow, and m would stay infinite.
    """
    if jnp.iscomplexobj(g):
        return jax.lax.complex(below_largest(g.real), below_largest(g.imag))
    limit = jnp.asarray(jnp.finfo(g.dtype).max * (1 - 2.0**-10), g.dtype)
    return jax.lax.select(jnp.isfinite(g), jax.lax.clamp(-limit, g, limit), g)


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
        pairs = zip(map(jnp.result_type, given), map(jnp.result_type, theirs), strict=True)
        dtypes = [jnp.promote_types(*pair) for pair in pairs]
    return tree.unflatten(map(cast, leaves, dtypes))


@functools.partial(inlined, static_argnums=1)
def cast(u: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`u` in `dtype`, of which a finite one becomes at most the largest number."""
    info, wide = jnp.finfo(dtype), jnp.finfo(u.dtype)
    if info.max >= wide.max:
        return u.astype(dtype)
    limit = jnp.asarray(info.max, wide.dtype)

    def real(u: jax.Array) -> jax.Array:
        return jax.lax.select(jnp.isfinite(u), jax.lax.clamp(-limit, u, limit), u)

    return (jax.lax.complex(real(u.real), real(u.imag)) if jnp.iscomplexobj(u) else real(u)).astype(
        dtype
    )
