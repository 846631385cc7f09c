"""Algorithm 1 of AdaShift (Zhou et al., ICLR 2019) as an Optax gradient transformation."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax import _checks
from adashift_optax._axes import BlockAxes, check_axis_name, check_block_axes
from adashift_optax._blocks import PHIS, AxisName, Blocks, Phi, make_blocks
from adashift_optax._clock import Clock
from adashift_optax._decay import make_decay
from adashift_optax._delay import DelayLine
from adashift_optax._first import Ema, FirstMoment, Hopping, Latest, Sliding
from adashift_optax._layout import like, plain
from adashift_optax._numbers import (
    accumulator_dtype,
    apart_on_cpu,
    magnitude,
    narrowed,
    rescaled,
    widened,
)
from adashift_optax._queue import NarrowQueue, NoQueue, Queue
from adashift_optax._second import Kept, OfBlocks, OfElements, OfPrevious, SecondMoment
from adashift_optax._segments import OfSegments

# The defaults of every public function, in this one place: the paper's.
N, B1, B2, EPS, PHI, WINDOW = 10, 0.9, 0.999, 1e-10, "max", "sliding"

# For each window the mean m_t of its gradients, and for phi="none" what v_t is made of.
Window = Literal["sliding", "hopping", "ema"]
WINDOWS: dict[str, tuple[type[FirstMoment], type[SecondMoment]]] = {
    "sliding": (Sliding, OfElements),
    "hopping": (Hopping, OfSegments),
    "ema": (Ema, OfElements),
}


class ScaleByAdashiftState(NamedTuple):
    """State of :func:`scale_by_adashift` after t updates.

    Every array is float32 or wider (complex64 or wider where it holds gradients of complex
    parameters), whatever the dtypes of parameters and gradients, except a ``queue`` with a
    ``queue_dtype`` and a ``mu`` with a ``mu_dtype``. A ring is an array with a new leading axis of
    n + 1 slots.

    Attributes:
      count: t, int32 scalar. It stops at the largest int32 instead of overflowing.
      clock: a dict with one value, an int32 scalar that goes on for good.

        - The value is t modulo the number of slots: the slot that is written next. With
          ``window="hopping"`` it is t modulo n times the number of slots, and also tells when to
          hop.
        - The key names n, window and queue_dtype, and warm_start if that is True. A state with
          another key is refused by ``update`` and by what restores checkpoints. The error names
          both keys.

      mu: m_t, a tree like the parameters. With ``window="hopping"`` it is a pair of such trees, and
        the older one is m_t. With ``window="ema"`` it is m_t before bias correction. It is None if
        b1 = 0. Unless ``window="ema"``, it is also None if n = 1, where m_t is the gradient.
      nu: v_t before bias correction, real. For n = 1 it is the v of the next step.

        - One block for each leaf: vectors of up to 8 entries, one entry for each leaf, in the order
          of ``jax.tree.leaves``.
        - ``block_axes``: a tree like the parameters, in which the reduced axes have size 1.
        - ``phi="none"``: a tree like the parameters.
        - ``phi="factored"``: three trees. They hold the means of rows [..., rows, 1], of columns
          [..., 1, columns] and of both [..., 1, 1]. The first tree keeps a leaf of rank 0 or 1
          whole, and the other two hold one 0 for it.

      queue: a tree like the parameters, with a ring of the latest gradients for each leaf.

        - A dtype narrower than 32 bits is held as unsigned integers.
        - A dtype that has fewer exponents than the gradients makes the queue a pair. ``held`` is
          the tree of rings. ``scale`` has rings of powers of 2, one for each block, by which
          ``held`` is to be multiplied.
        - The queue is None where nothing reads it: for n = 1, for ``window="hopping"``, and, unless
          ``phi="none"``, for b1 = 0 and for ``window="ema"``.

      nu_queue: rings of the latest phi(g^2), like ``nu``. It is None if n = 1. With ``phi="none"``
        it is None too, because the gradient that leaves ``queue`` is squared then. With
        ``phi="none", window="hopping"`` it is a pair of trees like the parameters: the squares of
        two segments of the window.
      log_b2: the sum of log(b2) over the squares in v, a real scalar. The bias correction divides v
        by 1 - exp(log_b2). It is None if ``b2`` is a number.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (optax's name)
    clock: dict[str, jax.Array]
    mu: Any
    nu: Any
    queue: Any
    nu_queue: Any
    log_b2: Any


def scale_by_adashift(
    n: int | None = None,
    b1: ArrayLike = B1,
    b2: optax.ScalarOrSchedule = B2,
    eps: ArrayLike = EPS,
    *,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    axis_name: AxisName = None,
    window: Window = WINDOW,
    queue_dtype: DTypeLike | None = None,
    mu_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
    warm_start: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Rescales updates by AdaShift, without a learning rate. See :func:`adashift`.

    Args:
      n: the delay in steps and the length of the momentum window.
      b1: decay of the weights in the window.
      b2: decay of the second moment.
      eps: added to the denominator.
      phi: what the squared gradients of a block are reduced to.
      block_axes: the axes of a leaf that form one block together.
      axis_name: the mesh axes of ``jax.shard_map`` that leaves are sharded on.
      window: "sliding", "hopping" or "ema".
      queue_dtype: the dtype in which the queue holds gradients.
      mu_dtype: the dtype in which the state holds the momentum.
      clip_value: the largest magnitude of an element of a scaled gradient or momentum.
      warm_start: whether the first n updates are made without a delay, instead of zero.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a :class:`ScaleByAdashiftState`.
    """
    n = _checks.check_n(N if n is None else n)
    b1 = _checks.check_number("b1", b1, 0, 1, "Pass e.g. b1=0.9.")
    eps = _checks.check_number("eps", eps, 0, math.inf, "Pass e.g. eps=1e-10.")
    clip = _checks.check_clip_value(clip_value)
    mu_dtype = _checks.check_dtype("mu_dtype", mu_dtype, _checks.MU_DTYPES)
    warm = _checks.check_bool("warm_start", warm_start)
    blocks, scales = _blocks(phi, block_axes, axis_name)
    _checks.check_choice("window", window, tuple(WINDOWS))

    def moments(window: str) -> tuple[FirstMoment, SecondMoment]:
        of_window, of_elements = WINDOWS[window]
        no_mean = n < of_window.shortest or (isinstance(b1, float) and b1 == 0)  # not if traced
        delayed = OfPrevious if n == 1 else of_elements if phi == "none" else OfBlocks
        first = (Latest if no_mean else of_window)(n, warm, mu_dtype)
        return first, delayed(n, make_decay(b2), blocks, warm)

    first, second = moments(window)
    queue = _queue(n, first.reads_queue or second.reads_queue, queue_dtype, scales)
    # A state knows its window only if that has a part in it.
    name = WINDOW if (first, second) == moments(WINDOW) else window
    kind = f"n={n},window={name},queue_dtype={queue.held_as}" + ",warm_start=True" * warm
    clock = Clock(kind, n, DelayLine(n).slots, first.hops or second.hops)
    rule = AdaShift(clock, queue, first, second, b1, eps, clip)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


def _blocks(phi: Phi, block_axes: BlockAxes, axis_name: AxisName) -> tuple[Blocks, Blocks]:
    """What shares one v, and what shares one scale in a narrow queue."""
    if not callable(phi):
        _checks.check_choice("phi", phi, PHIS)
    block_axes = check_block_axes(block_axes)
    check_axis_name(axis_name, phi, block_axes)
    scales = make_blocks("max", block_axes, axis_name, of=magnitude)
    return make_blocks(phi, block_axes, axis_name), scales


def _queue(n: int, is_read: bool, dtype: DTypeLike | None, scales: Blocks) -> NoQueue:
    """The queue of gradients, if something reads it."""
    dtype = _checks.check_dtype("queue_dtype", dtype, _checks.QUEUE_DTYPES)
    if not is_read:
        return NoQueue(n)
    return Queue(n) if dtype is None else NarrowQueue(n, dtype, scales)


@dataclasses.dataclass(frozen=True)
class AdaShift:
    """Algorithm 1 in one variant: its parts, and the numbers that may be traced.

    Rules of the same parts are equal, because the state depends on nothing else.
    """

    clock: Clock
    gradients: NoQueue
    first: FirstMoment
    second: SecondMoment
    b1: ArrayLike = dataclasses.field(compare=False)
    eps: ArrayLike = dataclasses.field(compare=False)
    clip: optax.ScalarOrSchedule | None = dataclasses.field(compare=False)

    def init(self, params: optax.Params) -> ScaleByAdashiftState:
        _checks.check_params(params, queue_dtype=self.gradients.held_as, mu_dtype=self.first.dtype)
        dtypes = {accumulator_dtype(p, real=True) for p in jax.tree.leaves(params)}
        _checks.check_fits(self.clip, self.eps, sorted(dtypes, key=str))
        return ScaleByAdashiftState(
            count=jnp.zeros([], jnp.int32),
            clock=self.clock.init(),
            mu=self.first.init(params),
            queue=self.gradients.init(params),
            **self.second.init(params)._asdict(),
        )

    def update(
        self,
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: object,
    ) -> tuple[optax.Updates, ScaleByAdashiftState]:
        del extra_args
        known = _checks.check_state(state, ScaleByAdashiftState)
        g, old = plain(updates, known, self.init)
        if not jax.tree.leaves(g):
            return updates, known
        clock, now = self.clock.step(old.clock, old.count)

        # What enters the queue, g_t as a slot can hold it, and what leaves it: g_{t-n}
        queue, g_in, g_out = self.gradients.push(old.queue, g, now.slot)

        # m_t = sum_{i<n} b1^i g_{t-i} / sum_{i<n} b1^i
        mu = jax.tree.map(widened, old.mu)
        mu, m = self.first.step(mu, g, g_in, g_out, now, self.b1)

        # v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2);  vhat_t = v_t / (1 - b2^(t-n))
        kept = Kept(old.nu, old.nu_queue, old.log_b2)
        kept, vhat = self.second.step(kept, apart_on_cpu(g), g_out, now)

        # u_t = m_t / (sqrt(vhat_t) + eps), or the mean of such quotients of single gradients
        scale = self.second.blocks.scales(vhat, self.eps, g)
        clip = _checks.clip_at(self.clip, old.count)
        u = jax.tree.map(lambda m, s: rescaled(m, s, clip), m, scale)
        mu, u = self.first.of_scaled(mu, u, now, self.b1)
        kept = self.second.written(kept, mu)
        new = ScaleByAdashiftState(now.t, clock, mu, queue=queue, **kept._asdict())
        return narrowed(like(updates, u), updates, params), like(known, new)
