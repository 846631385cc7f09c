"""Algorithm 1 of AdaShift (Zhou et al., ICLR 2019) as an Optax gradient transformation."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax import _checks, _fits, _queue
from adashift_optax._blocks import AxisName, BlockAxes, Blocks, accumulator_dtype, squared, widest
from adashift_optax._boxes import map_leaves, zeros_like
from adashift_optax._gradients import GradientQueue
from adashift_optax._second import count_in_hops, decayed, hopped
from adashift_optax._window import Hopping, Sliding, one_minus_powers

# The defaults of every public function, in this one place: the paper's.
N, B1, B2, EPS, PHI, WINDOW = 10, 0.9, 0.999, 1e-10, "max", "sliding"

Phi = str | Callable[[jax.Array], jax.Array]


class ScaleByAdashiftState(NamedTuple):
    """State of :func:`scale_by_adashift` after t updates.

    Every array is float32 or wider (complex64 or wider where it holds gradients of complex
    parameters), whatever the dtypes of parameters and gradients, except a ``queue`` with a
    ``queue_dtype``. A ring has n + 1 slots (one slot if n = 1) in a new leading axis.

    Attributes:
      count: t, int32 scalar. It stops at the largest int32 instead of overflowing.
      clock: t modulo the number of slots, int32 scalar, which goes on: the slot to write next. With
        ``window="hopping"`` t modulo n times that number, which also tells when to hop. It is the
        one value of a dict whose key tells n, window and queue_dtype: the state of an optimizer
        with others is refused by name, here and by what restores checkpoints.
      mu: m_t, a tree like the parameters. ``window="hopping"``: a pair of such trees, of which m_t
        is the older. None if b1 = 0 or n = 1, where m_t is the gradient.
      nu: v_t, real, before bias correction. One block per leaf: vectors with one entry per leaf, of
        8 leaves each, in the order of ``jax.tree.leaves``. With ``block_axes``: a tree like the
        parameters, where the reduced axes have size 1. ``phi="none"``: a tree like the parameters.
        ``phi="factored"``: a pair of trees, means of rows [..., rows, 1] and of columns
        [..., 1, columns]; a leaf of rank < 2 is kept whole in the first.
      queue: a ring of the latest gradients for each leaf, a tree like the parameters. Dtypes
        narrower than 32 bits are held as unsigned integers. None where nothing reads it: for
        ``window="hopping"``, and for b1 = 0 or n = 1 unless ``phi="none"``.
      queue_scale: rings of the powers of 2 by which the entries of ``queue`` are to be multiplied,
        one for each block. None unless ``queue_dtype`` has fewer exponents than the gradients.
      nu_queue: rings of the latest phi(g^2), like ``nu``. For ``phi="none"``: None, because what
        leaves ``queue`` is squared then, or with ``window="hopping"`` a pair of trees like the
        parameters, the squares of two segments of the window.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (optax's name)
    clock: dict[str, jax.Array]
    mu: Any
    nu: Any
    queue: Any
    queue_scale: Any
    nu_queue: Any


def scale_by_adashift(
    n: int = N,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    axis_name: AxisName = None,
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
    _checks.check_axis_name(axis_name, phi, block_axes)
    _checks.check_clip_value(clip_value)
    dtype = _checks.check_queue_dtype(queue_dtype)
    blocks = Blocks(phi, block_axes, axis_name)
    # With b1 = 0 the window holds g_t alone. A traced b1 is never looked at.
    momentum = n > 1 and not (isinstance(b1, float) and b1 == 0)
    # A window of one gradient is the same either way: nothing hops but squares, if they are kept.
    hops = window == "hopping" and n > 1 and (momentum or blocks.elementwise)
    hop = Hopping(n, b1) if hops else None
    first = (hop or Sliding(n, b1)) if momentum else None
    gradients = None  # whose queue is there only if somebody reads it
    if (first and first.reads_queue) or (blocks.elementwise and not hop):
        gradients = GradientQueue(n, dtype, peaks=Blocks("max", block_axes, axis_name))
    held_as = dtype.name if dtype and gradients else None
    kind = f"n={n},window={'hopping' if hop else 'sliding'},queue_dtype={held_as}"

    def init(params: optax.Params) -> ScaleByAdashiftState:
        _checks.check_params(params, dtype)
        mu = queue = queue_scale = nu_queue = None
        if first:
            zeros = map_leaves(lambda p: zeros_like(p, accumulator_dtype(p)), params)
            mu = zeros if first.num_parts == 1 else (zeros, jax.tree.map(jnp.copy, zeros))
        if gradients:
            queue, queue_scale = gradients.init(params)
        nu = blocks.init(params)
        if not blocks.elementwise:
            nu_queue = map_leaves(lambda v: _queue.empty(v, n, v.dtype), nu)
        elif hop:
            nu_queue = tuple(jax.tree.map(jnp.copy, nu) for _ in range(2))
        # Two buffers, for a donated one cannot be given twice.
        count, clock = jnp.zeros([], jnp.int32), {kind: jnp.zeros([], jnp.int32)}
        return ScaleByAdashiftState(count, clock, mu, nu, queue, queue_scale, nu_queue)

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
        slots = _queue.num_slots(n)
        parts, peaks = first.num_parts if first else 0, gradients and gradients.peaks
        tree = _fits.check_state(state, kind, blocks, parts, peaks, 2 * hops, slots)
        _fits.check_updates(updates, state, tree, blocks)
        clock = state.clock[kind]
        v = jax.tree.leaves(state.nu)
        num = blocks.num_leaves(v)
        count = jnp.asarray(optax.safe_increment(state.count))
        # The slot to write, and (t - 1) mod n, which only the hops need. The sliding window takes
        # the clock itself for its slot: computed, it made XLA's step on CPU 15 % slower.
        slot = jax.lax.rem(clock, jnp.int32(slots)) if hop else clock
        phase = jax.lax.rem(clock, jnp.int32(n))
        clock = _queue.next_of(clock, slots * n if hop else slots)
        held = jax.tree.leaves(state.mu)[:num] or (not dtype and jax.tree.leaves(state.queue))
        g = [
            x.astype(held[i].dtype if held else accumulator_dtype(x))
            for i, x in enumerate(map(jnp.asarray, jax.tree.leaves(updates)))
        ]
        mu, queue, queue_scale, nu_queue = state.mu, state.queue, state.queue_scale, state.nu_queue

        # Pushed now, back in n steps: g_{t-n}
        m: list[jax.Array] = g
        g_old: list[Any] = [None] * num
        if gradients:
            queue, queue_scale, m, g_old = gradients.push(queue, queue_scale, g, slot)

        # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
        if first:
            weights = {d: first.weights(phase, d) for d in {x.dtype for x in g}}
            parts, m = _unzip(
                first.step(part, x, old, weights[x.dtype])
                for part, x, old in zip(_parts(mu, num), m, g_old, strict=True)
            )
            mu = _like(mu, parts)
        else:
            m = g

        # v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2);  vhat_t = v_t / (1 - b2^(t-n))
        squares_hop = hop if blocks.elementwise else None
        in_v = count_in_hops(count, phase, squares_hop) if squares_hop else count - n
        powers = one_minus_powers(b2, in_v, widest(c.dtype for c in v))
        to_vhat, to_vhat_before = (1 / x for x in powers)  # factors, cheaper than quotients
        if squares_hop:
            segments, v = _unzip(
                hopped(c, part, squared(x).astype(c.dtype), b2, phase, squares_hop)
                for c, part, x in zip(v, _parts(nu_queue, num), g, strict=True)
            )
            nu_queue = _like(nu_queue, segments)
        else:
            if blocks.elementwise:
                x = [squared(old).astype(c.dtype) for old, c in zip(g_old, v, strict=True)]
            else:
                x = blocks.reduce(g, v)
                nu_queue, x = _queue.push_all(nu_queue, x, slot, n)
            v = [
                decayed(c, y, c * to_vhat_before.astype(c.dtype), b2)
                for c, y in zip(v, x, strict=True)
            ]
            if blocks.elementwise and n == 1:  # the only slot was read just now
                rings = jax.tree.leaves(queue)
                queue = _like(queue, [_queue.after(*pair) for pair in zip(v, rings, strict=True)])

        # u_t = m_t / (sqrt(vhat_t) + eps)
        clip = clip_value
        if callable(clip):
            clip = _checks.check_scalar("clip_value", clip(state.count), "Pass e.g. 1.0.")
        scales = blocks.scales(v, lambda c: to_vhat.astype(c.dtype), eps, num)
        u = [
            _rescale(m_leaf, scale, clip, jnp.result_type(x))
            for m_leaf, scale, x in zip(m, scales, jax.tree.leaves(updates), strict=True)
        ]
        return _like(updates, u), ScaleByAdashiftState(
            count, {kind: clock}, mu, _like(state.nu, v), queue, queue_scale, nu_queue
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _like(tree: Any, leaves: Sequence[Any]) -> Any:
    """`leaves` in the structure of `tree`, which may carry other metadata than the gradients do.

    If they are tuples, `tree` is a tuple of trees: the inverse of :func:`_parts`.
    """
    if leaves and isinstance(leaves[0], (tuple, list)):
        leaves = [x for part in zip(*leaves, strict=True) for x in part]
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


def _parts(trees: Any, num: int) -> list[list[jax.Array]]:
    """For each of `num` leaves its value in every one of `trees` (one tree or a tuple of them)."""
    leaves = jax.tree.leaves(trees)
    return [leaves[i::num] for i in range(num)]


def _unzip(pairs: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    """The first and the second elements of `pairs`."""
    pairs = list(pairs)
    return [first for first, _ in pairs], [second for _, second in pairs]


def _rescale(m: jax.Array, scale: jax.Array, clip: Any, dtype: jnp.dtype) -> jax.Array:
    """Returns m * scale, at most `clip`, as a finite value of `dtype` wherever m is finite."""
    u = m * scale.astype(m.dtype)
    real = jnp.finfo(m.dtype).dtype
    limit = np.asarray(min(float(jnp.finfo(d).max) for d in (m.dtype, dtype)), real)
    if clip is not None:
        limit = jnp.minimum(limit, jnp.asarray(clip, real))
    if jnp.iscomplexobj(u):
        size = jnp.abs(u)
        large = size > limit
        limited = u * jnp.where(large, limit / jnp.where(large, size, 1), 1).astype(u.dtype)
    else:
        limited = jax.lax.clamp(-limit, u, limit)
    return jax.lax.select(jnp.isfinite(m), limited, u).astype(dtype)
