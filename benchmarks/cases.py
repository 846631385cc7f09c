"""The table of cases: what is measured, against what, and what it should reach."""

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
from benchmarks.variants import (
    ADAM_MOVES,
    DELAYS,
    LINES,
    SIZE_LINES,
    SIZES,
    TARGETS,
    VARIANTS,
    adashift,
    delay,
)

SIDE = 1024 if jax.default_backend() == "cpu" else 2048  # so that a GPU outlasts the dispatch
PARAMETERS = 8 * (SIDE**2 + SIDE)

STEP = f"AdaShift: a donated step of {PARAMETERS / 1e6:.1f} million parameters"
OTHERS = "Other optimizers of Optax, likewise"
PROGRAMS = "AdaShift (max, n=10) in other programs"
SHARDED = "A donated step on a mesh, beside Adam's on the same"
TORCH = "torch on the same arrays"
TRAINING = "Training a transformer: tokens per second over Adam's, so that more is better"
SWEEP = "for the plots"


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
        ("Lion", optax.scale_by_lion, ADAM_MOVES - 8),
        ("factored RMS + ema", factored_rms, ADAM_MOVES - 8),
    ]
    return ours + [beside_adam(OTHERS, name, make, moved=moved) for name, make, moved in others]


def factored_rms() -> optax.GradientTransformation:
    """The nearest to AdaShift (factored, ema) in Optax, without a delay."""
    return optax.chain(optax.scale_by_factored_rms(), optax.ema(0.9))


def programs() -> list[Case]:
    """AdaShift in a loop, and without donation."""
    beside = partial(beside_adam, PROGRAMS, moved=ADAM_MOVES)
    in_scan = partial(beside, loop=True, steps=LOOP_LENGTH, against="Adam in lax.scan")
    not_donated = partial(beside, donate=False, against="Adam, not donated")
    return [
        in_scan("in lax.scan", adashift("max"), reach=1.25, stretch=1.1),
        not_donated("max, hopping, not donated", adashift("max, hopping"), reach=1.2, stretch=1.0),
        not_donated("max, not donated", adashift("max")),
        not_donated("b1=0, not donated", adashift("max, b1=0")),
        beside_adam(PROGRAMS, "max, NaNs removed by lax.cond", healed),
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
    points = [(variant, n, PARAMETERS) for n in DELAYS for variant in LINES]
    points += [(variant, delay(variant), size) for size in SIZES for variant in SIZE_LINES]
    return [
        of_variant(SWEEP, variant, n, parameters=parameters, moved=None)
        for variant, n, parameters in points
    ]
