"""The table of cases: what is measured, against what, and what it should reach.

Bytes that one step (update and apply) must move per parameter, in float32: what is as large as the
parameters, read or written once. The update itself need not be stored.

    gradient, read; parameter, read and written      12   every optimizer
    an array of the state, rewritten (m, v, S)        8   each
    an array of the state, only read                  4   each
    queue: one slot written, the oldest one read      8   4 in bfloat16

Without apply (the parameter neither read nor written, but the update written) it is 4 less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from adashift_optax import STATIC_ARGS, scale_by_adashift
from benchmarks.programs import LOOP_LENGTH, Make, matrices, pair, program, sharded_matrices
from benchmarks.timing import Run

SIDE = 1024 if jax.default_backend() == "cpu" else 2048  # so that a GPU outlasts the dispatch
PARAMETERS = 8 * (SIDE**2 + SIDE)

STEP = f"AdaShift: a donated step of {PARAMETERS / 1e6:.1f} million parameters"
OTHERS = "Other optimizers of Optax, likewise"
PROGRAMS = "AdaShift (phi = max, sliding, n = 10 unless named) in other programs"
SHARDED = "A donated step on a mesh, beside Adam's on the same"
TORCH = "torch on the same arrays"
TRAINING = "Training a transformer: tokens per second over Adam's, so that more is better"
SWEEP = "for the plots"

ADAM_MOVES = 12 + 2 * 8
# The options of a variant, and the bytes that it must move.
VARIANTS: dict[str, tuple[dict[str, Any], int]] = {
    "max": ({}, 12 + 8 + 8),
    "mean": ({"phi": "mean"}, 12 + 8 + 8),
    "none": ({"phi": "none"}, 12 + 8 + 8 + 8),
    "max, hopping": ({"window": "hopping"}, 12 + 2 * 8),
    "mean, hopping": ({"phi": "mean", "window": "hopping"}, 12 + 2 * 8),
    "none, hopping": ({"phi": "none", "window": "hopping"}, 12 + 2 * 8 + 8 + 4),  # between hops
    "max, bfloat16 queue": ({"queue_dtype": jnp.bfloat16}, 12 + 8 + 4),
    "factored": ({"phi": "factored"}, 12 + 8 + 8),
    "factored, hopping": ({"phi": "factored", "window": "hopping"}, 12 + 2 * 8),
    "max, b1=0": ({"b1": 0.0}, 12),
    "none, b1=0": ({"phi": "none", "b1": 0.0}, 12 + 8),  # for n = 1, without a queue
    "max, ema": ({"window": "ema"}, 12 + 8),
    "factored, ema": ({"phi": "factored", "window": "ema"}, 12 + 8),
    "outputs, ema": ({"phi": "mean", "block_axes": "outputs", "window": "ema"}, 12 + 8),
    "none, ema": ({"phi": "none", "window": "ema"}, 12 + 8 + 8),  # for n = 1
}
# Variant, n, reach and stretch of the ratio, limit of the bytes of state per parameter.
TARGETS = [
    ("max", 10, 1.1, 1.0, 48.1),
    ("max", 40, 1.1, 1.0, None),
    ("mean", 10, 1.1, 1.0, 48.1),
    ("mean", 40, 1.1, 1.0, None),
    ("none", 10, 1.35, 1.2, 52.1),
    ("none", 40, 1.35, 1.2, None),
    ("max, hopping", 10, 1.05, 0.95, 8.1),
    ("max, hopping", 40, 1.05, 0.95, 8.1),
    ("mean, hopping", 10, 1.05, 0.95, 8.1),
    ("mean, hopping", 40, 1.05, 0.95, 8.1),
    ("none, hopping", 10, None, None, 20.1),
    ("max, b1=0", 10, 0.8, 0.6, 0.1),
    ("none, b1=0", 1, None, None, 4.1),
    ("max, bfloat16 queue", 10, 1.2, 1.0, 26.1),
    ("max, bfloat16 queue", 40, 1.2, 1.0, None),
    ("factored", 10, 1.25, None, None),
    ("factored, hopping", 10, 1.25, None, None),
    ("max, ema", 1, None, None, 4.1),
    ("factored, ema", 1, None, None, 4.1),
    ("outputs, ema", 1, None, None, 4.1),
    ("none, ema", 1, None, None, 8.1),
]
# The plots: what is not in the table.
LINES = ("max", "none", "max, hopping", "max, bfloat16 queue")
DELAYS = (2, 5, 20, 80)
SIZES = [8 * (side**2 + side) for side in (35, 111, 353, 3535)]  # 1e4, 1e5, 1e6, 1e8


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row.

    Attributes:
      group: the table that it belongs to.
      name: what is measured.
      build: returns what is timed: base, case, and perhaps the same without a wrapper.
      against: what it is compared with.
      reach: what the ratio should not exceed, or exceed by more than the ratio without a wrapper.
      stretch: better still.
      state_limit: what the bytes of state per parameter should not exceed.
      moved: bytes per parameter that a step must move. None: not compared with the bandwidth.
      steps: in one call.
      compiles: whether it is compiling that is timed: one call at a time, in fewer rounds.
      speed: whether the ratio is of speeds instead of times.
      variant: the line in the plots; `n` and `parameters`: the place on it.
    """

    group: str
    name: str
    build: Callable[[], Sequence[Run]]
    against: str = "Adam"
    reach: float | None = None
    stretch: float | None = None
    state_limit: float | None = None
    moved: float | None = None
    steps: int = 1
    compiles: bool = False
    speed: bool = False
    variant: str = ""
    n: int = 0
    parameters: int = PARAMETERS


