"""The rows of a comparison: which of them count, and how files are written."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def over_seeds(rows: pd.DataFrame, field: str) -> tuple[pd.Series, pd.Series]:
    """Return mean and standard deviation of a field over the seeds, one value per epoch."""
    values = rows.pivot(index="epoch", columns="seed", values=field)
    several = min(1, values.shape[1] - 1)  # the deviation of a single seed is 0
    return values.mean(axis=1, skipna=False), values.std(axis=1, skipna=False, ddof=several)


def select(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return each optimizer's rows at the learning rate with the least final validation loss."""
    last = rows[rows["epoch"] == rows["epoch"].max()]
    losses = last.fillna({"validation_loss": np.inf})  # a diverged run, with NaN, never wins
    table = losses.pivot_table("validation_loss", "optimizer", "learning_rate", sort=False)
    best = zip(table.index, table.idxmin(axis=1), strict=True)
    return {o: rows.query("optimizer == @o and learning_rate == @rate") for o, rate in best}


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file such that readers see all of it, or what was there before."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
