"""The picture of a comparison: curves over the epochs, each with its name beside its end."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

from adashift_optax.demo._results import over_seeds, write_whole
from adashift_optax.demo._training import OPTIMIZERS

LINE = 0.07  # height of a name, in heights of the axes


def save_figure(selected: dict[str, pd.DataFrame], dataset: str, path: Path) -> None:
    """Draw the curves of each optimizer at its selected learning rate."""
    figure = Figure(figsize=(8, 6.4), dpi=150, layout="constrained")
    losses, accuracies = figure.subplots(2, sharex=True)
    for axes, field in ((losses, "train_loss"), (accuracies, "test_accuracy")):
        for name, rows in selected.items():
            mean, spread = over_seeds(rows, field)
            color = OPTIMIZERS[name].color
            axes.plot(mean.index, mean, color=color, linewidth=1.8)
            low = np.maximum(mean - spread, mean / 10)  # above 0, for the logarithmic axis
            axes.fill_between(mean.index, low, mean + spread, color=color, alpha=0.12, linewidth=0)
        axes.set_ylabel(field.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracies.set_xlabel("epoch")
    losses.set_yscale("log")
    # Without the first tenth, whose climb would squeeze the rest.
    accuracies.set_ylim(bottom=min(np.quantile(a.get_ydata(), 0.1) for a in accuracies.lines))
    for axes in (losses, accuracies):
        _name_ends(axes, list(selected))
    seeds = next(iter(selected.values()))["seed"].nunique()
    figure.suptitle(
        f"{dataset}, seeds: {seeds}, each optimizer at its best learning rate.\n"
        "Lines: means; bands: one standard deviation to each side",
        fontsize=11,
    )
    write_whole(path, partial(figure.savefig, format="png"))


def _name_ends(axes: Axes, names: list[str]) -> None:
    """Write the name of each curve beside its end, in its color, with a line to it."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = to_axes.transform([np.asarray(line.get_xydata())[-1] for line in axes.lines])
    heights = spread_out(np.nan_to_num(ends[:, 1]), LINE)
    for name, end, height in zip(names, ends, heights, strict=True):
        label, color, _ = OPTIMIZERS[name]
        line = dict(arrowstyle="-", color=color, linewidth=0.7, relpos=(0, 0.5))
        place, unit, look = (1.05, height), "axes fraction", dict(color=color, va="center")
        axes.annotate(label, end, place, unit, arrowprops=line, annotation_clip=False, **look)


def spread_out(heights: np.ndarray, gap: float) -> np.ndarray:
    """Move heights as little as possible until they are `gap` apart, in their order, in [0, 1]."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    spread = np.empty(len(heights))
    spread[order] = steps + isotonic_regression(
        heights[order] - steps, y_min=0, y_max=max(0, 1 - steps[-1])
    )
    return spread
