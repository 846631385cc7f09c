"""Factored AdaShift: what needs a sum is a step old, what needs none is of today."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax import _checks
from adashift_optax._adashift import B1, B2, EPS
from adashift_optax._boxes import checker, flat, leaves_of, like, map_leaves, map_to_others
from adashift_optax._numbers import (
    accumulator_dtype,
    decayed,
    inlined,
    inverse_root,
    joined,
    mean,
    narrowing,
    one_minus,
    one_minus_power,
    squared,
    times,
    widened,
)
from adashift_optax._xla import apart_on_cpu, zeros_like


class ScaleByAdashiftFactoredState(NamedTuple):
    """State of :func:`scale_by_adashift_factored` after t updates.

    Every array is float32 or wider (``mu`` is complex where parameters are), whatever the dtypes of
    parameters and gradients, except a ``mu`` with a ``mu_dtype``.

    Attributes:
      count: t, int32 scalar. It stops at the largest int32 instead of overflowing.
      mu: m_t, a tree like the parameters. None if b1 = 0.
      rows: R_t, the means of g^2 over the last axis: a tree of [..., rows, 1]. Of a leaf of rank 0
        or 1 it is v_t itself.
      columns: C_t, those over the axis before: [..., 1, columns], and one 0 for a leaf of rank 0
        or 1.
      means: the mean of R_t: [..., 1, 1], and one 0 for a leaf of rank 0 or 1. It could be made of
        ``rows``, but where rows are sharded, that is an all-reduce.
    """

    count: Any
    mu: Any
    rows: Any
    columns: Any
    means: Any


def scale_by_adashift_factored(
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates by factored AdaShift, without a learning rate.

    See :func:`adashift_factored`.

    Args:
      b1: decay of the momentum.
      b2: decay of the second moment.
      eps: added to the denominator.
      mu_dtype: the dtype in which the state holds the momentum.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a
      :class:`ScaleByAdashiftFactoredState`.
    """
    return narrowing(factored_direction(b1, b2, eps, mu_dtype))


def factored_direction(
    b1: ArrayLike, b2: ArrayLike, eps: ArrayLike, mu_dtype: DTypeLike | None
) -> optax.GradientTransformationExtraArgs:
    """:func:`scale_by_adashift_factored`, whose updates are float32 or wider."""
    b1, b2, eps = _checks.check_moments(b1, b2, eps)
    dtype = _checks.check_bfloat16("mu_dtype", mu_dtype)
    averages = not (isinstance(b1, float) and b1 == 0)  # otherwise u_t = s_t

    def init(params: optax.Params) -> ScaleByAdashiftFactoredState:
        _checks.check_params(params, mu_dtype=dtype if averages else None)

        def reduced(axes: tuple[int, ...], p: jax.Array) -> jax.Array:
            zeros = zeros_like(p, accumulator_dtype(p, real=True))
            if zeros.ndim < 2:
                return zeros if axes == (-1,) else jnp.zeros([], zeros.dtype)
            # A reduction, so that the axes that stay keep their sharding.
            return jnp.sum(zeros, axes, keepdims=True)

        zeros = partial(map_leaves, lambda p: zeros_like(p, dtype or accumulator_dtype(p)))
        rows, columns, means = (
            map_to_others(partial(reduced, axes), params) for axes in ((-1,), (-2,), (-2, -1))
        )
        mu = zeros(params) if averages else None
        return ScaleByAdashiftFactoredState(jnp.zeros([], jnp.int32), mu, rows, columns, means)

    check = checker(init)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, ScaleByAdashiftFactoredState]:
        del params, extra_args
        known = _checks.check_state(state, ScaleByAdashiftFactoredState)
        check(updates, known)
        old, (g, _) = flat(known), leaves_of(updates)
        if not g:
            return updates, known
        t = optax.safe_increment(old.count)
        shares = {v.dtype: share(b2, t, v.dtype) for v in old.rows}
        a = [shares[v.dtype] for v in old.rows]
        factors = (old.rows, old.columns, old.means)

        # v_t = (1 - a_t) R_{t-1} C_{t-1} / mean(R_{t-1}) + a_t g_t^2,  s_t = g_t / (sqrt(v_t) + eps)
        mu, u = None, each(partial(scaled, eps), g, *factors, a)
        if averages:
            # m_t = b1 m_{t-1} + (1 - b1) s_t
            mu = each(partial(averaged, b1), old.mu, u)
            # u_t = b1 m_t / (1 - b1^(t+1)) + (1 - b1) s_t / (1 - b1^t), where s_t is made again:
            # XLA on CPU would store an s with two readers, and copy mu (3 times as slow).
            s = each(partial(scaled, eps), apart_on_cpu(g), *factors, a)
            u = each(partial(looked_ahead, b1, t), apart_on_cpu(mu), s)

        # R_t, C_t and mean(R_t): nothing above waits for them.
        again = apart_on_cpu(g)
        new = each(means, again, apart_on_cpu(again), *factors, a)
        rows, columns, both = ([x[k] for x in new] for k in range(3))
        state = ScaleByAdashiftFactoredState(t, mu, rows, columns, both)
        return like(updates, u), like(known, state)

    return optax.GradientTransformationExtraArgs(init, update)


