"""The picture of the study: the loss of each family of optimizers against its bytes of state."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from adashift_optax.demo._picture import spread_out
from benchmarks.evidence.optimizers import ROWS
from benchmarks.evidence.statistics import Tuned, best_of, interval, log_ratios

NAMES = {
    "adamw": "Adam",
    "adopt": "ADOPT",
    "nadam": "NAdam",
    "schedule_free": "schedule-free Adam",
    "adafactor with momentum": "optax.adafactor, momentum",
    "factored_rms": "Adafactor's recipe, momentum",
    "mini": "Adam-mini's blocks",
    "lion": "Lion",
    "sgd with momentum": "SGD, momentum",
    "muon": "Muon / NAdam",
    "adafactor": "Adafactor's recipe",
    "sgd": "SGD",
    "ours factored": "AdaShift (factored, ema, n=3)",
    "ours rows": "AdaShift (outputs, ema)",
    "ours none": "AdaShift (none, ema)",
    "ours bfloat16": "AdaShift (bfloat16)",
    "ours factored b1=0": "AdaShift (factored, b1=0)",
    "ours unclipped": "AdaShift (no global clip)",
    "paper max": "AdaShift (max, n=10)",
    "undelayed factored": "factored, no delay",
}
TASKS = {
    "language_a": "transformer",
    "sparse_a": "word vectors",
    "images_a": "MNIST",
    "sparse_b": "word vectors",
    "heavy_b": "counts",
    "lstm_b": "LSTM",
    "finetune_b": "fine-tuning",
    "images_b": "CIFAR-10",
    "language_b": "transformer",
    "sparse_c": "word vectors",
    "heavy_c": "counts",
    "language_c": "transformer",
    "images_c": "CIFAR-10",
}
OURS, THEIRS, CONTROL = "#0072B2", "#444444", "#999999"
HIGHEST = 20.0  # percent; what is above is drawn at the top
GAP = 0.95  # percent between two names
# Where the columns stand, by bytes of state: beside each is room for its names.
PLACES = {0: 0.0, 2: 1.33, 4: 2.44, 8: 4.1, 48: 5.2}
LAST = 6.28


class Point(NamedTuple):
    """A family over some tasks.

    Attributes:
      row: the name of its best row.
      size: bytes of state per parameter.
      percent: how much its loss is above that of the best of 8 bytes, a geometric mean over tasks.
      half: half of its 95 % interval over seeds; NaN for one seed.
    """

    family: str
    row: str
    size: float
    percent: float
    half: float


def points(tasks: dict[str, dict[str, Tuned]]) -> list[Point]:
    """Of each family that has a name the row with the lowest mean over `tasks`, the best first."""
    shared = set.intersection(*(set(rows) for rows in tasks.values()))
    shared = {name for name in shared if ROWS[name].family in NAMES}
    best: dict[str, Point] = {}
    for name in shared:
        point = summary(name, tasks)
        if point.family not in best or point.percent < best[point.family].percent:
            best[point.family] = point
    return sorted(best.values(), key=lambda point: point.percent)


def summary(name: str, tasks: dict[str, dict[str, Tuned]]) -> Point:
    """A row over some tasks."""
    logs = [log_ratios(rows[name], best_of(rows, 8)) for rows in tasks.values()]
    seeds = set.intersection(*(set(log) for log in logs))
    mean, half = interval([float(np.mean([log[s] for log in logs])) for s in sorted(seeds)])
    sizes = [rows[name].records[0].state_bytes for rows in tasks.values()]
    ratio = 100 * np.exp(mean)
    return Point(ROWS[name].family, name, float(np.mean(sizes)), ratio - 100, ratio * half)


def draw(found: Iterable[Point], title: str) -> Figure:
    """The points, in a column for each number of bytes."""
    figure, axes = plt.subplots(figsize=(10, 6.2), layout="constrained")
    axes.axhline(0, color=THEIRS, linewidth=0.8, zorder=0)
    found = list(found)
    lowest = min(p.percent - np.nan_to_num(p.half) for p in found) - GAP
    axes.set_xticks([*PLACES.values()], [f"{size} bytes" for size in PLACES])
    axes.set(xlim=(-0.3, LAST), ylim=(lowest, HIGHEST), title=title)
    axes.set(xlabel="optimizer state per float32 parameter")
    axes.set(ylabel="loss over that of the best\n8-byte optimizer, %")
    axes.spines[["top", "right"]].set_visible(False)
    for place in sorted({_place(p.size) for p in found}):
        _column(axes, place, [p for p in found if _place(p.size) == place])
    return figure


def _place(size: float) -> float:
    nearest = min(PLACES, key=lambda place: abs(np.log2(size + 1) - np.log2(place + 1)))
    return PLACES[nearest]


def _column(axes: Any, place: float, found: list[Point]) -> None:
    """The names stand beside the points, moved apart where they would touch."""
    top = HIGHEST - GAP / 2
    shown = [min(p.percent, top) for p in found]
    low, high = axes.get_ylim()
    parts = spread_out((np.array(shown) - low) / (high - low), GAP / (high - low))
    heights = low + (high - low) * parts
    for number, (point, at, height) in enumerate(zip(found, shown, heights, strict=True)):
        ours = point.family.startswith(("ours", "paper"))
        color = OURS if ours else CONTROL if point.family.startswith("undelayed") else THEIRS
        off = at == top
        x = place - 0.07 - 0.025 * (number % 5)  # so that the intervals do not hide each other
        axes.errorbar(
            x,
            at,
            yerr=None if off or np.isnan(point.half) else point.half,
            color=color,
            marker="^" if off else "o",
            markersize=6,
            elinewidth=1,
        )
        axes.plot([x + 0.02, place], [at, height], color=color, linewidth=0.5)
        far = f" {point.percent:+.0f} %" if off and np.isfinite(point.percent) else ""
        text = NAMES[point.family] + (far or (" (diverged)" if off else ""))
        style = {"fontsize": 8.5, "color": color, "fontweight": "bold" if ours else "normal"}
        style["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        style["zorder"] = 1  # above the line of 0, below the points
        axes.text(place + 0.02, height, text, va="center", **style)
