"""An optimizer has one color in the demo, the notebooks, the plots of speed and the study."""

import ast
from pathlib import Path

import pytest

from adashift_optax.demo import _picture
from benchmarks import plots
from benchmarks.evidence import picture

COMMON = Path(__file__).parent.parent / "notebooks" / "common.py"
DEMO = {
    "adashift-factored": "AdaShift, factored",
    "adashift-max": "AdaShift",
    "adam": "Adam",
    "amsgrad": "AMSGrad",
    "adopt": "ADOPT",
}
PLOTS = {
    "none": "AdaShift, none",
    "max": "AdaShift",
    "none, hopping": "AdaShift, none, hopping",
    "max, hopping": "AdaShift, hopping",
    "factored, ema": "AdaShift, factored",
}


@pytest.fixture(scope="module")
def notebooks():
    """The colors of the notebooks, read without importing a file that sets Matplotlib's look."""
    tree = ast.parse(COMMON.read_text(encoding="utf-8"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    (colors,) = (a.value for a in assigned if ast.unparse(a.targets[0]) == "COLORS")
    return ast.literal_eval(colors)


def test_demo(notebooks):
    assert {name: notebooks[DEMO[name]] for name in DEMO} == _picture.COLORS


def test_plots(notebooks):
    others = {"max, bfloat16 queue": "#44AA99"}  # which no notebook draws
    assert {name: notebooks[PLOTS[name]] for name in PLOTS} | others == {
        name: style.color for name, style in plots.STYLES.items()
    }
    assert not set(others.values()) & set(notebooks.values())


def test_study(notebooks):
    assert notebooks["AdaShift"] == picture.OURS
