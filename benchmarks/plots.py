"""The four plots, from the rows that were measured."""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.cases import OTHERS, PARAMETERS, STEP, TORCH
from benchmarks.labels import label
from benchmarks.programs import state_bytes
from benchmarks.report import Row, write_whole
from benchmarks.variants import LINES, SIZE_LINES, adashift, delay


class Style(NamedTuple):
    """How a variant looks in every plot.

    The colors are those of the notebooks, as far as they have the variant.
    """

    color: str
    marker: str
    linestyle: str


STYLES = {
    "none": Style("#D55E00", "s", "-"),
    "max": Style("#0072B2", "o", "-"),
    "max, bfloat16 queue": Style("#44AA99", "D", "-."),
    "none, hopping": Style("#DDCC77", "v", "--"),
    "max, hopping": Style("#56B4E9", "^", "--"),
    "factored, ema": Style("#882255", "P", ":"),
}
LINE = {"linewidth": 2, "markersize": 8, "markerfacecolor": "none", "markeredgewidth": 1.8}
ADAM = "black"
NO_LINE = "#bbbbbb"  # of what is in no other plot


def save_all(rows: list[Row], machine: str, folder: Path) -> None:
    """Draw what there are rows for."""
    plots: dict[str, Callable[[Axes], Any]] = {
        "ratio_n": partial(ratio_against_n, rows),
        "ratio_parameters": partial(ratio_against_parameters, rows),
        "bytes": bytes_per_parameter,
        "bandwidth": partial(fraction_of_bandwidth, rows),
    }
    for name, draw in plots.items():
        height = 7.5 if name == "bandwidth" else 4.5
        figure = Figure(figsize=(9, height), dpi=100, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        if name != "bytes":
            axes.set_title(machine, fontsize=8, color="gray", loc="right")
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_whole(folder / f"{name}.png", content.getvalue())


def _lines(
    axes: Axes,
    rows: Iterable[Row],
    variants: Sequence[str],
    x: Callable[[Row], float],
    name: Callable[[str], str],
) -> None:
    """The median of the ratio as a line for each variant, between its quartiles."""
    rows = sorted(rows, key=x)
    for variant in variants:
        points = [row for row in rows if row.variant == variant]
        if not points:
            continue
        places, style = [x(row) for row in points], STYLES[variant]
        ratios = [row.ratio for row in points]
        axes.plot(places, ratios, label=name(variant), **style._asdict(), **LINE)
        low, high = [row.low for row in points], [row.high for row in points]
        axes.fill_between(places, low, high, color=style.color, alpha=0.12, linewidth=0)
    axes.axhline(1, color=ADAM, linewidth=1.5, label="Adam")
    axes.set(xscale="log", ylabel="time of a step / time of Adam's step")
    _legend(axes, "Line: median of the rounds.\nBand: from the lower to the\nupper quartile.")


def _legend(axes: Axes, title: str = "") -> None:
    """The names beside the plot, in the order in which the lines end."""
    handles, names = axes.get_legend_handles_labels()
    ends = {name: handle.get_ydata()[-1] for handle, name in zip(handles, names, strict=True)}
    order = sorted(range(len(names)), key=lambda i: -ends[names[i]])
    axes.legend(
        [handles[i] for i in order],
        [names[i] for i in order],
        title=title,
        alignment="left",
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
        handlelength=3.5,
    )


def _ticks(axis: Axis, values: Sequence[int]) -> None:
    """These and no others, as whole numbers on a logarithmic axis."""
    axis.set_ticks(values, [str(value) for value in values])
    axis.set_ticks([], minor=True)


def ratio_against_n(rows: list[Row], axes: Axes) -> None:
    """What the delay costs in time."""
    shown = [row for row in rows if row.variant in LINES and row.parameters == PARAMETERS]
    _lines(axes, shown, LINES, lambda row: row.n, partial(label, n=None))
    _ticks(axes.xaxis, sorted({row.n for row in shown}))
    axes.set(xlabel=f"n, for {PARAMETERS / 1e6:.1f} million parameters")


def ratio_against_parameters(rows: list[Row], axes: Axes) -> None:
    """From calls that are all overhead to arrays that fit in no cache."""
    shown = [row for row in rows if row.variant in SIZE_LINES and row.n == delay(row.variant)]
    _lines(axes, shown, SIZE_LINES, lambda row: row.parameters, label)
    axes.set(xlabel="parameters, in 16 leaves")


def bytes_per_parameter(axes: Axes) -> None:
    """What the delay costs in memory, from init alone."""
    params = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    delays = (2, 3, 5, 10, 20, 40, 80)
    adam = state_bytes(optax.scale_by_adam(), params) / params.size
    axes.plot(delays, [adam] * len(delays), color=ADAM, linewidth=6, label="Adam")
    for variant, style in STYLES.items():
        sizes = [state_bytes(adashift(variant, n)(), params) / params.size for n in delays]
        axes.plot(delays, sizes, label=label(variant, n=None), **style._asdict(), **LINE)
    axes.set(xscale="log", yscale="log", xlabel="n")
    axes.set(ylabel="bytes of state for each float32 parameter")
    _ticks(axes.xaxis, delays)
    _ticks(axes.yaxis, (4, 8, 16, 32, 64, 128, 256))
    _legend(axes)


def fraction_of_bandwidth(rows: list[Row], axes: Axes) -> None:
    """Bytes that must be moved, per second, against a copy in place."""
    shown = [row for group in (STEP, OTHERS, TORCH) for row in rows if row.group == group]
    shown = [row for row in shown if row.moved > 0]
    names = [label(row.name) for row in shown]
    colors = [_bar_color(row) for row in shown]
    bars = axes.barh(range(len(shown)), [row.bandwidth for row in shown], color=colors)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="gray", linewidth=1)
    axes.set(
        xlim=(0, 1.1),
        xlabel="least bytes of a step, per second / bytes of a scaled array, per second",
    )
    variants = {row.variant for row in shown}
    axes.legend(
        handles=[
            *(
                Patch(color=STYLES[v].color, label=label(v, n=None))
                for v in STYLES
                if v in variants
            ),
            Patch(color=ADAM, label="Adam"),
            Patch(color=NO_LINE, label="in no other plot"),
        ],
        loc="upper center",
        bbox_to_anchor=(0.4, -0.08),
        ncols=3,
        frameon=False,
        fontsize=8,
    )


def _bar_color(row: Row) -> str:
    if row.variant in STYLES:
        return STYLES[row.variant].color
    return ADAM if row.name.startswith("Adam,") else NO_LINE
