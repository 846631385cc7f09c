"""The pages of the benchmarks show what the kept CSV files say; the timing is right."""

import re
import time

import pytest

pytest.importorskip("pandas")

import pandas as pd

from benchmarks import tables
from benchmarks.optimizers import CONTROLS, EVERY, OURS, RIVALS
from benchmarks.speed.timing import Settings, interleave, ratios


def test_the_pages_are_what_the_files_say():
    for path, text in tables.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m benchmarks.tables"
        assert not re.search(r"\bnan\b|\| +\|", text), path  # each cell has a number or a text


def test_every_row_is_in_the_tables_of_the_readmes():
    for folder, rows in ("speed", RIVALS | OURS), ("compiled", EVERY):
        text = (tables.HERE / folder / "README.md").read_text(encoding="utf-8")
        for name in rows:
            assert f"| {name} |" in text, (folder, name)
    assert not OURS.keys() & RIVALS.keys() | OURS.keys() & CONTROLS.keys()


def test_adam_is_one_and_moves_28_bytes():
    """Gradient, and parameter, m and v read and written."""
    frame = tables.compiled()
    adam = frame[(frame["optimizer"] == "Adam") & frame["program"].str.startswith("update")]
    assert set(adam["moved"].round(1)) == {28.0}
    for path in tables.machines():
        times = pd.read_csv(path)
        assert set(times.loc[times["optimizer"] == "Adam", "ratio"]) == {1.0}


def test_ratios_are_taken_round_by_round():
    seconds = pd.DataFrame({"base": [1.0, 10.0, 2.0], "other": [2.0, 30.0, 8.0]})
    found = ratios(seconds, "base")
    assert found.loc["other"].to_dict() == {"low": 2.5, "ratio": 3.0, "high": 3.5}
    assert set(found.loc["base"]) == {1.0}


def test_every_run_is_timed_once_a_round():
    calls = []

    def run(name, seconds):
        return lambda steps: (calls.append((name, steps)), time.sleep(seconds * steps))

    runs = {"fast": run("fast", 0.001), "slow": run("slow", 0.01)}
    for lengths in (1,), (1, 3):
        calls.clear()
        seconds = interleave(runs, Settings(3, lengths, warm_up=2))
        assert seconds.shape == (3, 2)
        assert (seconds["slow"] > seconds["fast"]).all()
        assert sorted(calls) == sorted((n, k) for n in runs for k in (2, *(lengths * 3)))
