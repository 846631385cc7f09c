"""How the demo prints its table, and how it draws its picture."""

import io
import sys

import numpy as np
import pytest
from demo_runs import row

from adashift_optax.demo import _picture, _results, _table, _training


def rows(seeds=(0, 1)):
    """One epoch of every optimizer, at every rate, from each seed."""
    return [
        row(
            optimizer=name,
            learning_rate=rate,
            seed=seed,
            epoch=1,
            train_loss=0.1,
            test_loss=0.25 + 0.5 * seed,
            test_accuracy=0.5,
            state_bytes=2_642_408,
        )
        for name in _training.OPTIMIZERS
        for rate in _training.LEARNING_RATES
        for seed in seeds
    ]


def shown(monkeypatch, width, encoding="utf-8", seeds=(0, 1)):
    """The lines that are printed for a terminal of this width and encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", stream)
    _table.show(rows(seeds), "digits")
    stream.flush()
    return stream.buffer.getvalue().decode(encoding).splitlines()


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_table_fits_and_no_cell_is_cut(monkeypatch, width, encoding):
    lines = shown(monkeypatch, width, encoding)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for word in ("2,642,408", "50.00%", "0.500", "0.354", "0.0003", "1.00", "n=10)", "ema)"):
        assert words.count(word) > 0, word
    assert words.count("±" if encoding == "utf-8" else "+-") == 2 * len(_training.OPTIMIZERS) + 1
    assert lines == [line.rstrip() for line in lines]


def test_rows_are_of_one_line_where_there_is_room(monkeypatch):
    wide = [line for line in shown(monkeypatch, 80) if line.startswith("AdaShift")]
    assert [line[:25].rstrip() for line in wide] == [
        "AdaShift (factored, ema)",
        "AdaShift (max, n=10)",
    ]
    assert wide[0].endswith("50.00% ± 0.00%  0.500 ± 0.354  1.00  2,642,408")
    assert shown(monkeypatch, 20) == shown(monkeypatch, 60)  # the terminal wraps, no cell is cut


@pytest.mark.parametrize(
    ("seeds", "start"), [((3,), "digits: 1 seed, 1 epoch."), ((0, 1), "digits: 2 seeds, 1 epoch; ")]
)
def test_a_spread_is_of_several_seeds(monkeypatch, seeds, start):
    lines = shown(monkeypatch, 100, seeds=seeds)
    assert lines[0].startswith(start)
    assert any("±" in line for line in lines) == (len(seeds) > 1)


def test_names_move_apart_no_further_than_needed():
    heights = np.array([0.5, 0.1, 0.5, 0.99])
    apart = _picture.spread_out(heights, 0.1)
    np.testing.assert_allclose(apart, [0.45, 0.1, 0.55, 0.99])
    crowd = _picture.spread_out(np.full(5, 0.98), 0.1)
    np.testing.assert_allclose(crowd, [0.6, 0.7, 0.8, 0.9, 1.0])


def test_every_optimizer_has_a_color_of_its_own():
    assert list(_picture.COLORS) == list(_training.OPTIMIZERS)
    assert len(set(_picture.COLORS.values())) == len(_training.OPTIMIZERS)


def test_a_diverged_optimizer_leaves_the_picture_of_the_others(tmp_path):
    selected = _results.select(rows())
    selected["adam"] = [r._replace(train_loss=float("nan")) for r in selected["adam"]]
    _picture.save_figure(selected, "digits", tmp_path / "digits.png")
    assert (tmp_path / "digits.png").exists()