def each(function: Callable[..., Any], *lists: list[Any]) -> list[Any]:
    """`function` of the items of lists, leaf by leaf."""
    return [function(*leaves) for leaves in zip(*lists, strict=True)]


def share(b2: ArrayLike, t: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """a_t = max(1 - b2, t^-0.8), so that a_1 = 1."""
    return jnp.maximum(one_minus(b2, dtype), t.astype(dtype) ** -0.8)


@inlined
def scaled(
    eps: ArrayLike, g: jax.Array, r: jax.Array, c: jax.Array, both: jax.Array, a: jax.Array
) -> jax.Array:
    """s_t of one leaf."""
    v = r
    if g.ndim >= 2:
        # The ratio first: the product may underflow.
        v = jnp.where(both > 0, r / jnp.where(both > 0, both, 1), 0) * c
    v = (v - a * v) + squared(g, a).astype(v.dtype)
    return times(widened(g), inverse_root(v, eps))


@inlined
def averaged(b1: ArrayLike, m: jax.Array, s: jax.Array) -> jax.Array:
    """m_t of one leaf, rounded to the dtype of the state before the update is made of it."""
    narrow, m = m.dtype, widened(m)
    m = decayed(m, s.astype(m.dtype), one_minus(b1, jnp.finfo(m.dtype).dtype).astype(m.dtype))
    if narrow != m.dtype:
        # Converting back and forth may be dropped by XLA as excess precision.
        m = jax.lax.reduce_precision(m, jnp.finfo(narrow).nexp, jnp.finfo(narrow).nmant)
    return m.astype(narrow)


@inlined
def looked_ahead(b1: ArrayLike, t: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
    """u_t of one leaf: Nesterov's momentum, as in ``optax.adam``."""
    m = widened(m)
    real = jnp.finfo(m.dtype).dtype
    of_m = jnp.asarray(b1, real) / one_minus_power(b1, t + 1, real)
    of_s = one_minus(b1, real) / one_minus_power(b1, t, real)
    return of_m.astype(m.dtype) * m + of_s.astype(m.dtype) * s.astype(m.dtype)


@inlined
def means(
    g: jax.Array, again: jax.Array, r: jax.Array, c: jax.Array, both: jax.Array, a: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """R_t, C_t and mean(R_t) of one leaf; `again` is g for one more reader."""
    if g.ndim < 2:
        return joined(r, squared(g).astype(r.dtype), a), c, both
    rows = mean(squared(g), (-1,), keepdims=True).astype(r.dtype)
    columns = mean(squared(again), (-2,), keepdims=True).astype(r.dtype)
    # Of the means of rows, which are there: of all squares XLA on CPU would sum once more.
    of_rows = mean(rows, (-2,), keepdims=True)
    return joined(r, rows, a), joined(c, columns, a), joined(both, of_rows, a)
