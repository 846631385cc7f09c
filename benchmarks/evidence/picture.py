"""The pictures of the study: loss against bytes of state, and the curves of the larger model."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adashift_optax.demo._picture import spread_out
from benchmarks.evidence import plan

OURS, PAPER, THEIRS, CONTROL = "#882255", "#0072B2", "#444444", "#999999"
HIGHEST = 20.0  # percent; what is above is drawn at the top
# Where the columns stand, by bytes of state: beside each is room for its names.
PLACES = {0: 0.0, 2: 1.0, 4: 2.1, 8: 3.3, 48: 4.4}
CURVES = {
    "ours": {"color": OURS},
    "adam b1=0.9": {"color": THEIRS},
    "nadam b1=0.9": {"color": THEIRS, "linestyle": "--"},
}
CURVES |= {row.name: {"color": CONTROL} for row in plan.RECIPES[True]}  # one of them is there


def color(name: str) -> str:
    """Ours, what people would take instead, or a control."""
    if "undelayed" in name or "unclipped" in name:
        return CONTROL
    if name.startswith("paper"):
        return PAPER
    return OURS if name.startswith("ours") else THEIRS


def nearest(size: float) -> int:
    """The number of bytes at which a row is drawn."""
    return min(PLACES, key=lambda place: abs(np.log2((size + 1) / (place + 1))))


def of_bytes(means: pd.DataFrame, sizes: pd.Series) -> Figure:
    """The means over tasks, in a column for each number of bytes.

    Names stand beside the points, moved apart where they would touch.
    """
    figure, axes = plt.subplots(figsize=(10, 6.2), layout="constrained")
    axes.axhline(0, color=THEIRS, linewidth=0.8, zorder=0)
    low = 100 * np.expm1((means["mean"] - means.half.fillna(0)).min()) - 1
    axes.set_xticks([*PLACES.values()], [f"{size} bytes" for size in PLACES])
    axes.set(xlim=(-0.2, 5.4), ylim=(low, HIGHEST), xlabel="optimizer state per parameter")
    axes.set(ylabel=f"loss over that of {plan.BASE}, %")
    axes.set(title="Each optimizer at its best learning rate. Mean over its tasks B and D.")
    axes.spines[["top", "right"]].set_visible(False)
    for size, found in means.groupby(sizes[means.index].map(nearest)):
        percents = 100 * np.expm1(found["mean"].to_numpy())
        shown = np.minimum(percents, HIGHEST - 0.4)
        heights = low + (HIGHEST - low) * spread_out((shown - low) / (HIGHEST - low), 1 / 28)
        marks = zip(found.itertuples(), percents, shown, heights, strict=True)
        for row, percent, at, height in marks:
            off, place, name = at < percent, PLACES[size], str(row.Index)
            half = None if off or np.isnan(row.half) else 100 * np.exp(row.mean) * row.half
            axes.errorbar(place, at, half, color=color(name), marker="^" if off else "o")
            axes.plot([place, place + 0.06], [at, height], color=color(name), linewidth=0.5)
            far = f" {percent:+.0f} %" if np.isfinite(percent) else " (diverged)"
            far = far if off else ""
            text = {"va": "center", "fontsize": 8.5, "color": color(name)}
            axes.text(place + 0.08, height, name + far, **text)
    return figure


def curves(rows: pd.DataFrame) -> Figure:
    """The validation loss of the larger model after each tenth of the steps: mean over seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, style in CURVES.items():
        mine = rows[rows.optimizer == name]
        if len(mine):
            losses = np.mean([json.loads(curve) for curve in mine.curve], axis=0)
            steps = mine.steps.iloc[0] * np.arange(1, len(losses) + 1) / len(losses)
            axes.plot(steps, losses, label=name, **style)
    axes.set(xlabel="step", ylabel="validation loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
