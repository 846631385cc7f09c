"""``python -m adashift_optax`` with small budgets."""

import contextlib
import io
import math
import os
import re
import struct
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from demo_runs import read_csv, row, silent_report
from flax import nnx
from image_files import write_cifar10, write_mnist

from adashift_optax.__main__ import main
from adashift_optax.demo import _data, _network, _results, _training

EPOCHS = 6
RATES = len(_training.LEARNING_RATES)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("standard_promotion")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run two optimizers on the digits; return exit code, outputs, folder and CSV rows."""
    folder = tmp_path_factory.mktemp("finished") / "new" / "runs"
    out, err = io.StringIO(), io.StringIO()
    args = ["--optimizers", "adashift-max", "adam", "adam", "--epochs", str(EPOCHS), "--seeds", "2"]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*args, "--output", str(folder)])
    rows = read_csv(folder / "digits.csv")
    return SimpleNamespace(
        code=code, out=out.getvalue(), err=err.getvalue(), folder=folder, rows=rows
    )


def test_csv_has_a_finite_row_per_optimizer_rate_seed_and_epoch(finished):
    assert finished.code == 0
    assert tuple(finished.rows[0]) == _training.Row._fields
    keys = [
        (r["optimizer"], float(r["learning_rate"]), int(r["seed"]), int(r["epoch"]))
        for r in finished.rows
    ]
    assert keys == [
        (name, rate, seed, epoch)
        for rate in _training.LEARNING_RATES
        for seed in (0, 1)
        for name in ("adashift-max", "adam")
        for epoch in range(1, EPOCHS + 1)
    ]
    for r in finished.rows:
        numbers = {field: float(r[field]) for field in _training.Row._fields[1:]}
        assert all(math.isfinite(number) for number in numbers.values())
        # Fractions of 288 and 360 images.
        assert round(288 * numbers["validation_accuracy"], 3) in range(289)
        assert round(360 * numbers["test_accuracy"], 3) in range(361)
        assert numbers["steps_per_second"] > 0


def test_table_reports_the_rate_with_the_least_validation_loss(finished):
    last = [r for r in finished.rows if int(r["epoch"]) == EPOCHS]
    for name in ("adashift-max", "adam"):
        of_rate = {
            rate: [r for r in last if r["optimizer"] == name and float(r["learning_rate"]) == rate]
            for rate in _training.LEARNING_RATES
        }
        best = min(
            of_rate, key=lambda rate: sum(float(r["validation_loss"]) for r in of_rate[rate])
        )
        accuracies = [float(r["test_accuracy"]) for r in of_rate[best]]
        losses = [float(r["test_loss"]) for r in of_rate[best]]
        assert min(accuracies) > 0.8
        speed, adam = (
            np.median([float(r["steps_per_second"]) for r in finished.rows if r["optimizer"] == o])
            for o in (name, "adam")
        )
        label = _training.OPTIMIZERS[name].label
        (line,) = [line for line in finished.out.splitlines() if line.startswith(label)]
        assert re.split("  +", line) == [
            label,
            f"{best:g}",
            f"{np.mean(accuracies):.2%} ± {np.std(accuracies, ddof=1):.2%}",
            f"{np.mean(losses):.3f} ± {np.std(losses, ddof=1):.3f}",
            f"{adam / speed:.2f}",
            f"{int(of_rate[best][0]['state_bytes']):,}",
        ]


def test_state_bytes_are_those_of_the_optimizers(finished):
    _, params = nnx.split(_network.Network((8, 8, 1), nnx.Rngs(0)))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    state_bytes = {r["optimizer"]: int(r["state_bytes"]) for r in finished.rows}
    assert state_bytes["adam"] == 2 * size + 4
    assert 10 * size < state_bytes["adashift-max"] < 13 * size


def test_only_whole_files_are_left(finished):
    assert sorted(path.name for path in finished.folder.iterdir()) == ["digits.csv", "digits.png"]
    png = (finished.folder / "digits.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (1200, 960)
    assert str(finished.folder / "digits.csv") in finished.out
    assert str(finished.folder / "digits.png") in finished.out


def test_progress_is_plain_lines_where_there_is_no_terminal(finished):
    lines = finished.err.splitlines()
    assert lines[:3] == [
        "compiling the network ...",
        "compiling AdaShift (max, n=10) ...",
        "compiling Adam ...",
    ]
    runs = 2 * 2 * RATES
    assert lines[-1] == f"{runs} of {runs} runs done"
    assert (finished.out + finished.err).replace("±", "").replace("\n", "").isprintable()


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_other_datasets_train(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(_training, "LEARNING_RATES", (0.01,))
    (write_mnist if dataset == "mnist" else write_cifar10)(tmp_path)
    args = ["--dataset", dataset, "--data-dir", str(tmp_path), "--optimizers", "adopt", "amsgrad"]
    assert main([*args, "--epochs", "1", "--seeds", "1", "--output", str(tmp_path / "runs")]) == 0
    rows = read_csv(tmp_path / "runs" / f"{dataset}.csv")
    assert [r["optimizer"] for r in rows] == ["adopt", "amsgrad"]
    assert all(math.isfinite(float(r["test_loss"])) for r in rows)


def test_seeds_repeat_and_differ_and_one_compilation_serves_the_grid(monkeypatch):
    monkeypatch.setattr(_training, "LEARNING_RATES", (0.001, 0.01))
    train_epoch, lowered = _training.train_epoch, []

    def lower(*args):
        lowered.append(args)
        return train_epoch.lower(*args)

    monkeypatch.setattr(_training, "train_epoch", SimpleNamespace(lower=lower))
    data = _data.load("digits")
    runs = [list(_training.compare(data, ["adam"], 1, 2, silent_report())) for _ in range(2)]
    assert len(lowered) == len(runs)
    numbers = [[rows[0][4:9] for rows in run] for run in runs]
    assert numbers[0] == numbers[1]
    assert len(set(numbers[0])) == 4


@pytest.mark.parametrize(("module", "name"), [(nnx, "Rngs"), (np.random, "default_rng")])
def test_seeds_vary_both_initialization_and_order(monkeypatch, module, name):
    data = _data.load("digits")
    original = getattr(module, name)
    monkeypatch.setattr(_training, "LEARNING_RATES", (0.01,))
    monkeypatch.setattr(module, name, lambda seed: original(0))
    runs = _training.compare(data, ["adam"], 1, 2, silent_report())
    assert len({rows[0].train_loss for rows in runs}) == 2


def test_every_optimizer_gets_clipped_gradients(monkeypatch):
    sgd = _training.Optimizer("SGD", optax.sgd)
    monkeypatch.setitem(_training.OPTIMIZERS, "sgd", sgd)
    optimizer = _training.make_optimizer("sgd", 0.5)
    grads = jnp.array([30.0, 40.0], jnp.float32)
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    np.testing.assert_allclose(jnp.asarray(updates), [-0.3, -0.4], rtol=1e-6)


def test_select_takes_the_last_epoch_and_never_a_diverged_run():
    rows = [
        row(learning_rate=rate, seed=seed, epoch=epoch, validation_loss=loss)
        for rate, losses in {0.1: (0.0, 5.0), 0.2: (3.0, 2.0), 0.3: (0.0, math.nan)}.items()
        for seed in (0, 1)
        for epoch, loss in enumerate(losses, 1)
    ]
    assert {r.learning_rate for r in _results.select(rows)["adam"]} == {0.2}


def test_mean_and_deviation_over_seeds():
    rows = [
        row(seed=seed, epoch=epoch, test_loss=10.0 * epoch + seed)
        for seed in (1, 3)
        for epoch in (1, 2)
    ]
    mean, deviation = _results.over_seeds(rows, "test_loss")
    assert mean.tolist() == [12, 22]
    np.testing.assert_allclose(deviation, np.sqrt([2, 2]))
    assert _results.over_seeds(rows[:2], "test_loss")[1].tolist() == [0, 0]


def test_failed_write_leaves_the_file_of_before(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    path = tmp_path / "digits.csv"
    _results.write_whole(path, b"before")
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        _results.write_whole(path, b"after")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]
