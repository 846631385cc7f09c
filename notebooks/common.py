"""What the notebooks share: one look, and a budget."""

import os
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# The tests run the notebooks on a small budget, on which some claims cannot be shown.
QUICK = bool(os.environ.get("ADASHIFT_QUICK"))

# One color for each optimizer in all notebooks: a label has the color of the longest key that it
# begins with. The color-blind can tell these colors apart; the first ones are Okabe and Ito's.
COLORS = {
    "Adam": "#000000",
    "AMSGrad": "#E69F00",
    "ADOPT": "#009E73",
    "NAdam": "#CC79A7",
    "Adafactor": "#56B4E9",
    "SGD": "#999933",
    "AdaShift": "#0072B2",
    "AdaShift (none": "#D55E00",
    "adashift_factored": "#882255",
}

plt.rcParams.update(
    {
        "figure.figsize": (7.0, 3.6),
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "axes.titlesize": 11,
        "axes.labelsize": 11,
        "legend.frameon": False,
        "legend.fontsize": 10,
        "lines.linewidth": 1.8,
    }
)


def budget(full: int, quick: int) -> int:
    """`full`, or `quick` in the tests."""
    return quick if QUICK else full


def color(label: str) -> str:
    """The color of an optimizer, given its label: "Adam (b1=0.5)", "AdaShift (max, n=10)"."""
    return COLORS[max((key for key in COLORS if label.startswith(key)), key=len)]


def band(ax: Axes, x: Any, runs: Any, name: str, label: str | None = None, **style: Any) -> None:
    """Draw the median over seeds and the range between the quartiles; runs is [seeds, len(x)]."""
    low, middle, high = np.quantile(np.asarray(runs), [0.25, 0.5, 0.75], axis=0)
    style = {"color": style.pop("color", None) or color(name), **style}
    ax.plot(x, middle, label=label or name, **style)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.2, linewidth=0)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    for first, *rest in text:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
