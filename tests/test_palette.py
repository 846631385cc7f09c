"""An optimizer has one name and color in the demo, the notebooks, the benchmarks and the study."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt

from adashift_optax.demo._training import OPTIMIZERS
from benchmarks import optimizers
from benchmarks.evidence import picture

COMMON = Path(__file__).parent.parent / "notebooks" / "common.py"


def test_names_and_colors():
    with plt.rc_context():  # the file sets Matplotlib's look
        color = runpy.run_path(str(COMMON))["color"]
    colors = {o.label: o.color for o in OPTIMIZERS.values()}
    assert colors == {label: color(label) for label in colors}
    assert len(set(colors.values())) == len(colors)
    ours = OPTIMIZERS["adashift_factored"]
    assert (ours.label, ours.color) == (optimizers.FACTORED, picture.OURS)
