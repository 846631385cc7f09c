"""The variants of AdaShift that are timed, and the bytes that a step of each must move.

Bytes that one step (update and apply) must move per parameter, in float32: what is as large as the
parameters, read or written once. The update itself need not be stored.

    gradient, read; parameter, read and written      12   every optimizer
    an array of the state, rewritten (m, v, S)        8   each
    an array of the state, only read                  4   each
    queue: one slot written, the oldest one read      8   4 in bfloat16

Without apply (the parameter neither read nor written, but the update written) it is 4 less.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp

from adashift_optax import scale_by_adashift
from benchmarks.programs import Make

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
SIZE_LINES = (*LINES, "factored, ema")
DELAYS = (2, 5, 20, 80)
SIZES = [8 * (side**2 + side) for side in (35, 111, 353, 3535)]  # 1e4, 1e5, 1e6, 1e8


def adashift(variant: str, n: int = 10) -> Make:
    """A variant of the optimizer."""
    return partial(scale_by_adashift, n, **VARIANTS[variant][0])


def delay(variant: str) -> int:
    """The n of a variant where nothing else is said."""
    return 1 if "ema" in variant else 10
