"""What the tests of the demo share."""

import contextlib
import io
import itertools
from types import SimpleNamespace

import pandas as pd

from adashift_optax.__main__ import main
from adashift_optax.demo import _training


def rows(*fields: dict) -> pd.DataFrame:
    """Rows of Adam: zeros, except for these fields."""
    values = {**dict.fromkeys(_training.COLUMNS, 0), "optimizer": "adam", "steps_per_second": 100.0}
    return pd.DataFrame([{**values, **some} for some in fields])


def comparison(names=tuple(_training.OPTIMIZERS), seeds=(0, 1), epochs=(1,)) -> pd.DataFrame:
    """Every optimizer at every rate, from each seed."""
    keys = itertools.product(_training.LEARNING_RATES, seeds, names, epochs)
    frame = pd.DataFrame(keys, columns=["learning_rate", "seed", "optimizer", "epoch"])
    measured = {"train_loss": 0.1, "test_accuracy": 0.5, "state_bytes": 2_642_408}
    frame = frame.assign(test_loss=0.25 + 0.5 * frame["seed"], **measured)
    return rows(*frame.to_dict("records"))


def run(*args: object) -> SimpleNamespace:
    """Run the demo; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(arg) for arg in args])
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())
