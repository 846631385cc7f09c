"""The pages of the benchmarks show what the kept CSV files say; the timing is right."""

import re
import time

import pytest

pytest.importorskip("pandas")

import pandas as pd
from matplotlib.text import Text

from benchmarks import tables
from benchmarks.optimizers import CONTROLS, EVERY, OURS, RIVALS
from benchmarks.speed.timing import Settings, interleave, ratios


def test_the_pages_are_what_the_files_say():
    for path, text in tables.pages().items():
        assert path.read_text(encoding="utf-8") == text, "run python -m benchmarks.tables"
        assert not re.search(r"\bnan\b|\| +\|", text), path  # each cell has a number or a text
    for name, figure in tables.report.pictures().items():
        drawn = (tables.DOCS / name).read_text(encoding="utf-8")
        assert not [x for t in figure.findobj(Text) if (x := t.get_text()) not in drawn], name


def test_every_row_is_in_the_tables_of_the_readmes():
    for folder, rows in ("speed", RIVALS | OURS), ("compiled", EVERY):
        text = (tables.HERE / folder / "README.md").read_text(encoding="utf-8")
        assert not [name for name in rows if f"| {name} |" not in text], folder
    assert not OURS.keys() & RIVALS.keys() | OURS.keys() & CONTROLS.keys()


def test_adam_is_one_and_moves_28_bytes():
    """Gradient, and parameter, m and v read and written."""
    adam = tables.compiled().query("optimizer == 'Adam'")
    assert set(adam[adam.program.str.startswith("update")].moved.round(1)) == {28.0}
    for path in tables.machines():
        assert set(pd.read_csv(path).query("optimizer == 'Adam'").ratio) == {1.0}


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
        assert (seconds.shape, all(seconds["slow"] > seconds["fast"])) == ((3, 2), True)
        assert sorted(calls) == sorted((n, k) for n in runs for k in (2, *(lengths * 3)))
