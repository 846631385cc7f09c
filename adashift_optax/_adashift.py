"""Algorithm 1 of AdaShift (Zhou et al., ICLR 2019) as an Optax gradient transformation."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax import _checks, _queue
from adashift_optax._blocks import BlockAxes, Blocks, accumulator_dtype, squared, widest
from adashift_optax._window import Sliding

# The defaults of every function below, in this one place: the paper's.
N, B1, B2, EPS, PHI, WINDOW = 10, 0.9, 0.999, 1e-10, "max", "sliding"
WEIGHT_DECAY = 1e-4  # optax.adamw's

Phi = str | Callable[[jax.Array], jax.Array]


class ScaleByAdashiftState(NamedTuple):
    """State of :func:`scale_by_adashift` after t updates.

    Every array is float32 or wider (complex64 or wider where it holds gradients of complex
    parameters), whatever the dtypes of parameters and gradients.

    Attributes:
      count: t, int32 scalar. It stops at the largest int32 instead of overflowing.
      slot: where the next update writes in the queues, int32 scalar in [0, n + 1).
      mu: m_t, a tree like the parameters. None if b1 = 0 or n = 1, where m_t is the gradient.
      nu: v_t, real, before bias correction. One block per leaf: a vector with one entry per leaf,
        in the order of ``jax.tree.leaves``. With ``block_axes``: a tree like the parameters, where
        the reduced axes have size 1. ``phi="none"``: a tree like the parameters.
      queue: the latest gradients, a tree like the parameters with a leading axis of n + 1 slots
        (one slot if n = 1). None if b1 = 0 or n = 1 and phi works on blocks: nothing reads it then.
      nu_queue: the latest phi(g^2), like ``nu`` with a leading axis of n + 1 slots (one if n = 1).
        None for ``phi="none"``, which squares what leaves ``queue``.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (optax's name)
    slot: jax.Array
    mu: Any
    nu: Any
    queue: Any
    nu_queue: Any


def scale_by_adashift(
    n: int = N,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    window: str = WINDOW,
    queue_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates by AdaShift, without a learning rate. See :func:`adashift`.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a :class:`ScaleByAdashiftState`.
    """
    n = _checks.check_n(n)
    b1 = _checks.check_number("b1", b1, 0, 1, "Pass e.g. b1=0.9.")
    b2 = _checks.check_number("b2", b2, 0, 1, "Pass e.g. b2=0.999.")
    eps = _checks.check_number("eps", eps, 0, math.inf, "Pass e.g. eps=1e-10.")
    _checks.check_choice("phi", phi, ("max", "mean", "none", "factored"), or_callable=True)
    _checks.check_choice("window", window, ("sliding", "hopping"))
    _checks.check_block_axes(block_axes)
    _checks.check_clip_value(clip_value)
    if phi == "factored" or window == "hopping" or queue_dtype is not None:
        raise NotImplementedError(
            'phi="factored", window="hopping" and queue_dtype are not implemented yet; got '
            f"phi={phi!r}, window={window!r}, queue_dtype={queue_dtype!r}. Leave them out."
        )
    blocks = Blocks(phi, block_axes)
    # With b1 = 0 or n = 1 the window holds g_t alone. A traced b1 is never looked at.
    moment = None if n == 1 or (isinstance(b1, float) and b1 == 0) else Sliding(n, b1)

    def init(params: optax.Params) -> ScaleByAdashiftState:
        _checks.check_inexact("params", params)
        mu = queue = nu_queue = None
        if moment:
            mu = jax.tree.map(lambda p: jnp.zeros_like(p, accumulator_dtype(p)), params)
        if moment or blocks.elementwise:
            queue = jax.tree.map(lambda p: _queue.empty(p, n, accumulator_dtype(p)), params)
        nu = blocks.init(params)
        if not blocks.elementwise:
            nu_queue = jax.tree.map(lambda v: _queue.empty(v, n, v.dtype), nu)
        zero = jnp.zeros([], jnp.int32)
        return ScaleByAdashiftState(zero, zero, mu, nu, queue, nu_queue)

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByAdashiftState]:
        del params, extra_args
        if not isinstance(state, ScaleByAdashiftState):
            raise TypeError(
                "state must be the ScaleByAdashiftState that init or the last update returned; got "
                f"{type(state).__name__}. Keep one state per optimizer."
            )
        cells = jax.tree.leaves(state.nu)
        _checks.check_updates(updates, cells[0].size if blocks.pooled else len(cells), state.queue)
        leaves, treedef = jax.tree.flatten(updates)
        grads = [jnp.asarray(g) for g in leaves]
        count = jnp.asarray(optax.safe_increment(state.count))

        # Pushed now, back in n steps: g_{t-n} and phi(g_{t-n}^2).
        queue, g_old = _push(state.queue, grads, state.slot, n)
        if blocks.elementwise:
            nu_queue, x = None, [squared(g) for g in g_old]
        else:
            nu_queue, x = _push(state.nu_queue, blocks.reduce(grads, cells), state.slot, n)

        # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
        if moment:
            mu = [
                moment(m, g.astype(m.dtype), old)
                for m, g, old in zip(jax.tree.leaves(state.mu), grads, g_old, strict=True)
            ]
        else:
            mu = [g.astype(accumulator_dtype(g)) for g in grads]

        # v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2)
        # vhat_t = v_t / (1 - b2^(t-n))
        corrections = _bias_corrections(b2, count - n, widest(v.dtype for v in cells))
        nu, scales = [], []
        for v, x_old in zip(cells, x, strict=True):
            now, before, a, tiny = (jnp.asarray(c, v.dtype) for c in (*corrections, 1 - b2, eps))
            # A square that is not finite (overflow included) leaves vhat as it was.
            v = jnp.where(jnp.isfinite(x_old), (v - a * v) + a * x_old, v * (now / before))
            nu.append(v)
            # No scale yet, no step: in the first n updates, and while all squares were 0.
            scales.append(jnp.where(v > 0, 1 / (jnp.sqrt(v / now) + tiny), 0))
        if blocks.elementwise and n == 1:
            rings = jax.tree.leaves(queue)
            queue = _like(queue, [_queue.wait(r, v) for r, v in zip(rings, nu, strict=True)])

        # u_t = m_t / (sqrt(vhat_t) + eps)
        clip = clip_value(state.count) if callable(clip_value) else clip_value
        rescaled = [
            _rescale(m, scale, clip, g.dtype)
            for m, scale, g in zip(mu, blocks.spread(scales, grads), grads, strict=True)
        ]
        return treedef.unflatten(rescaled), ScaleByAdashiftState(
            count=count,
            slot=_queue.next_slot(state.slot, n),
            mu=_like(state.mu, mu) if moment else None,
            nu=_like(state.nu, nu),
            queue=queue,
            nu_queue=nu_queue,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _like(tree: Any, leaves: list[jax.Array]) -> Any:
    """`leaves` in the structure of `tree`, which may carry other metadata than the gradients do."""
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _push(
    rings: Any, values: list[jax.Array], slot: jax.Array, n: int
) -> tuple[Any, list[jax.Array]]:
    """Pushes each value into its ring; returns the rings and what comes out of them."""
    if rings is None:
        return None, []
    leaves = jax.tree.leaves(rings)
    pushed = [_queue.push(r, x, slot, n) for r, x in zip(leaves, values, strict=True)]
    return _like(rings, [ring for ring, _ in pushed]), [old for _, old in pushed]


def _bias_corrections(b2: Any, k: jax.Array, dtype: Any) -> tuple[jax.Array, ...]:
    """1 - b2^k and 1 - b2^(k-1), with exponents of at least 1.

    By expm1, because 1 - b2^k loses 5 digits in float32 for b2 = 0.999 and small k.
    """
    log_b2 = np.log1p(b2 - 1) if isinstance(b2, float) and b2 else jnp.log1p(b2 - 1)
    log_b2 = jnp.asarray(log_b2, dtype)
    return tuple(-jnp.expm1(jnp.maximum(i, 1).astype(dtype) * log_b2) for i in (k, k - 1))


def _rescale(m: jax.Array, scale: jax.Array, clip: ArrayLike | None, dtype: jnp.dtype) -> jax.Array:
    """M * scale, at most `clip`, as a finite value of `dtype` wherever m is finite."""
    u = jnp.where(scale > 0, m * scale.astype(m.dtype), 0)
    real = jnp.finfo(m.dtype).dtype
    limit = jnp.asarray(min(float(jnp.finfo(d).max) for d in (m.dtype, dtype)), real)
    if clip is not None:
        limit = jnp.minimum(limit, jnp.asarray(clip, real))
    if jnp.iscomplexobj(u):
        limited = u * jnp.minimum(1, limit / jnp.abs(u)).astype(u.dtype)
    else:
        limited = jnp.clip(u, -limit, limit)
    return jnp.where(jnp.isfinite(m), limited, u).astype(dtype)


def adashift(
    learning_rate: optax.ScalarOrSchedule,
    n: int = N,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    window: str = WINDOW,
    queue_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift: Adam whose second moment is n steps old, so that it knows nothing of the gradient
    it scales.

    In Adam :math:`v_t` contains :math:`g_t^2`, so a large gradient shrinks its own step. AdaShift
    computes :math:`v_t` from gradients at least n steps old and the momentum from the n newer ones.
    Per block B of parameters (by default a leaf: one kernel, one bias), with
    :math:`g_t` the incoming updates, :math:`\phi` = ``phi``, :math:`eta_1` = ``b1``,
    :math:`eta_2` = ``b2``, :math:`\epsilon` = ``eps``, :math:`lpha_t` = ``learning_rate``:

    .. math::

      m_t &= \sum_{i=0}^{n-1} eta_1^i g_{t-i} \Big/ \sum_{i=0}^{n-1} eta_1^i \
      v_t[B] &= eta_2 v_{t-1}[B] + (1 - eta_2)\, \phi(g_{t-n}[B]^2), \qquad v_n = 0 \
      \hat v_t &= v_t / (1 - eta_2^{t-n}) \
      u_t &= -lpha_t\, m_t / (\sqrt{\hat v_t} + \epsilon) \quad (t > n), \qquad
      u_t = 0 \quad (t \le n)

    **The first n updates are exactly zero**: the window fills, and there is no :math:`v` yet. A
    block (or element) whose squares were all 0 so far has no scale and gets a zero update too.

    Coming from Adam, take about 10 times its learning rate for ``phi="max"``. For transformers
    take ``phi="none"`` with a short delay and a clip, e.g. ``n=3, clip_value=1.0``, at Adam's
    learning rate.

    Gradients that are not finite make the update non-finite (use ``optax.apply_if_finite``), but
    :math:`\hat v` ignores squares that are not finite. Finite gradients give finite updates.

    Args:
      learning_rate: :math:`lpha_t`, a float, a scalar array or a schedule of the step count.
      n: the delay in steps and the length of the momentum window, a Python int >= 1.
      b1: decay of the weights in the window, in [0, 1). A Python 0 needs no momentum and, unless
        ``phi="none"``, no queue of gradients. Changing a traced ``b1`` during training reweights
        only new gradients; the old weights fade as ``b1**k``.
      b2: decay of the second moment, in [0, 1).
      eps: added to the denominator, >= 0, in the units of a gradient.
      phi: what the squared gradients of a block are reduced to: "max" (the paper's
        recommendation), "mean", "none" (every element keeps its own v), or a callable from the
        squared gradients of one block (float32 or wider, the reduced axes in order; for a whole
        leaf its shape) to a nonnegative scalar.
      block_axes: the axes of a leaf that form one block together. None: all. A tuple of ints:
        these, for every leaf. A callable ``(path, leaf) -> tuple | None``, asked once at init. The
        axes left out keep one v per index: for stacked layers [L, in, out], ``(1, 2)`` keeps one
        per layer. Ignored by ``phi="none"``.
      window: "sliding", the paper's window of the latest n gradients.
      queue_dtype: None: the queue holds gradients in float32 or wider.
      clip_value: None, or c > 0, a float or a schedule of the number of earlier updates: every
        element of :math:`m_t / (\sqrt{\hat v_t} + \epsilon)` is clipped to [-c, c] (complex ones to
        magnitude c).

    Returns:
      An ``optax.GradientTransformationExtraArgs``. Updates have the dtypes of the gradients.

    Raises:
      ValueError, TypeError: an argument is out of its range or of the wrong kind, parameters are
        integers or booleans, or the gradients do not have the leaves that init saw.

    Examples:
      >>> import jax, optax
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashift
      >>> def f(x): return jnp.sum(x ** 2)
      >>> tx = adashift(learning_rate=0.1, n=2)
      >>> x = jnp.array([1., 2., 3.])
      >>> state = tx.init(x)
      >>> for _ in range(6):
      ...     updates, state = tx.update(jax.grad(f)(x), state)
      ...     x = optax.apply_updates(x, updates)
      ...     print(f"{f(x):.2f}")
      14.00
      14.00
      13.08
      12.21
      11.40
      10.63

    References:
      Zhou et al., `AdaShift: Decorrelation and Convergence of Adaptive Learning Rate Methods
      <https://arxiv.org/abs/1810.00143>`_, ICLR 2019, Algorithm 1 and section 4.
      The clip: Taniguchi et al., `ADOPT <https://arxiv.org/abs/2411.02853>`_, NeurIPS 2024.
    """
    return optax.chain(
        scale_by_adashift(
            n,
            b1,
            b2,
            eps,
            phi=phi,
            block_axes=block_axes,
            window=window,
            queue_dtype=queue_dtype,
            clip_value=clip_value,
        ),
        optax.scale_by_learning_rate(learning_rate),
    )


def adashiftw(
    learning_rate: optax.ScalarOrSchedule,
    n: int = N,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    weight_decay: float | jax.Array = WEIGHT_DECAY,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    window: str = WINDOW,
    queue_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaShift with decoupled weight decay, as ``optax.adamw`` is Adam's.

    :math:`u_t = -lpha_t (m_t / (\sqrt{\hat v_t} + \epsilon) + \lambda 	heta_t)`. The decay acts
    from the first step on, also while AdaShift's own update is still zero.

    Args:
      learning_rate: see :func:`adashift`, as for all arguments that are not listed here.
      weight_decay: :math:`\lambda` >= 0, multiplied by the learning rate.
      mask: a tree of bools like the parameters, or a callable from parameters to one: True where
        decay applies. None: everywhere. Under ``optax.inject_hyperparams`` a callable mask must be
        static as well: ``static_args=(*STATIC_ARGS, "mask")``.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose ``update`` needs ``params``.

    Raises:
      ValueError, TypeError: as :func:`adashift`; a negative ``weight_decay``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from adashift_optax import adashiftw
      >>> tx = adashiftw(0.1, weight_decay=0.5, mask={"w": True, "b": False})
      >>> params = {"w": jnp.array([2.]), "b": jnp.array([2.])}
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> print(updates["w"], updates["b"])
      [-0.1] [-0.]
    """
    weight_decay = _checks.check_number(
        "weight_decay", weight_decay, 0, math.inf, "Pass e.g. weight_decay=1e-4."
    )
    return optax.chain(
        scale_by_adashift(
            n,
            b1,
            b2,
            eps,
            phi=phi,
            block_axes=block_axes,
            window=window,
            queue_dtype=queue_dtype,
            clip_value=clip_value,
        ),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    )
