"""Which programs are compiled, in which file their rows are."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optax

from benchmarks.compiled import models, optimizers
from benchmarks.compiled.chips import CPU, H100, TPU, devices
from benchmarks.compiled.programs import Compiled, mesh, replicated, training, update

# The sides of the matrices that are updated. On a GPU the way to reduce columns depends on them.
SIDES = (1024, 2048)
ADAM, LION, FACTORED = "Adam", "Lion", "factored RMS + ema"
CLIP = "clip_by_global_norm"
# Those whose update joins the matmul that makes the gradient, on one chip of a TPU.
JOINING = (
    "max, ema",
    "factored, ema",
    "outputs, ema",
    "none, ema",
    "max, b1=0",
    "max, hopping",
    "factored, hopping",
)
IN_STEPS = (
    ADAM,
    LION,
    FACTORED,
    *JOINING,
    "max, sliding",
    "factored, ema, no delay",
    "outputs, ema, no delay",
    "none, ema, no delay",
)
# A transformer takes minutes to compile.
IN_TRANSFORMER = (ADAM, LION, FACTORED, "factored, ema", "factored, ema, no delay")
CLIPPED = (ADAM, "factored, ema")
ON_16 = (ADAM, LION, FACTORED, *JOINING[:4], "factored, ema, no delay")


class Case(NamedTuple):
    """One program.

    Attributes:
      chips, model, optimizer, in_front: as in a row.
      compile: makes it.
    """

    chips: str
    model: str
    optimizer: str
    in_front: str
    compile: Callable[[], Compiled]

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What no other program has."""
        return self[:4]


def files() -> dict[str, dict[str, Callable[[], list[Case]]]]:
    """For each kind of chip its files, and what makes their cases."""
    v5e, v6e, h100 = ("one v5e", "v5e:2x2"), ("one v6e", "v6e:2x2"), ("one H100", H100)
    return {
        CPU: {"update-cpu": partial(updates, "one CPU", CPU, SIDES[:1])},
        TPU: {
            "update-v5e": partial(updates, *v5e, SIDES[:1]),
            "update-v6e": partial(updates, *v6e, SIDES[:1]),
            "step-v5e": partial(steps, *v5e),
            "mesh-16": partial(sharded, "v5e:4x4", 4),
            "mesh-256": partial(sharded, "v5e:16x16", 16),
            "step-16": steps_on_16,
        },
        H100: {"update-h100": partial(updates, *h100, SIDES), "step-h100": partial(steps, *h100)},
    }


def every_optimizer() -> dict[str, optax.GradientTransformation]:
    """All of them, by name."""
    return optimizers.others() | optimizers.ours() | optimizers.without_delay()


def updates(chips: str, topology: str, sides: tuple[int, ...]) -> list[Case]:
    """The step of each optimizer alone, on one chip."""
    on = mesh(devices(topology)[:1])

    def case(name: str, tx: optax.GradientTransformation, side: int) -> Case:
        params = models.matrices(side)
        build = partial(update, tx, params, replicated(params), on)
        return Case(chips, f"8 matrices {side} x {side} and 8 vectors", name, "", build)

    every = optimizers.others() | optimizers.ours()
    return [case(name, tx, side) for side in sides for name, tx in every.items()]


def sharded(topology: str, fsdp: int) -> list[Case]:
    """The step of each optimizer alone on the parameters of a large model, on a mesh."""
    on, params = mesh(devices(topology), fsdp), models.llama()
    chips = f"{on.devices.size} v5e, {fsdp} FSDP x {on.devices.size // fsdp} tensor"
    every = optimizers.others() | optimizers.ours()
    specs = models.specs_of(params)
    return [
        Case(chips, "Llama 3.2 1B", name, "", partial(update, tx, params, specs, on))
        for name, tx in every.items()
    ]


def steps(chips: str, topology: str) -> list[Case]:
    """The whole training step on one chip."""
    on = mesh(devices(topology)[:1])
    two, four = models.residual(2), models.residual(4)
    return [
        *_training(chips, "2 residual layers", two, on, IN_STEPS),
        *_training(chips, "transformer", models.transformer(), on, IN_TRANSFORMER),
        *_training(chips, "transformer", models.transformer(), on, CLIPPED, clip_norm=True),
        *_training(chips, "4 residual layers", four, on, IN_TRANSFORMER),
    ]


def steps_on_16() -> list[Case]:
    """The whole training step on 16 chips, tensor-parallel, and FSDP x tensor."""
    on = devices("v5e:4x4")
    model = models.residual(2)
    return [
        case
        for fsdp in (1, 4)
        for case in _training(
            f"16 v5e, {fsdp} FSDP x {16 // fsdp} tensor",
            "2 residual layers",
            model,
            mesh(on, fsdp),
            ON_16,
        )
    ]


def _training(
    chips: str,
    name: str,
    model: models.Model,
    on: Any,
    names: tuple[str, ...],
    clip_norm: bool = False,
) -> list[Case]:
    every, in_front = every_optimizer(), CLIP if clip_norm else ""
    return [
        Case(chips, name, tx, in_front, partial(training, every[tx], model, on, clip_norm))
        for tx in names
    ]
