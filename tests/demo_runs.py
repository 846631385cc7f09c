"""What the tests of the demo share."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adashift_optax.demo import _training


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def row(**fields: Any) -> _training.Row:
    """A row of Adam: zeros, except for these fields."""
    values: dict[str, Any] = dict.fromkeys(_training.Row._fields, 0)
    values.update(optimizer="adam", steps_per_second=100.0)
    return _training.Row(**{**values, **fields})


def silent_report() -> Any:
    """In the place of a `Report`: says nothing, and is never interrupted."""
    names = ("check", "compiling", "training")
    return SimpleNamespace(**dict.fromkeys(names, lambda *_: None))
