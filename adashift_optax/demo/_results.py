"""What a comparison leaves: a CSV file, a picture of the curves, a table."""

import csv
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.table import Column, Table

from adashift_optax.demo._training import Row


def over_seeds(rows: list[Row], field: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of a field over the seeds, one value per epoch."""
    epochs = max(row.epoch for row in rows)
    values = np.array([getattr(row, field) for row in rows]).reshape(-1, epochs)
    return values.mean(0), values.std(0, ddof=min(1, len(values) - 1))  # 0 for a single seed


def select(rows: list[Row]) -> dict[str, list[Row]]:
    """Return each optimizer's rows at the learning rate with the least final validation loss."""

    def final_loss(group: list[Row]) -> Any:  # a diverged run, with NaN, never wins
        return np.nan_to_num(over_seeds(group, "validation_loss")[0][-1], nan=np.inf)

    groups: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.optimizer, {}).setdefault(row.learning_rate, []).append(row)
    return {name: min(rates.values(), key=final_loss) for name, rates in groups.items()}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file such that readers see all of it, or what was there before."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_csv(rows: list[Row], path: Path) -> None:
    """Write the rows under a header line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Row._fields, *rows])
    write_whole(path, text.getvalue().encode())


def save_figure(selected: dict[str, list[Row]], title: str, path: Path) -> None:
    """Draw the curves of each optimizer at its selected learning rate."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for axes, field in ((losses, "train_loss"), (accuracies, "test_accuracy")):
        for name, rows in selected.items():
            mean, spread = over_seeds(rows, field)
            epochs = np.arange(1, len(mean) + 1)
            (line,) = axes.plot(epochs, mean, label=f"{name}, lr {rows[0].learning_rate:g}")
            low = np.maximum(mean - spread, mean / 10)  # above 0, for the logarithmic axis
            axes.fill_between(epochs, low, mean + spread, color=line.get_color(), alpha=0.15)
        axes.set(xlabel="epoch", ylabel=field.replace("_", " "))
        axes.grid(alpha=0.3)
    losses.set_yscale("log")
    # Without the first tenth, whose climb would squeeze the rest.
    accuracies.set_ylim(bottom=min(np.quantile(a.get_ydata(), 0.1) for a in accuracies.lines))
    accuracies.legend(loc="lower right")
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def make_table(rows: list[Row], title: str) -> Table:
    """Return the comparison: mean ± standard deviation over seeds at the end, median speed."""
    headers = ("lr", "test accuracy", "test loss", "steps/s", "state bytes")
    table = Table("optimizer", *(Column(h, justify="right") for h in headers), title=title)
    for name, best in select(rows).items():
        accuracy, accuracy_spread = (values[-1] for values in over_seeds(best, "test_accuracy"))
        loss, loss_spread = (values[-1] for values in over_seeds(best, "test_loss"))
        speeds = [row.steps_per_second for row in rows if row.optimizer == name]
        table.add_row(
            name,
            f"{best[0].learning_rate:g}",
            f"{accuracy:.2%} ± {accuracy_spread:.2%}",
            f"{loss:.4f} ± {loss_spread:.4f}",
            f"{np.median(speeds):,.0f}",
            f"{best[0].state_bytes:,}",
        )
    return table
