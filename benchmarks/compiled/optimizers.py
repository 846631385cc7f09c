"""The optimizers that are compiled: those of Optax, and every variant of AdaShift."""

from typing import Any

import optax
import optax.contrib

from adashift_optax import adashift
from benchmarks.evidence.control import scale_first

RATE, CLIP = 1e-3, 1.0
WINDOWS: dict[str, dict[str, Any]] = {
    "sliding": {"n": 10},
    "hopping": {"n": 10, "window": "hopping"},
    "ema": {"n": 1, "window": "ema", "clip_value": CLIP},
    "b1=0": {"n": 10, "b1": 0.0},
}
BLOCKS: dict[str, dict[str, Any]] = {
    "max": {"phi": "max"},
    "mean": {"phi": "mean"},
    "outputs": {"phi": "mean", "block_axes": "outputs"},
    "factored": {"phi": "factored"},
    "none": {"phi": "none"},
}
EXTRA: dict[str, dict[str, Any]] = {
    "max, sliding, bfloat16 queue": {"queue_dtype": "bfloat16"},
    "max, hopping, bfloat16 momentum": {"window": "hopping", "mu_dtype": "bfloat16"},
    "max, ema, bfloat16 momentum": {**WINDOWS["ema"], "mu_dtype": "bfloat16"},
    "factored, ema, bfloat16 momentum": {
        **WINDOWS["ema"],
        "phi": "factored",
        "mu_dtype": "bfloat16",
    },
    "none, ema, n=3": {**WINDOWS["ema"], "phi": "none", "n": 3},
    "none, b1=0, n=1": {"phi": "none", "b1": 0.0, "n": 1},
}


def others() -> dict[str, optax.GradientTransformation]:
    """Optimizers of Optax."""
    factored = (optax.scale_by_factored_rms(), optax.ema(0.9), optax.scale(-RATE))
    return {
        "Adam": optax.adam(RATE),
        "ADOPT": optax.contrib.adopt(RATE),
        "AMSGrad": optax.amsgrad(RATE),
        "Lion": optax.lion(RATE),
        "Adafactor": optax.adafactor(RATE),
        "factored RMS + ema": optax.chain(*factored),
    }


def ours() -> dict[str, optax.GradientTransformation]:
    """Every variant of AdaShift: "phi, window"."""
    table = {
        f"{phi}, {window}": {**options, **blocks}
        for window, options in WINDOWS.items()
        for phi, blocks in BLOCKS.items()
    }
    return {name: adashift(RATE, **options) for name, options in {**table, **EXTRA}.items()}


def without_delay() -> dict[str, optax.GradientTransformation]:
    """What window="ema" would be if v held today's gradient too; factored, and one v an element."""

    def make(blocks: Any) -> optax.GradientTransformation:
        return optax.chain(scale_first(blocks, 0.9, 0.999, CLIP), optax.scale(-RATE))

    names = {"factored": "factored", "none": "none", "outputs": "rows"}
    return {f"{name}, ema, no delay": make(blocks) for name, blocks in names.items()}
