"""The demo's table and picture."""

import io
import math
import sys

import pandas as pd
import pytest
from demo_runs import comparison, rows

from adashift_optax.demo import _results, _table


def shown(monkeypatch, width, encoding="utf-8", seeds=(0, 1)):
    """The lines that are printed for a terminal of this width and encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", stream)
    _table.show(comparison(seeds=seeds), "digits")
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_table_fits_and_no_cell_is_cut(monkeypatch, encoding):
    lines = shown(monkeypatch, 80, encoding)
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("AdaShift")]
    plus_minus = "±" if encoding == "utf-8" else "+-"
    cells = f"0.0003  50.00% {plus_minus} 0.00%  0.500 {plus_minus} 0.354  1.00  2,642,408"
    assert row == f"AdaShift (max, n=10)  {cells}"
    assert lines == shown(monkeypatch, 20, encoding)  # the terminal wraps, no cell is cut


def test_a_spread_is_of_several_seeds(monkeypatch):
    for seeds, start in (((3,), "seeds: 1. "), ((0, 1), "seeds: 2; mean ± ")):
        lines = shown(monkeypatch, 100, seeds=seeds)
        assert lines[0].startswith(f"digits, epochs: 1, {start}")
        assert any("±" in line for line in lines) == (len(seeds) > 1)


def test_select_takes_the_last_epoch_and_never_a_diverged_run():
    losses = {0.1: (0.0, 5.0), 0.2: (3.0, 2.0), 0.3: (0.0, math.nan), 0.4: (0.0, math.inf)}
    cells = [(seed, epoch, rate) for seed in (0, 1) for epoch in (0, 1) for rate in losses]
    names = ("seed", "epoch", "learning_rate")
    table = rows(*(dict(zip(names, cell, strict=True)) for cell in cells))
    table["validation_loss"] = [losses[rate][epoch] / (1 + 2 * seed) for seed, epoch, rate in cells]
    table.loc[(table["learning_rate"] == 0.3) & (table["seed"] == 1), "validation_loss"] = 0.0
    selected = _results.select(pd.concat([table, table.assign(optimizer="adopt")]))
    assert [*selected] == ["adam", "adopt"]
    assert all(set(best["learning_rate"]) == {0.2} for best in selected.values())
