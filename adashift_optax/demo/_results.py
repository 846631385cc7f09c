"""The rows of a comparison: which of them count, and their CSV file."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

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


def count(number: int, what: str) -> str:
    """Return a number and what is counted, such as "1 seed" and "5 seeds"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file such that readers see all of it, or what was there before."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def as_csv(rows: Iterable[Iterable[Any]]) -> str:
    """Return rows as lines of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
