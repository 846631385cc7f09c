"""The four plots, from the rows that were measured."""

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from benchmarks.cases import LINES, OTHERS, PARAMETERS, PROGRAMS, STEP, TORCH, adashift
from benchmarks.programs import state_bytes
from benchmarks.report import Row, write_whole


def save_all(rows: list[Row], machine: str, folder: Path) -> None:
    """Draw what there are rows for."""
    plots: dict[str, Callable[[Axes], Any]] = {
        "ratio_n": partial(ratio_against_n, rows),
        "ratio_parameters": partial(ratio_against_parameters, rows),
        "bytes": bytes_per_parameter,
        "bandwidth": partial(fraction_of_bandwidth, rows),
    }
    for name, draw in plots.items():
        height = 7 if name == "bandwidth" else 4.5
        figure = Figure(figsize=(8, height), dpi=100, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_title(machine, fontsize=8, color="gray", loc="right")
        content = io.BytesIO()
        figure.savefig(content, format="png")
        write_whole(folder / f"{name}.png", content.getvalue())


def _lines(axes: Axes, rows: Iterable[Row], x: Callable[[Row], float]) -> None:
    """The median of the ratio as a line for each variant, between its quartiles."""
    rows = sorted(rows, key=x)
    for variant in LINES:
        points = [row for row in rows if row.variant == variant]
        places = [x(row) for row in points]
        (line,) = axes.plot(places, [row.ratio for row in points], "o-", label=variant)
        low, high = [row.low for row in points], [row.high for row in points]
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15)
    axes.axhline(1, color="black", linewidth=0.8, label="Adam")
    axes.set(xscale="log", ylabel="time of a step / Adam's", ylim=(0, None))
    axes.legend(ncols=2)


def _ticks(axis: Axis, values: Sequence[int]) -> None:
    """These and no others, as whole numbers on a logarithmic axis."""
    axis.set_ticks(values, [str(value) for value in values])
    axis.set_ticks([], minor=True)


def ratio_against_n(rows: list[Row], axes: Axes) -> None:
    """What the delay costs in time."""
    _lines(axes, (row for row in rows if row.n and row.parameters == PARAMETERS), lambda r: r.n)
    _ticks(axes.xaxis, sorted({row.n for row in rows if row.variant in LINES}))
    axes.set(xlabel=f"n, with {PARAMETERS / 1e6:.1f} million parameters")


def ratio_against_parameters(rows: list[Row], axes: Axes) -> None:
    """From calls that are all overhead to arrays that fit in no cache."""
    _lines(axes, (row for row in rows if row.n == 10), lambda row: row.parameters)
    axes.set(xlabel="parameters in 16 arrays, with n = 10")


def bytes_per_parameter(axes: Axes) -> None:
    """What the delay costs in memory, from init alone."""
    params = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    delays = range(2, 81)
    for variant in ("none", "max", "max, bfloat16 queue", "none, hopping", "max, hopping"):
        sizes = [state_bytes(adashift(variant, n)(), params) / params.size for n in delays]
        axes.plot(delays, sizes, label=variant)
    adam = state_bytes(optax.scale_by_adam(), params) / params.size
    axes.axhline(adam, color="black", linestyle=":", label="Adam")
    axes.set(xscale="log", yscale="log", xlabel="n", ylabel="bytes of state per parameter")
    _ticks(axes.xaxis, (2, 5, 10, 20, 40, 80))
    _ticks(axes.yaxis, (4, 8, 16, 32, 64, 128, 256))
    axes.legend()


def fraction_of_bandwidth(rows: list[Row], axes: Axes) -> None:
    """Bytes that must be moved, per second, against a copy in place."""
    groups = [STEP, PROGRAMS, OTHERS, TORCH]
    shown = [row for group in groups for row in rows if row.group == group and row.moved > 0]
    colors = [f"C{groups.index(row.group)}" for row in shown]
    axes.barh(range(len(shown)), [row.bandwidth for row in shown], color=colors)
    axes.set_yticks(range(len(shown)), [row.name for row in shown], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xlabel="bytes a step must move, per second / bandwidth of a copy in place")
