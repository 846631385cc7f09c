"""What the notebooks share: one look, and a budget."""

import os
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# `make test` runs the notebooks on a small budget, on which some claims cannot be shown.
QUICK = bool(os.environ.get("ADASHIFT_QUICK"))

# One color per optimizer, and per phi and window of AdaShift, in all notebooks. The color-blind can
# tell apart those of a figure: they are Okabe and Ito's, and others at a distance from them. What
# differs in n, b1 or clip_value alone shares a color.
COLORS = {
    "Adam": "#000000",
    "AdamW": "#7f7f7f",
    "AMSGrad": "#E69F00",
    "ADOPT": "#009E73",
    "ACProp": "#CC79A7",
    "SGD": "#999933",
    "AdaShift": "#0072B2",
    "AdaShift, hopping": "#56B4E9",
    "AdaShift, ema": "#332288",
    "AdaShift, none": "#D55E00",
    "AdaShift, none, hopping": "#DDCC77",
    "AdaShift, mean": "#5D3A1A",
    "AdaShift, factored": "#882255",
    "critic AdaShift": "#117733",
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


def color(label: str) -> str | None:
    """The color of an optimizer, given its label: "Adam (b1=0.5)", "AdaShift (factored, ema)"."""
    name, _, arguments = label.removesuffix(")").partition(" (")
    first, *others = arguments.split(", ")
    both = [f"{name}, {first}, {other}" for other in others]
    keys = [label, *both, *(f"{name}, {argument}" for argument in (first, *others)), name]
    return next((COLORS[key] for key in keys if key in COLORS), None)


def band(ax: Axes, x: Any, runs: Any, name: str, label: str | None = None, **style: Any) -> None:
    """Draw the median over seeds and the range between the quartiles; runs is [seeds, len(x)]."""
    low, middle, high = np.quantile(np.asarray(runs), [0.25, 0.5, 0.75], axis=0)
    style.setdefault("color", color(name))
    (line,) = ax.plot(x, middle, label=label or name, **style)
    ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: the first column to the left, the others to the right."""
    text = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    for row in text:
        first, *rest = (
            cell.ljust(w) if not i else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *rest]))
