"""The paper's MNIST figures: their plan, the script that runs it, and the results that are kept."""

import json
import math

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("tokenizers")

from image_files import write_mnist
from scipy.special import log_softmax

from benchmarks.evidence import results
from benchmarks.evidence.paper import FILE, Runner, digits, mnist, work
from benchmarks.evidence.paper_plan import SETTINGS, VERSION, Cell, Setting, cells, optimizers
from benchmarks.evidence.task import generator

pytestmark = pytest.mark.all_only
TINY = {"tiny": Setting("mlp", (4,), 8, 2, 0.0, 10, 1e-8, (0.3, 0.1), 0.1, (0, 1))}
SIZE, INPUTS = 20, 6


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    of = {"train": SIZE, "test": 10}
    return {
        part: (rng.random((size, INPUTS), np.float32), rng.integers(0, 10, size, np.int32))
        for part, size in of.items()
    }


@pytest.fixture(scope="module")
def runner(data):
    return Runner(TINY, data)


def test_each_run_is_planned_once_and_the_papers_rates_have_several_seeds():
    planned = cells(SETTINGS)
    assert len(set(planned)) == len(planned)
    # The rates that the authors published.
    paper = {"Adam": 1e-3, "AMSGrad": 1e-3, "AdaShift (none": 1e-3, "AdaShift (max": 1e-2}
    for name, setting in SETTINGS.items():
        for optimizer in optimizers(setting):
            mine = [c for c in planned if c[:2] == (name, optimizer)]
            seeds = [c.seed for c in mine]
            rates = sorted({c.rate for c in mine})
            assert rates[2] / rates[0] == pytest.approx(10)
            at_paper = [c.seed for c in mine if c.rate == rates[1]]
            assert len(at_paper) == len(set(seeds)) == len(mine) - 2 >= 2
            wanted = [rate for label, rate in paper.items() if optimizer.startswith(label)]
            assert rates[1] == (wanted or [setting.sgd])[0]


def test_a_run_of_sgd_is_that_of_numpy(data, runner):
    cell = Cell("tiny", "SGD", 0.1, 1)
    found = runner(cell)

    rng = generator("mlp", 1)
    layers = []
    for sizes in ((INPUTS, 4), (4, 10)):
        matrix = 0.3 * rng.standard_normal(sizes)
        layers += [matrix, 0.1 * rng.standard_normal(sizes[1])]
    (x, y), (x_test, y_test) = data["train"], data["test"]
    losses, accuracies = [], []
    for _ in range(2):
        of_epoch = []
        for rows in rng.permutation(SIZE)[:16].reshape(2, 8):
            w1, b1, w2, b2 = layers
            hidden = x[rows] @ w1 + b1
            logs = log_softmax(hidden @ w2 + b2, axis=1)
            of_epoch.append(-logs[np.arange(8), y[rows]].mean())
            out = (np.exp(logs) - np.eye(10)[y[rows]]) / 8
            back = out @ w2.T
            grads = [x[rows].T @ back, back.sum(0), hidden.T @ out, out.sum(0)]
            layers = [p - 0.1 * g for p, g in zip(layers, grads, strict=True)]
        losses.append(np.mean(of_epoch))
        w1, b1, w2, b2 = layers
        accuracies.append(np.mean(((x_test @ w1 + b1) @ w2 + b2).argmax(1) == y_test))
    curve = json.loads(found.curve)
    np.testing.assert_allclose(curve["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(curve["accuracy"], accuracies, rtol=1e-5)
    assert found[:5] == (*cell, 4)
    assert (found.best, found.final) == pytest.approx((min(losses), losses[-1]))
    assert found.accuracy == pytest.approx(accuracies[-1])
    assert (found.diverged, found.state_bytes) == (False, 0)


def test_a_run_that_diverges_stops_and_is_written(runner, tmp_path):
    bad = Cell("tiny", "SGD", 1e38, 0)
    (record,) = work([bad], runner, tmp_path)
    assert record.diverged
    assert math.isnan(record.accuracy)
    assert json.loads(record.curve)["loss"] == [None]
    assert tuple(results.read(FILE, tmp_path).iloc[0, :4]) == bad
    assert digits([1.23456789, math.inf]) == [1.23457, None]


def test_all_training_images_are_used(tmp_path, monkeypatch):
    wanted = write_mnist(tmp_path)["train-images-idx3-ubyte"].reshape(-1, 784) / np.float32(255)
    monkeypatch.setenv("ADASHIFT_DATA", str(tmp_path))
    x, _ = mnist()["train"]
    np.testing.assert_array_equal(np.sort(x.sum(1)), np.sort(wanted.sum(1)))


def test_the_kept_results_are_those_of_the_plan():
    found = results.read(FILE)
    assert set(found.iloc[:, :4].itertuples(index=False, name=None)) == set(cells(SETTINGS))
    assert len(found) == len(cells(SETTINGS))
    assert set(found.plan) == {VERSION}
    assert len(set(found.data)) == 1
    for record in found.itertuples():
        curve = json.loads(record.curve)
        assert len(curve["loss"]) == len(curve["accuracy"]) <= SETTINGS[record.task].epochs
        assert record.diverged == math.isnan(record.accuracy)
