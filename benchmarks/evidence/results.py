"""The results: a CSV file for each task, a line for each finished run."""

import csv
import fcntl
import io
import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd

FOLDER = Path(__file__).parents[1] / "results" / "evidence"


class Record(NamedTuple):
    """A line. Losses are of validation; NaN where there is none.

    Attributes:
      best: the lowest loss.
      final: the last loss.
      accuracy: on the test set.
      diverged: whether a loss was not finite, or the last is above that of the start.
      state_bytes: per parameter.
      plan: the version of the plan.
      data: the digest of the task's data.
      curve: the loss after each tenth of the steps, a JSON list.
    """

    task: str
    optimizer: str
    rate: float
    seed: int
    steps: int
    best: float
    final: float
    accuracy: float
    diverged: bool
    seconds: float
    state_bytes: float
    plan: int
    data: str
    curve: str


def line(values: object) -> str:
    """A line of a CSV file, numbers with six digits."""
    text = io.StringIO()
    shown = (f"{x:.6g}" if isinstance(x, float) else x for x in values)
    csv.writer(text, lineterminator="\n").writerow(shown)
    return text.getvalue()


def append(record: Record, folder: Path = FOLDER, name: str | None = None) -> None:
    """Write a line at once, after whole lines: half a line that a killed process left is removed.

    The file has the name of the task, or `name`. A lock keeps two processes from writing at the
    same time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name or record.task}.csv").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        file.write(((line(Record._fields) if whole == 0 else "") + line(record)).encode())
        file.flush()
        os.fsync(file.fileno())


def read(task: str, folder: Path = FOLDER) -> pd.DataFrame:
    """The whole lines of a file, which has the name of its task."""
    path = folder / f"{task}.csv"
    text = path.read_bytes() if path.exists() else line(Record._fields).encode()
    whole = io.BytesIO(text[: text.rfind(b"\n") + 1])
    return pd.read_csv(whole, dtype={"diverged": bool, "data": str})


def check_data(task: str, data: str, folder: Path) -> None:
    """Runs on other data are not compared with those that are in `folder`."""
    others = set(read(task, folder).data) - {data}
    if others:
        raise SystemExit(
            f"{folder / task}.csv holds runs on other data: {', '.join(others)}; here they are "
            f"{data}. The text of Python and NumPy depends on their versions, the checkpoint of "
            "finetune_b on the machine: use those of the results, or another --folder."
        )
