"""Algorithm 1 of AdaShift (Zhou et al., ICLR 2019) as an Optax gradient transformation."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from adashift_optax import _checks
from adashift_optax._blocks import PHIS, AxisName, BlockAxes, Phi, make_blocks
from adashift_optax._clock import Clock
from adashift_optax._delay import DelayLine
from adashift_optax._first import FirstMoment, Hopping, Latest, Sliding
from adashift_optax._layout import like, plain
from adashift_optax._numbers import accumulator_dtype, apart_on_cpu, magnitude, narrowed, rescaled
from adashift_optax._queue import NarrowQueue, NoQueue, Queue
from adashift_optax._second import OfBlocks, OfElements, OfSegments, SecondMoment

# The defaults of every public function, in this one place: the paper's.
N, B1, B2, EPS, PHI, WINDOW = 10, 0.9, 0.999, 1e-10, "max", "sliding"

# For each window the mean m_t of its gradients, and for phi="none" what v_t is made of.
Window = Literal["sliding", "hopping"]
WINDOWS: dict[str, tuple[type[FirstMoment], type[SecondMoment]]] = {
    "sliding": (Sliding, OfElements),
    "hopping": (Hopping, OfSegments),
}


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
        narrower than 32 bits are held as unsigned integers; where they have fewer exponents than
        the gradients it is a pair: ``held``, that tree, and ``scale``, rings of the powers of 2,
        one for each block, by which it is to be multiplied. None where nothing reads it: for
        ``window="hopping"``, and for b1 = 0 or n = 1 unless ``phi="none"``.
      nu_queue: rings of the latest phi(g^2), like ``nu``. For ``phi="none"``: None, because what
        leaves ``queue`` is squared then, or with ``window="hopping"`` a pair of trees like the
        parameters, the squares of two segments of the window.
    """

    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  (optax's name)
    clock: dict[str, jax.Array]
    mu: Any
    nu: Any
    queue: Any
    nu_queue: Any


def scale_by_adashift(
    n: int | None = None,
    b1: ArrayLike = B1,
    b2: ArrayLike = B2,
    eps: ArrayLike = EPS,
    *,
    phi: Phi = PHI,
    block_axes: BlockAxes = None,
    axis_name: AxisName = None,
    window: Window = WINDOW,
    queue_dtype: DTypeLike | None = None,
    clip_value: optax.ScalarOrSchedule | None = None,
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
      window: "sliding" or "hopping".
      queue_dtype: the dtype in which the queue holds gradients.
      clip_value: the largest magnitude of an element of the result.

    Returns:
      An ``optax.GradientTransformationExtraArgs`` whose state is a :class:`ScaleByAdashiftState`.
    """
    n = _checks.check_n(N if n is None else n)
    b1 = _checks.check_number("b1", b1, 0, 1, "Pass e.g. b1=0.9.")
    b2 = _checks.check_number("b2", b2, 0, 1, "Pass e.g. b2=0.999.")
    eps = _checks.check_number("eps", eps, 0, math.inf, "Pass e.g. eps=1e-10.")
    clip = _checks.check_clip_value(clip_value)
    keeps_mean = n > 1 and not (isinstance(b1, float) and b1 == 0)  # a traced b1 is unknown
    parts = _parts(n, keeps_mean, phi, block_axes, axis_name, window, queue_dtype)
    rule = AdaShift(*parts, b1, b2, eps, clip)
    return optax.GradientTransformationExtraArgs(rule.init, rule.update)


def _parts(
    n: int,
    keeps_mean: bool,
    phi: Phi,
    block_axes: BlockAxes,
    axis_name: AxisName,
    window: Window,
    queue_dtype: DTypeLike | None,
) -> tuple[Clock, NoQueue, FirstMoment, SecondMoment]:
    """The parts that these arguments choose. `keeps_mean`: m_t is more than g_t."""
    if not callable(phi):
        _checks.check_choice("phi", phi, PHIS)
    _checks.check_choice("window", window, tuple(WINDOWS))
    block_axes = _checks.check_block_axes(block_axes)
    _checks.check_axis_name(axis_name, phi, block_axes)
    dtype = _checks.check_queue_dtype(queue_dtype)
    # A window of one gradient is the same in every way.
    of_window, of_elements = WINDOWS[window if n > 1 else WINDOW]
    first = of_window(n) if keeps_mean else Latest(n)
    if phi == "none":
        second = of_elements(n)
    else:
        second = OfBlocks(n, make_blocks(phi, block_axes, axis_name))
    if not (first.reads_queue or second.reads_queue):
        queue = NoQueue(n)
    elif dtype is None:
        queue = Queue(n)
    else:
        queue = NarrowQueue(n, dtype, make_blocks("max", block_axes, axis_name, of=magnitude))
    # A state knows its window only if that has a part in it.
    name = window if n > 1 and (keeps_mean or phi == "none") else WINDOW
    kind = f"n={n},window={name},queue_dtype={queue.held_as}"
    hops = first.hops or second.hops
    return Clock(kind, n, DelayLine(n).slots, hops), queue, first, second


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
    b2: ArrayLike = dataclasses.field(compare=False)
    eps: ArrayLike = dataclasses.field(compare=False)
    clip: optax.ScalarOrSchedule | None = dataclasses.field(compare=False)

    def init(self, params: optax.Params) -> ScaleByAdashiftState:
        _checks.check_params(params, self.gradients.held_as)
        dtypes = {accumulator_dtype(p, real=True) for p in jax.tree.leaves(params)}
        _checks.check_fits(self.clip, self.eps, sorted(dtypes, key=str))
        nu, nu_queue = self.second.init(params)
        return ScaleByAdashiftState(
            count=jnp.zeros([], jnp.int32),
            clock=self.clock.init(),
            mu=self.first.init(params),
            nu=nu,
            queue=self.gradients.init(params),
            nu_queue=nu_queue,
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
        mu, m = self.first.step(old.mu, g, g_in, g_out, now, self.b1)

        # v_t = b2 v_{t-1} + (1 - b2) phi(g_{t-n}^2);  vhat_t = v_t / (1 - b2^(t-n))
        kept = old.nu, old.nu_queue
        (nu, nu_queue), vhat = self.second.step(kept, apart_on_cpu(g), g_out, now, self.b2)
        queue = self.gradients.after(queue, nu)

        # u_t = m_t / (sqrt(vhat_t) + eps)
        scale, clip = self.second.scales(vhat, self.eps, g), _checks.clip_at(self.clip, old.count)
        u = jax.tree.map(lambda m, s: rescaled(m, s, clip), m, scale)
        new = ScaleByAdashiftState(now.t, clock, mu, nu, queue, nu_queue)
        return narrowed(like(updates, u), updates, params), like(known, new)
