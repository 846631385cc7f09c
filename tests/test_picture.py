"""The pictures of the study: where a row stands, and what its name says."""

import itertools
import json
import math

import pytest

pytest.importorskip("pandas")
pytest.importorskip("tokenizers")

import pandas as pd

from benchmarks.evidence import picture

pytestmark = pytest.mark.all_only


def test_a_row_stands_at_its_bytes_and_what_is_off_the_scale_says_so():
    means = pd.DataFrame(
        {"mean": [-0.01, 0.0, 0.001, 0.5, math.inf], "half": [0.002, *[math.nan] * 4]},
        index=["ours", "adam b1=0.5", "nadam b1=0.9", "muon", "paper max n=10"],
    )
    sizes = {"ours": 4.1, "adam b1=0.5": 8.0, "nadam b1=0.9": 8.0, "muon": 6.3}
    sizes["paper max n=10"] = 48.0
    (axes,) = picture.of_bytes(means, pd.Series(sizes)).axes
    places = {text.get_text(): text.get_position() for text in axes.texts}
    assert list(places) == [
        "ours",
        "adam b1=0.5",
        "nadam b1=0.9",
        "muon +65 %",
        "paper max n=10 (diverged)",
    ]
    columns = [round(x - 0.08, 6) for x, _ in places.values()]
    assert columns == [picture.PLACES[size] for size in (4, 8, 8, 8, 48)]
    low, high = axes.get_ylim()
    heights = sorted(y for x, y in places.values() if x == places["muon +65 %"][0])
    assert min(b - a for a, b in itertools.pairwise(heights)) >= 0.99 * (high - low) / 28
    assert [places["ours"][1]] == pytest.approx([100 * math.expm1(-0.01)])
    assert {text.get_text(): text.get_color() for text in axes.texts}["ours"] == picture.OURS


def test_the_curves_are_means_over_seeds():
    curves = [json.dumps([4.0, 3.0]), json.dumps([5.0, 4.0])]
    rows = pd.DataFrame({"optimizer": "ours", "steps": 20, "curve": curves})
    (axes,) = picture.curves(rows).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [10, 20]
    assert line.get_ydata().tolist() == [4.5, 3.5]
