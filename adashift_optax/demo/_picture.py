"""The picture of a comparison: curves over the epochs, each with its name beside its end."""

import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

from adashift_optax.demo._results import count, over_seeds, write_whole
from adashift_optax.demo._training import OPTIMIZERS, Row

# Okabe and Ito's colors, which the color-blind can tell apart; the notebooks have the same.
COLORS = {
    "adashift-factored": "#882255",
    "adashift-max": "#0072B2",
    "adam": "#000000",
    "amsgrad": "#E69F00",
    "adopt": "#009E73",
}
LINE = 0.07  # height of a name, in heights of the axes


def save_figure(selected: dict[str, list[Row]], dataset: str, path: Path) -> None:
    """Draw the curves of each optimizer at its selected learning rate."""
    figure = Figure(figsize=(8, 6.4), dpi=150, layout="constrained")
    losses, accuracies = figure.subplots(2, sharex=True)
    for axes, field in ((losses, "train_loss"), (accuracies, "test_accuracy")):
        for name, rows in selected.items():
            _draw(axes, rows, field, COLORS[name])
        axes.set_ylabel(field.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    accuracies.set_xlabel("epoch")
    losses.set_yscale("log")
    # Without the first tenth, whose climb would squeeze the rest.
    accuracies.set_ylim(bottom=min(np.quantile(a.get_ydata(), 0.1) for a in accuracies.lines))
    for axes in (losses, accuracies):
        _name_ends(axes, selected)
    seeds = len({row.seed for rows in selected.values() for row in rows})
    bands = "" if seeds == 1 else ".\nLines: means; bands: one standard deviation to each side"
    title = f"{dataset}, {count(seeds, 'seed')}, each optimizer at its best learning rate{bands}"
    figure.suptitle(title, fontsize=11)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def _draw(axes: Axes, rows: list[Row], field: str, color: str) -> None:
    mean, spread = over_seeds(rows, field)
    epochs = np.arange(1, len(mean) + 1)
    axes.plot(epochs, mean, color=color, linewidth=1.8)
    low = np.maximum(mean - spread, mean / 10)  # above 0, for the logarithmic axis
    axes.fill_between(epochs, low, mean + spread, color=color, alpha=0.12, linewidth=0)


def _name_ends(axes: Axes, selected: dict[str, list[Row]]) -> None:
    """Write the name of each curve beside its end, in its color, with a line to it."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = to_axes.transform([np.asarray(line.get_xydata())[-1] for line in axes.lines])
    heights = spread_out(np.nan_to_num(ends[:, 1]), LINE)
    for name, (x, y), height in zip(selected, ends, heights, strict=True):
        axes.annotate(
            OPTIMIZERS[name].label,
            (x, y),
            (1.05, height),
            xycoords="axes fraction",
            textcoords="axes fraction",
            color=COLORS[name],
            verticalalignment="center",
            arrowprops=dict(arrowstyle="-", color=COLORS[name], linewidth=0.7, relpos=(0, 0.5)),
            annotation_clip=False,
        )


def spread_out(heights: np.ndarray, gap: float) -> np.ndarray:
    """Move heights as little as possible until they are `gap` apart, in their order, in [0, 1]."""
    order = np.argsort(heights, kind="stable")
    steps = gap * np.arange(len(heights))
    spread = np.empty(len(heights))
    spread[order] = steps + isotonic_regression(
        heights[order] - steps, y_min=0, y_max=max(0, 1 - steps[-1])
    )
    return spread