def adashift(variant: str, n: int = 10) -> Make:
    """A variant of the optimizer."""
    return partial(scale_by_adashift, n, **VARIANTS[variant][0])


def beside_adam(
    group: str,
    name: str,
    make: Make,
    *,
    grads: Callable[[], Any] | None = None,
    loop: bool = False,
    donate: bool = True,
    **fields: Any,
) -> Case:
    """A step (or a loop of them) beside Adam's, on the same gradients."""
    grads = grads or partial(matrices, fields.get("parameters", PARAMETERS))
    build = partial(pair, optax.scale_by_adam, make, grads, loop=loop, donate=donate)
    return Case(group=group, name=name, build=build, **fields)


def of_variant(group: str, variant: str, n: int, **fields: Any) -> Case:
    """A donated step of a variant beside Adam's."""
    fields = {"variant": variant, "n": n, "moved": VARIANTS[variant][1], **fields}
    return beside_adam(group, f"{variant}, n={n}", adashift(variant, n), **fields)


def steps() -> list[Case]:
    """A donated step of AdaShift and of other optimizers."""
    ours = [
        of_variant(STEP, variant, n, reach=reach, stretch=stretch, state_limit=limit)
        for variant, n, reach, stretch, limit in TARGETS
    ]
    others = [
        ("Adam, against itself", optax.scale_by_adam, ADAM_MOVES),
        ("AMSGrad", optax.scale_by_amsgrad, ADAM_MOVES + 8),
        ("ADOPT", optax.contrib.scale_by_adopt, ADAM_MOVES),
    ]
    return ours + [beside_adam(OTHERS, name, make, moved=moved) for name, make, moved in others]


def programs() -> list[Case]:
    """AdaShift in a loop, and without donation."""
    beside = partial(beside_adam, PROGRAMS, moved=ADAM_MOVES)
    in_scan = partial(beside, loop=True, steps=LOOP_LENGTH, against="Adam in lax.scan")
    not_donated = partial(beside, donate=False, against="Adam, not donated")
    return [
        in_scan("in lax.scan", adashift("max"), reach=1.25, stretch=1.1),
        not_donated("hopping, not donated", adashift("max, hopping"), reach=1.2, stretch=1.0),
        not_donated("max, not donated", adashift("max")),
        not_donated("b1=0, not donated", adashift("max, b1=0")),
        beside_adam(PROGRAMS, "max, healed by lax.cond", healed),
    ]


def healed() -> optax.GradientTransformation:
    """A sliding window that makes m anew from its queue when m is not finite, by `lax.cond`.

    What the library does not do, because of what it costs.
    """
    n, b1 = 10, 0.9
    tx = scale_by_adashift(n, b1)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        updates, state = tx.update(updates, state, params)
        (clock,) = state.clock.values()
        age = (clock - 1 - jnp.arange(n + 1)) % (n + 1)
        weights = jnp.where(age < n, b1**age, 0) * (1 - b1) / (1 - b1**n)

        def mean(ring: jax.Array) -> jax.Array:
            terms = weights.reshape(-1, *(1,) * (ring.ndim - 1)) * jnp.nan_to_num(ring)
            return jnp.sum(terms, 0)

        finite = jnp.all(jnp.array([jnp.isfinite(jnp.sum(m)) for m in jax.tree.leaves(state.mu)]))
        mu = jax.lax.cond(finite, lambda: state.mu, lambda: jax.tree.map(mean, state.queue))
        return updates, state._replace(mu=mu)

    return optax.GradientTransformation(tx.init, update)


def wrappers() -> list[Case]:
    """Wrappers around AdaShift beside the same wrappers around Adam."""

    def inject(make: Make) -> optax.GradientTransformation:
        static = () if make is optax.scale_by_adam else STATIC_ARGS
        return optax.inject_hyperparams(make, static_args=static)()

    def mask(params: Any) -> Any:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    def case(name: str, wrap: Callable[[Make], optax.GradientTransformation]) -> Case:
        bare = (optax.scale_by_adam, scale_by_adashift)
        base, ours = (partial(wrap, make) for make in bare)

        def build() -> list[Run]:
            return [program(make, matrices(PARAMETERS)) for make in (base, ours, *bare)]

        against = f"Adam in {name}"
        return Case(group=PROGRAMS, name=f"in {name}", build=build, against=against, reach=0.1)

    return [
        case("apply_if_finite", lambda make: optax.apply_if_finite(make(), 5)),
        case("masked", lambda make: optax.masked(make(), mask)),
        case("inject_hyperparams", inject),
    ]


def sharded() -> list[Case]:
    """Parameters and state sharded over all devices. What phi communicates is one number per leaf.

    Not compared with the bandwidth, because the copy would use one device.
    """
    devices = jax.device_count()
    return [
        beside_adam(
            SHARDED,
            f"{variant}, n=10, {devices} devices",
            adashift(variant),
            grads=partial(sharded_matrices, PARAMETERS),
            reach=1.15 if variant == "max" else None,
        )
        for variant in ("max", "max, hopping", "mean", "none")
    ]


def sweeps() -> list[Case]:
    """The lines of the plots: other n, other numbers of parameters."""
    points = [(n, PARAMETERS) for n in DELAYS] + [(10, size) for size in SIZES]
    return [
        of_variant(SWEEP, variant, n, parameters=parameters, moved=None)
        for n, parameters in points
        for variant in LINES
    ]
