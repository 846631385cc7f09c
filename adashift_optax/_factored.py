"""Factored AdaShift: what needs a sum is a step old, what needs none is of today.

There is no queue and no n. R and C, the means of squares over rows and columns of the last two
axes, are those of step t - 1, and g_t^2 joins each element's v. In a leaf of rank 0 or 1 every
element has its own v: v_t = (1 - a_t) v_{t-1} + a_t g_t^2.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath
from jax.typing import ArrayLike, DTypeLike
from optax import Params

from adashift_optax import _checks
from adashift_optax import _numbers as num
from adashift_optax._adashift import B2, EPS
from adashift_optax._boxes import Arrays, Paths, each, leaf_by_leaf, map_to_others, zeros_of
from adashift_optax._chain import narrowing
from adashift_optax._checks import Moments
from adashift_optax._xla import apart_on_cpu, zeros_like

# Of one leaf at step t: R_{t-1}, C_{t-1}, mean(R_{t-1}), and a_t.
Factors = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


class ScaleByAdashiftFactoredState(NamedTuple):
    """State of :func:`scale_by_adashift_factored` after t updates.

    All arrays but the counter are float32 or wider (``mu`` is complex where parameters are),
    whatever the dtypes of parameters and gradients, except a ``mu`` with a ``mu_dtype``.

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

    count: Any  # an array, as all; a tuple has a method of this name
    mu: Any
    rows: Any
    columns: Any
    means: Any


def scale_by_adashift_factored(
    b1: ArrayLike = 0.8,
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
    b1: Any, b2: Any, eps: Any, mu_dtype: Any
) -> optax.GradientTransformationExtraArgs:
    """:func:`scale_by_adashift_factored`, whose updates are float32 or wider."""
    moments = _checks.check_moments(b1, b2, eps)
    dtype = _checks.check_bfloat16("mu_dtype", mu_dtype)
    start = partial(init, not num.is_zero(moments[0]), dtype)
    return leaf_by_leaf(ScaleByAdashiftFactoredState, start, partial(update, moments))


def init(averages: bool, dtype: np.dtype | None, params: Params) -> ScaleByAdashiftFactoredState:
    """The state before the first update; without momentum unless it `averages`."""
    _checks.check_params(params, "mu_dtype" if averages and dtype else "")

    def reduced(axes: tuple[int, ...], _: KeyPath, p: jax.Array) -> jax.Array:
        zeros = zeros_like(p, num.accumulator_dtype(p, real=True))
        if zeros.ndim < 2:
            return zeros if axes == (-1,) else jnp.zeros([], zeros.dtype)
        # A reduction, so that the axes that stay keep their sharding.
        return jnp.sum(zeros, axes, keepdims=True)

    return ScaleByAdashiftFactoredState(  # count, mu, rows, columns, means
        jnp.zeros([], jnp.int32),
        zeros_of(params, dtype) if averages else None,
        *(map_to_others(partial(reduced, axes), params) for axes in ((-1,), (-2,), (-2, -1))),
    )


def update(
    moments: Moments, g: Arrays, paths: Paths, old: ScaleByAdashiftFactoredState
) -> tuple[Arrays, ScaleByAdashiftFactoredState]:
    """u_t, which the learning rate and -1 will multiply, and the next state: lists of leaves."""
    (b1, b2, eps), (_, mu, rows, columns, mean_r) = moments, old
    t: Any = optax.safe_increment(old.count)
    # a_t = (1 - b2) / (1 - b2^t): Adam's weight and its bias correction in one, and a_1 = 1
    a = [num.one_minus(b2, v.dtype) / num.one_minus_power(b2, t, v.dtype) for v in rows]
    factors = [*zip(rows, columns, mean_r, a, strict=True)]
    # The same g for each reader: what two of them make of one array, XLA on CPU would store, at 3
    # times the time. (Each is made of the one before, because equal ones would become one again.)
    g_again = apart_on_cpu(g)
    g_rows = apart_on_cpu(g_again)
    g_columns = apart_on_cpu(g_rows)

    # v_t = (1 - a_t) R_{t-1} C_{t-1} / mean(R_{t-1}) + a_t g_t^2,   s_t = g_t / (sqrt(v_t) + eps)
    u = s = each(partial(scaled, eps), g, factors)
    if mu is not None:
        # m_t = b1 m_{t-1} + (1 - b1) s_t
        mu = each(partial(averaged, b1), mu, s)
        # u_t = b1 m_t / (1 - b1^(t+1)) + (1 - b1) s_t / (1 - b1^t), with s_t made again
        s = each(partial(scaled, eps), g_again, factors)
        u = each(partial(looked_ahead, b1, t), mu, s)

    # R_t, C_t and mean(R_t): nothing above waits for them.
    new = each(accumulated, g_rows, g_columns, factors)
    return u, ScaleByAdashiftFactoredState(t, mu, *([x[k] for x in new] for k in range(3)))


@num.inlined
def scaled(eps: ArrayLike, g: jax.Array, factors: Factors) -> jax.Array:
    """s_t of one leaf."""
    r, c, mean_r, a = factors
    # The ratio first: the product may underflow. Before the first gradient it is 0.
    v = r if g.ndim < 2 else num.ratio(r, mean_r) * c
    v = (v - a * v) + num.squared(g, a).astype(v.dtype)
    return num.times(num.widened(g), num.inverse_root(v, eps))


def averaged(b1: ArrayLike, m: jax.Array, s: jax.Array) -> jax.Array:
    """m_t of one leaf, rounded to the dtype of the state before the update is made of it."""
    narrow, m = m.dtype, num.widened(m)
    m = num.decayed(m, s.astype(m.dtype), num.one_minus(b1, m.dtype))
    return num.rounded(m, narrow).astype(narrow)


def looked_ahead(b1: ArrayLike, t: Any, m: jax.Array, s: jax.Array) -> jax.Array:
    """u_t of one leaf: Nesterov's momentum, as in ``optax.adam(nesterov=True)``."""
    m = num.widened(m)
    real = jnp.finfo(m.dtype).dtype
    of_m = jnp.asarray(b1, real) / num.one_minus_power(b1, optax.safe_increment(t), real)
    of_s = num.one_minus(b1, real) / num.one_minus_power(b1, t, real)
    return of_m.astype(m.dtype) * m + of_s.astype(m.dtype) * s.astype(m.dtype)


@num.inlined
def accumulated(g_rows: jax.Array, g_columns: jax.Array, factors: Factors) -> tuple[jax.Array, ...]:
    """R_t, C_t and mean(R_t) of one leaf. Both g are the same."""
    r, c, mean_r, a = factors
    if g_rows.ndim < 2:
        return num.joined(r, num.squared(g_rows).astype(r.dtype), a), c, mean_r
    rows = num.mean(num.squared(g_rows), (-1,), keepdims=True).astype(r.dtype)
    columns = num.mean(num.squared(g_columns), (-2,), keepdims=True).astype(r.dtype)
    # mean(R_t) by the recurrence of R_t: of R_t itself it would be an all-reduce where rows are
    # sharded. Of the means of rows, which are there: XLA on CPU would sum all squares once more.
    # Where R keeps a row as it was, because the new one is not finite, so does the mean.
    whole = num.mean(num.joined(r, rows, 1.0), (-2,), keepdims=True)
    return num.joined(r, rows, a), num.joined(c, columns, a), num.joined(mean_r, whole, a)
