"""The optimizers of the study, one row each. A row is a direction and what else defines it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
import optax.contrib

from adashift_optax import scale_by_adashift
from benchmarks.evidence.control import growing, growing_adam, scale_first

Make = Callable[[], optax.GradientTransformation]
B2S = {".9": 0.9, ".95": 0.95, ".99": 0.99, ".999": 0.999, "grow": growing}
CLIPS = {"1": 1.0, "3": 3.0, "10": 10.0, "30": 30.0, "no": None}
BLOCKS: dict[str, dict[str, Any]] = {
    "none": {"phi": "none"},
    "rows": {"phi": "mean", "block_axes": "outputs"},
    "factored": {"phi": "factored"},
}


@dataclass(frozen=True)
class Row:
    """One optimizer.

    Attributes:
      name: the name in the results.
      family: on tasks B the best row of each family runs.
      make: its direction, which the rate multiplies; for schedule_free all but the rate.
      centre: 2 log10 of the rate about which its grid lies.
      clipped: whether the global norm of the gradient is clipped in front of it.
      competes: whether people would take it instead of ours.
      schedule_free: whether the rate stays after the warm-up, and the parameters are averaged.
    """

    name: str
    family: str
    make: Make
    centre: int = -5
    clipped: bool = True
    competes: bool = True
    schedule_free: bool = False


def direction(row: Row, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer of a row at the rates of a schedule."""
    if not row.schedule_free:
        return optax.chain(row.make(), optax.scale_by_learning_rate(schedule))
    return optax.contrib.schedule_free(
        optax.chain(row.make(), optax.scale_by_learning_rate(schedule)), schedule, b1=0.9
    )


def matrices(params: Any) -> Any:
    """What Muon is made for: matrices, except tables and the last layer. The rest gets Adam."""

    def one(path: Any, p: jax.Array) -> Any:
        name = jax.tree_util.keystr(path)
        other = p.ndim != 2 or "embedding" in name or "head" in name
        return None if other else optax.contrib.MuonDimensionNumbers()

    return jax.tree.map_with_path(one, params)


def muon() -> optax.GradientTransformation:
    """Optax's Muon at a rate of -1, which `direction` turns around. `consistent_rms` gives its
    steps the size of Adam's, so that one rate fits both.
    """
    return optax.contrib.muon(
        -1.0, muon_weight_dimension_numbers=matrices, consistent_rms=0.2, adam_learning_rate=-1.0
    )


def factored_rms(b1: float, of_parameters: bool = False) -> optax.GradientTransformation:
    """Adafactor's recipe; with its steps relative to the size of the parameters or without.

    All matrices are factored, however small, so that its bytes are those of its class.
    """
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=2),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms() if of_parameters else optax.identity(),
        optax.ema(b1, debias=not of_parameters) if b1 else optax.identity(),
    )


def theirs() -> list[Row]:
    """What people would take instead."""
    rows = []
    for b1 in (0.9, 0.5):
        name = f"b1={b1:g}"
        rows += [
            Row(f"adamw {name} b2=.999", "adamw", lambda b1=b1: optax.scale_by_adam(b1)),
            Row(f"adamw {name} b2=.95", "adamw", lambda b1=b1: optax.scale_by_adam(b1, 0.95)),
            Row(f"adamw {name} b2=grow", "adamw", lambda b1=b1: growing_adam(b1)),
            Row(f"adopt {name}", "adopt", lambda b1=b1: optax.contrib.scale_by_adopt(b1)),
            Row(f"nadam {name}", "nadam", lambda b1=b1: optax.scale_by_adam(b1, nesterov=True)),
            Row(
                f"adafactor {name}",
                "adafactor with momentum",
                lambda b1=b1: factored_rms(b1, True),
                -3,
            ),
            Row(f"factored_rms {name}", "factored_rms", lambda b1=b1: factored_rms(b1)),
            Row(f"mini {name}", "mini", partial(scale_first, "rows", b1, 0.999, None)),
        ]

    def second_moment() -> optax.GradientTransformation:
        return optax.scale_by_rms(0.999, eps_in_sqrt=False, bias_correction=True)

    return [
        *rows,
        unclipped("adamw", lambda: optax.scale_by_adam(0.5)),
        Row("schedule_free", "schedule_free", second_moment, schedule_free=True),
        Row("lion b1=.9", "lion", optax.scale_by_lion, -7),
        Row("lion b1=.5", "lion", lambda: optax.scale_by_lion(0.5), -7),
        Row("sgd b1=.9", "sgd with momentum", lambda: optax.ema(0.9, debias=False), -1),
        Row("muon", "muon", muon, -4),
        Row("adafactor b1=0", "adafactor", lambda: factored_rms(0, True), -3),
        Row("factored_rms b1=0", "adafactor", lambda: factored_rms(0)),
        Row("sgd", "sgd", optax.identity, -1),
    ]


