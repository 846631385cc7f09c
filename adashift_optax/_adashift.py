"""Algorithm 1 of AdaShift (Zhou et al., ICLR 2019) as an Optax gradient transformation."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike
from optax import Params

from adashift_optax import _checks, _ring
from adashift_optax import _numbers as num
from adashift_optax._blocks import BlockAxes, Blocks, Phi, check_block_axes
from adashift_optax._boxes import Arrays, Paths, each, leaf_by_leaf, zeros_of
from adashift_optax._chain import narrowing
from adashift_optax._checks import Moments
from adashift_optax._xla import apart_on_cpu

# The paper's defaults. Of `adashift_factored` b1 is another: benchmarks/evidence has chosen it.
N, B1, B2, EPS, PHI = 10, 0.9, 0.999, 1e-10, "max"


class ScaleByAdashiftState(NamedTuple):
    """State of :func:`scale_by_adashift` after t updates.

    All arrays but the two counters are float32 or wider (complex64 or wider where they hold
    gradients of complex parameters), whatever the dtypes of parameters and gradients, except a
    ``queue`` in bfloat16. A ring is an array with a new leading axis of n + 1 slots.

    Attributes:
      count: t, int32 scalar. It stops at the largest int32 instead of overflowing.
      slot: t modulo n + 1, int32 scalar: the slot of every ring that is written next.
      mu: m_t, a tree like the parameters. None if m_t is the gradient: for b1 = 0 or n = 1.
      nu: v_t before bias correction, real.

        - By default, where a leaf is a block: one number for each leaf, 8 of them in a vector (in
          the last one perhaps fewer), in the order of ``jax.tree.leaves``.
        - ``block_axes``: a tree like the parameters, in which the reduced axes have size 1.
        - ``phi="none"``: a tree like the parameters.

      queue: a tree like the parameters, with a ring of the latest gradients for each leaf. With
        ``queue_dtype`` bfloat16 it is a tuple whose only field, ``bits``, is the tree of their bits
        as uint16. None where nothing reads it: for b1 = 0 or n = 1, unless ``phi="none"``.
      nu_queue: rings of the latest phi(g^2), like ``nu``. None for ``phi="none"``, because the
        gradient that leaves ``queue`` is squared then.
    """

    count: Any  # an array, as all; a tuple has a method of this name
    slot: jax.Array
    mu: Any
    nu: Any
    queue: Any
    nu_queue: Any


def scale_by_adashift(
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    n: int | None = None,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    queue_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates by AdaShift, without a learning rate. See :func:`adashift`.

    Args:
      b1: decay of the weights in the window.
      b2: decay of the second moment.
      eps: added to the denominator.
      n: the delay in steps and the length of the momentum window. None: 10.
      phi: what the squared gradients of a block are reduced to.
      block_axes: the axes of a leaf that form one block together.
      queue_dtype: the dtype in which the queue holds gradients.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a :class:`ScaleByAdashiftState`.
    """
    return narrowing(direction(b1, b2, eps, n, phi, block_axes, queue_dtype))


def direction(
    b1: Any, b2: Any, eps: Any, n: Any, phi: Any, block_axes: Any, queue_dtype: Any
) -> optax.GradientTransformationExtraArgs:
    """:func:`scale_by_adashift`, whose updates are float32 or wider."""
    moments, n = _checks.check_moments(b1, b2, eps), _checks.check_n(N if n is None else n)
    dtype = _checks.check_bfloat16("queue_dtype", queue_dtype)
    blocks = Blocks(_checks.check_phi(phi), check_block_axes(block_axes))
    averages = n > 1 and not num.is_zero(moments[0])  # otherwise m_t = g_t
    start = partial(init, n, averages, blocks, dtype)
    return leaf_by_leaf(ScaleByAdashiftState, start, partial(update, moments, n, blocks))


def init(
    n: int, averages: bool, blocks: Blocks, dtype: np.dtype | None, params: Params
) -> ScaleByAdashiftState:
    """The state before the first update."""
    has_queue = averages or blocks.phi == "none"
    _checks.check_params(params, "queue_dtype" if has_queue and dtype else "")
    nu = blocks.init(params)
    return ScaleByAdashiftState(
        count=jnp.zeros([], jnp.int32),
        slot=jnp.zeros([], jnp.int32),
        mu=zeros_of(params) if averages else None,
        nu=nu,
        queue=_ring.rings(params, n, dtype) if has_queue else None,
        nu_queue=None if blocks.phi == "none" else _ring.rings(nu, n),
    )


def update(
    moments: Moments, n: int, blocks: Blocks, g: Arrays, paths: Paths, old: ScaleByAdashiftState
) -> tuple[Arrays, ScaleByAdashiftState]:
    """u_t without the paper's -alpha, and the next state, all trees as lists of leaves."""
    (b1, b2, eps), (_, slot, _, _, queue, nu_queue) = moments, old
    t: Any = optax.safe_increment(old.count)

    # The queue takes in g_t and gives out g_{t-n}, of other slots; before there is one it is 0.
    # g_in is g_t as the queue holds it, so that it enters m as it will leave it.
    g_in = g_out = g
    if queue is not None:
        queue, g_in, g_out = _ring.push(queue, g, slot, n)

    # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
    mu = None if old.mu is None else each(partial(windowed, b1, n), old.mu, g_in, g_out)
    m = each(num.widened, g) if mu is None else mu

    # v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2), from a queue of phi(g^2) if it is a few numbers
    if nu_queue is None:
        leaving = blocks.squares(g_out, paths, old.nu)
    else:
        leaving = _ring.read(nu_queue, slot, n)
        entering = blocks.squares(apart_on_cpu(g), paths, old.nu)  # g, for one more reader
        nu_queue = _ring.write(nu_queue, entering, slot)
    nu = each(lambda v, x: num.joined(v, x, num.one_minus(b2, v.dtype)), old.nu, leaving)

    # vhat_t = v_t / (1 - b2^(t-n)),   u_t = m_t / (sqrt(vhat_t) + eps): 0 where v_t is, as for
    # t <= n, where the power counts as b2^1. `spread` gives each leaf its scale.
    to_vhat = 1 / num.one_minus_power(b2, t - n, num.widest(v.dtype for v in nu))
    scales = each(lambda v: num.inverse_root(v * to_vhat.astype(v.dtype), eps), nu)
    u = each(num.times, m, blocks.spread(scales, len(m)))
    return u, ScaleByAdashiftState(t, _ring.after(slot, n), mu, nu, queue, nu_queue)


def windowed(b1: ArrayLike, n: int, m: jax.Array, g_in: jax.Array, g_out: jax.Array) -> jax.Array:
    """m_t of one leaf: b1 m_{t-1} + (g_t - b1^n g_{t-n}) / sum_{i<n} b1^i, which is the same sum.

    Its rounding errors shrink by b1 at every step.
    """
    # b1 is rounded first, as in b1 m, or a gradient would leave with another weight than it has.
    real = jnp.finfo(m.dtype).dtype
    if isinstance(b1, float):
        xp, b1 = np, np.asarray(b1, real).astype(float)
    else:
        xp, b1 = jnp, num.rounded(jnp.asarray(b1, float), real)
    powers = b1 ** xp.arange(n + 1, dtype=b1.dtype)
    total = xp.sum(powers[:-1])
    keep, enter, leave = (jnp.asarray(w, m.dtype) for w in (b1, 1 / total, powers[-1] / total))
    return keep * m + (enter * g_in.astype(m.dtype) - leave * g_out.astype(m.dtype))
