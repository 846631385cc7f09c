"""Algorithm 1 of AdaShift (Zhou et al., ICLR 2019) as an Optax gradient transformation."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax import _blocks, _checks, _ring
from adashift_optax import _numbers as num
from adashift_optax._blocks import BlockAxes, Phi
from adashift_optax._boxes import Arrays, Paths, leaf_by_leaf, map_leaves
from adashift_optax._xla import apart_on_cpu, zeros_like

# The defaults of every public function, in this one place: the paper's.
N, B1, B2, EPS, PHI = 10, 0.9, 0.999, 1e-10, "max"


class ScaleByAdashiftState(NamedTuple):
    """State of :func:`scale_by_adashift` after t updates.

    Every array is float32 or wider (complex64 or wider where it holds gradients of complex
    parameters), whatever the dtypes of parameters and gradients, except a ``queue`` in bfloat16. A
    ring is an array with a new leading axis of n + 1 slots.

    Attributes:
      count: t, int32 scalar. It stops at the largest int32 instead of overflowing.
      slot: t modulo n + 1, int32 scalar: the slot of every ring that is written next.
      mu: m_t, a tree like the parameters. None if m_t is the gradient: for b1 = 0 or n = 1.
      nu: v_t before bias correction, real.

        - One block for each leaf: vectors of up to 8 entries, one entry for each leaf, in the order
          of ``jax.tree.leaves``.
        - ``block_axes``: a tree like the parameters, in which the reduced axes have size 1.
        - ``phi="none"``: a tree like the parameters.

      queue: a tree like the parameters, with a ring of the latest gradients for each leaf; with
        ``queue_dtype`` bfloat16 their bits as uint16. None where nothing reads it: for b1 = 0 or
        n = 1, unless ``phi="none"``.
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
      n: the delay in steps and the length of the momentum window.
      phi: what the squared gradients of a block are reduced to.
      block_axes: the axes of a leaf that form one block together.
      queue_dtype: the dtype in which the queue holds gradients.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a :class:`ScaleByAdashiftState`.
    """
    return num.narrowing(direction(b1, b2, eps, n, phi, block_axes, queue_dtype))


class Rule(NamedTuple):
    """The arguments of :func:`scale_by_adashift`, checked."""

    b1: ArrayLike
    b2: ArrayLike
    eps: ArrayLike
    n: int
    phi: Phi
    block_axes: BlockAxes
    queue_dtype: np.dtype | None

    @property
    def averages(self) -> bool:
        """Whether m_t is more than g_t: unless n = 1, or b1 = 0 is known before jit."""
        return self.n > 1 and not (isinstance(self.b1, float) and self.b1 == 0)

    @property
    def has_queue(self) -> bool:
        """Whether gradients that leave the queue are needed."""
        return self.averages or self.phi == "none"


def direction(
    b1: Any, b2: Any, eps: Any, n: Any, phi: Any, block_axes: Any, queue_dtype: Any
) -> optax.GradientTransformationExtraArgs:
    """:func:`scale_by_adashift`, whose updates are float32 or wider."""
    rule = Rule(
        *_checks.check_moments(b1, b2, eps),
        _checks.check_n(N if n is None else n),
        _checks.check_phi(phi),
        _blocks.check_block_axes(block_axes),
        _checks.check_bfloat16("queue_dtype", queue_dtype),
    )
    return leaf_by_leaf(ScaleByAdashiftState, partial(init, rule), partial(update, rule))


def init(rule: Rule, params: optax.Params) -> ScaleByAdashiftState:
    """The state before the first update."""
    _checks.check_no_names(params)
    _checks.check_inexact(
        "params", params, "queue_dtype" * bool(rule.queue_dtype and rule.has_queue)
    )
    nu = _blocks.init_cells(params, rule.phi, rule.block_axes)
    zeros = partial(map_leaves, lambda p: zeros_like(p, num.accumulator_dtype(p)))
    return ScaleByAdashiftState(
        count=jnp.zeros([], jnp.int32),
        slot=jnp.zeros([], jnp.int32),
        mu=zeros(params) if rule.averages else None,
        nu=nu,
        queue=_ring.rings(params, rule.n, rule.queue_dtype) if rule.has_queue else None,
        nu_queue=None if rule.phi == "none" else _ring.rings(nu, rule.n),
    )


def update(
    rule: Rule, g: Arrays, paths: Paths, old: ScaleByAdashiftState
) -> tuple[Arrays, ScaleByAdashiftState]:
    """u_t and the next state, all trees as lists of leaves."""
    b1, b2, eps, n, phi, block_axes, _ = rule
    t, slot = optax.safe_increment(old.count), old.slot
    statistic = partial(_blocks.squares, paths=paths, like=old.nu, phi=phi, block_axes=block_axes)

    # The queue takes in g_t and gives out g_{t-n}.
    queue, g_in, g_out = old.queue, g, g
    if rule.has_queue:
        queue, g_in, g_out = _ring.push(old.queue, g, slot, n)

    # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
    mu = windowed(old.mu, g_in, g_out, b1, n) if rule.averages else None
    m = [num.widened(x) for x in g] if mu is None else mu

    # v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2)
    nu_queue = old.nu_queue
    if phi == "none":
        x = statistic(g_out)
    else:
        x = _ring.read(nu_queue, slot, n)
        nu_queue = _ring.write(nu_queue, statistic(apart_on_cpu(g)), slot)
    nu = [num.joined(v, x, num.one_minus(b2, v.dtype)) for v, x in zip(old.nu, x, strict=True)]

    # vhat_t = v_t / (1 - b2^(t-n)),   u_t = m_t / (sqrt(vhat_t) + eps)
    to_vhat = 1 / num.one_minus_power(b2, t - n, num.widest(v.dtype for v in nu))
    scales = [num.inverse_root(v * to_vhat.astype(v.dtype), eps) for v in nu]
    scales = _blocks.spread(scales, len(m), phi, block_axes)
    u = [num.times(m, scale) for m, scale in zip(m, scales, strict=True)]
    return u, ScaleByAdashiftState(t, _ring.after(slot, n), mu, nu, queue, nu_queue)


def windowed(mu: Arrays, g: Arrays, old: Arrays, b1: ArrayLike, n: int) -> Arrays:
    """m_t by its recurrence, whose rounding errors shrink by b1 at every step."""
    weights = {m.dtype: _weights(b1, n, m.dtype) for m in mu}

    def one(m: jax.Array, g: jax.Array, old: jax.Array) -> jax.Array:
        keep, enter, leave = (jnp.asarray(w, m.dtype) for w in weights[m.dtype])
        return keep * m + (enter * g.astype(m.dtype) - leave * old.astype(m.dtype))

    return [one(*leaves) for leaves in zip(mu, g, old, strict=True)]


def _weights(b1: ArrayLike, n: int, dtype: jnp.dtype) -> list[Any]:
    """The weights of m_{t-1}, g_t and g_{t-n} in m_t."""
    xp = jnp
    if isinstance(b1, float):
        # Rounded first, or a gradient would fade by another b1 than the one it leaves with.
        xp, b1 = np, float(np.asarray(b1, jnp.finfo(dtype).dtype))
    powers = b1 ** xp.arange(n + 1, dtype=xp.result_type(b1))
    total = xp.sum(powers[:-1])
    return [b1, 1 / total, powers[-1] / total]