def ema(
    blocks: str,
    b1: float = 0.5,
    b2: str = "grow",
    clip: str = "3",
    n: int = 1,
    **options: Any,
) -> Row:
    """One of ours with window="ema". The defaults are the base point of the design."""
    name = f"ours {blocks} b1={b1:g} b2={b2} clip={clip} n={n}"
    family = f"ours {blocks}"
    arguments = {"clip_value": CLIPS[clip], "window": "ema", **BLOCKS[blocks], **options}
    if options:
        name, family = f"{name} bfloat16", "ours bfloat16"
    elif b1 == 0:
        family = f"{family} b1=0"
    return Row(name, family, lambda: scale_by_adashift(n, b1, B2S[b2], **arguments), competes=False)


def undelayed(blocks: str, b2: str = "grow") -> Row:
    """The base point with today's gradient in v."""
    name = f"undelayed {blocks}"
    make = partial(scale_first, blocks, 0.5, B2S[b2], 3.0)
    return Row(f"{name} b1=0.5 b2={b2} clip=3", name, make, competes=False)


def unclipped(name: str, make: Make) -> Row:
    """A row without the clip of the global norm."""
    name = f"{name} unclipped"
    return Row(name, name, make, clipped=False, competes=False)


def ours() -> list[Row]:
    """A star around the base point, two factors at a time where they may depend on each other."""
    paper = {"phi": "max"}
    short = {"phi": "none", "clip_value": 1.0}
    return [
        *(ema("factored", b1, b2) for b1 in (0.5, 0.9, 0.95) for b2 in ("grow", ".999")),
        *(ema("factored", b1, clip=clip) for b1 in (0.5, 0.9) for clip in ("1", "no")),
        ema("factored", n=3),
        *(ema(x, b1, b2) for x in ("none", "rows") for b1 in (0.5, 0.9) for b2 in ("grow", ".999")),
        *(ema(x, mu_dtype="bfloat16") for x in ("factored", "rows")),
        *(ema("factored", 0.0, b2) for b2 in ("grow", ".999")),
        unclipped("ours", ema("factored").make),
        Row(
            "paper max n=10",
            "paper max",
            lambda: scale_by_adashift(10, **paper),
            -3,
            competes=False,
        ),
        Row(
            "paper none n=3",
            "paper none",
            lambda: scale_by_adashift(3, **short),
            competes=False,
        ),
    ]


def delay_rows(blocks: str) -> list[Row]:
    """The base point with and without the delay at several b2."""
    return [row for b2 in B2S for row in (ema(blocks, b2=b2), undelayed(blocks, b2))]


CONTROLS = [undelayed(blocks) for blocks in BLOCKS]
MAIN = [*theirs(), *ours(), *CONTROLS]
# The recommended line with a clip of 3 and with wider ones: no task of A and B has the latter.
RECOMMENDED = {clip: ema("factored", b2=".999", clip=clip) for clip in ("3", "10", "30")}
ALONE = unclipped("ours clip=10", RECOMMENDED["10"].make)  # without the clip of the global norm
DELAY = {blocks: delay_rows(blocks) for blocks in BLOCKS}
EVERY = (*MAIN, *(row for rows in DELAY.values() for row in rows), *RECOMMENDED.values(), ALONE)
ROWS = {row.name: row for row in EVERY}
