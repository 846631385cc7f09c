"""``python -m adashift_optax``: what it trains, writes and prints."""

import itertools
import re
import signal
import struct
import subprocess
import sys
import time

import jax
import numpy as np
import pandas as pd
import pytest
from demo_runs import run
from flax import nnx

from adashift_optax.demo import _data, _network, _report, _training

EPOCHS, SEEDS, RATES = 3, 2, (0.001, 0.01)
NAMES = ("adashift_factored", "adam")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two optimizers on the digits: exit code, outputs, folder and the rows of the CSV file."""
    folder = tmp_path_factory.mktemp("finished") / "new" / "runs"
    numbers = ("--epochs", EPOCHS, "--seeds", SEEDS, "--output", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_training, "LEARNING_RATES", RATES)
        done = run("--optimizers", *NAMES, NAMES[0], *numbers)
    done.folder, done.rows = folder, pd.read_csv(folder / "digits.csv")
    return done


def test_csv_has_a_finite_row_per_optimizer_rate_seed_and_epoch(finished):
    rows = finished.rows
    assert finished.code == 0
    assert tuple(rows.columns) == _training.COLUMNS
    keys = rows[["learning_rate", "seed", "optimizer", "epoch"]].itertuples(index=False, name=None)
    assert [*keys] == [*itertools.product(RATES, range(SEEDS), NAMES, range(1, EPOCHS + 1))]
    assert np.isfinite(rows.select_dtypes("number").to_numpy()).all()
    for part, images in (("validation", 288), ("test", 360)):
        right = images * rows[f"{part}_accuracy"]
        np.testing.assert_allclose(right, right.round(), atol=1e-3)
    assert (rows["steps_per_second"] > 0).all()
    _, params = nnx.split(_network.Network((8, 8, 1), nnx.Rngs(0)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert size < rows["state_bytes"][0] < 1.1 * size  # adashift_factored
    assert rows["state_bytes"][EPOCHS] == 2 * size + 4  # Adam


def test_table_reports_the_rate_with_the_least_validation_loss(finished):
    rows, last = finished.rows, finished.rows[finished.rows["epoch"] == EPOCHS]
    times = {o: np.median(1 / rows["steps_per_second"][rows["optimizer"] == o]) for o in NAMES}
    for name in NAMES:
        ours = last[last["optimizer"] == name]
        of_rate = {rate: ours[ours["learning_rate"] == rate] for rate in RATES}
        best = min(of_rate, key=lambda rate: sum(of_rate[rate]["validation_loss"]))
        accuracies, losses = (of_rate[best][f"test_{what}"] for what in ("accuracy", "loss"))
        assert min(accuracies) > 0.8
        label = _training.OPTIMIZERS[name].label
        (line,) = [line for line in finished.out.splitlines() if line.startswith(label)]
        assert re.split("  +", line.strip()) == [
            label,
            f"{best:g}",
            f"{accuracies.mean():.2%} ± {accuracies.std():.2%}",
            f"{losses.mean():.3f} ± {losses.std():.3f}",
            f"{times[name] / times['adam']:.2f}",
            f"{of_rate[best]['state_bytes'].iloc[0]:,}",
        ]


def test_only_whole_files_are_left_and_progress_is_plain_lines(finished):
    assert sorted(path.name for path in finished.folder.iterdir()) == ["digits.csv", "digits.png"]
    png = (finished.folder / "digits.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (1200, 960)
    assert re.search(r"^wrote \S+digits\.csv and \S+digits\.png$", finished.out, re.M)
    names = ("the network", *(_training.OPTIMIZERS[name].label for name in NAMES))
    lines = finished.err.splitlines()
    assert lines[:3] == [f"compiling {name} ..." for name in names]
    assert lines[-1] == "8 of 8 runs done"
    assert (finished.out + finished.err).replace("±", "").replace("\n", "").isprintable()


def test_a_seed_repeats_its_runs_and_one_compilation_serves_the_grid(finished, monkeypatch):
    lowered, train_epoch = [], _training.train_epoch

    class Counted:
        def lower(*args):
            lowered.append(args)
            return train_epoch.lower(*args)

    monkeypatch.setattr(_training, "train_epoch", Counted)
    monkeypatch.setattr(_training, "LEARNING_RATES", RATES)
    data, report = _data.load("digits"), _report.Report(1)
    again = pd.concat(_training.compare(data, ["adam"], EPOCHS, SEEDS, report))
    assert len(lowered) == 1
    measured = list(_training.COLUMNS[:9])
    before = finished.rows[finished.rows["optimizer"] == "adam"]
    np.testing.assert_array_equal(again[measured].to_numpy(), before[measured].to_numpy())


def test_batches_are_of_a_seed_and_have_each_example_once():
    one, other = (_training.make_orders(150, 2, seed) for seed in (1, 2))
    assert len({tuple(np.ravel(order)) for order in (*one, *other)}) == 4
    for order in one:
        assert order.shape == (2, 64)
        assert len(set(np.ravel(order))) == 128


@pytest.mark.all_only
def test_ctrl_c_from_outside(tmp_path):
    """In a process of its own, while JAX trains."""
    command = [sys.executable, "-m", "adashift_optax", "--optimizers", "adam", "--output", tmp_path]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, **pipes) as demo:
        while not (tmp_path / "digits.csv").exists():
            assert demo.poll() is None
            time.sleep(0.1)
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=60)
    assert (demo.returncode, out) == (130, "")
    (done,) = re.findall(r"^interrupted: (\d+) of 30 runs done, see ", err, re.M)
    rows = pd.read_csv(tmp_path / "digits.csv")
    assert len(rows) == 30 * int(done) > 0
    assert np.isfinite(rows["test_loss"]).all()
