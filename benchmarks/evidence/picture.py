"""The pictures of the study: loss against bytes of state, and the curves of the larger model."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adashift_optax.demo._picture import spread_out
from benchmarks.evidence import plan
from benchmarks.evidence.statistics import percent

OURS, THEIRS, CONTROL = "#882255", "#444444", "#999999"
CURVES = {
    "ours": {"color": OURS},
    "adam b1=0.9": {"color": THEIRS},
    "nadam b1=0.9": {"color": THEIRS, "linestyle": "--"},
    **{row.name: {"color": CONTROL} for row in plan.RECIPES[True]},  # one of them is there
}


def known(name: str) -> str:
    """The name of a row as users know it; the bytes are said elsewhere."""
    return name.replace("ours", "adashift_factored").removesuffix(" bfloat16")


def save(figure: Figure, path: Path) -> None:
    """Write an SVG with its texts as texts."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.name}):
        figure.savefig(path, metadata={"Date": None})


def of_bytes(means: pd.DataFrame) -> Figure:
    """The means over tasks, in a column for each number of bytes.

    Names stand beside the points, moved apart where they would touch.
    """
    figure, axes = plt.subplots(figsize=(7.8, 4), layout="constrained")
    axes.axhline(0, color=CONTROL, linewidth=0.8, zorder=0)
    bytes_ = means.state_bytes.round().astype(int)
    columns = sorted(set(bytes_))
    axes.set_xticks(range(len(columns)), [f"{size} bytes" for size in columns])
    axes.set(xlim=(-0.2, len(columns) - 0.1), xlabel="state of the optimizer for each parameter")
    axes.set(ylabel=f"loss over that of {plan.BASE}, %")
    axes.spines[["top", "right"]].set_visible(False)
    for place, size in enumerate(columns):
        found = means[bytes_ == size]
        heights = 100 * np.expm1(found["mean"])
        low, high = heights.min() - 1, heights.max() + 1
        apart = low + (high - low) * spread_out((heights - low).to_numpy() / (high - low), 0.14)
        for (name, row), at, beside in zip(found.iterrows(), heights, apart, strict=True):
            style = {"color": OURS if str(name).startswith("ours") else THEIRS}
            axes.errorbar(place, at, 100 * np.exp(row["mean"]) * row.half, marker="o", **style)
            axes.plot([place, place + 0.06], [at, beside], linewidth=0.5, **style)
            text = f"{known(str(name))}: {percent(row['mean'], digits=1)}"
            axes.text(place + 0.08, beside, text, va="center", fontsize=9, **style)
    return figure


def curves(rows: pd.DataFrame) -> Figure:
    """The validation loss of the larger model after each tenth of the steps: mean over seeds."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, style in CURVES.items():
        mine = rows[rows.optimizer == name]
        if len(mine):
            losses = np.mean([json.loads(curve) for curve in mine.curve], axis=0)
            steps = mine.steps.iloc[0] * np.arange(1, len(losses) + 1) / len(losses)
            axes.plot(steps, losses, label=f"{known(name)}: {losses[-1]:.3f}", **style)
    axes.set(xlabel="step", ylabel="validation loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
