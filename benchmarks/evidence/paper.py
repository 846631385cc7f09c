"""``python -m benchmarks.evidence.paper``: MNIST with the settings of the AdaShift paper.

Runs what is missing of the plan in plan.md ("The paper's figures") and writes each finished run
to ``paper.csv``.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.evidence import results
from benchmarks.evidence.images import real
from benchmarks.evidence.paper_plan import SETTINGS, VERSION, Cell, Setting, cells, optimizers
from benchmarks.evidence.results import Record
from benchmarks.evidence.run import pin
from benchmarks.evidence.task import cross_entropy, digest, generator

FILE = "paper"


def initial(setting: Setting, inputs: int, rng: np.random.Generator) -> list[dict[str, jax.Array]]:
    """Normal numbers."""
    layers = []
    for sizes in pairwise((inputs, *setting.hidden, 10)):
        of_matrix, of_bias = setting.spread or (sizes[0] ** -0.5, 0.0)
        matrix, bias = rng.standard_normal(sizes), rng.standard_normal(sizes[1])
        leaves = {"kernel": of_matrix * matrix, "bias": of_bias * bias}
        layers.append({k: jnp.asarray(x, jnp.float32) for k, x in leaves.items()})
    return layers


def logits(params: Any, x: jax.Array) -> jax.Array:
    """Linear layers, one after the other."""
    for layer in params:
        x = x @ layer["kernel"] + layer["bias"]
    return x


class Runner:
    """Runs cells. The program of a setting and an optimizer is compiled once."""

    def __init__(self, settings: dict[str, Setting], data: dict[str, Any]) -> None:
        self.settings = settings
        self.data = jax.tree.map(jnp.asarray, data)
        self.digest = digest(data)
        self.program = cache(self.compiled)

    def compiled(self, setting: str, optimizer: str) -> Any:
        """An epoch: the losses of its batches, and the test accuracy after them."""
        tx, _ = optimizers(self.settings[setting])[optimizer]

        def step(rate: jax.Array, data: Any, carry: Any, rows: jax.Array) -> Any:
            params, state = carry
            x, y = (array[rows] for array in data["train"])
            loss, grads = jax.value_and_grad(partial(cross_entropy, logits))(params, x, y)
            updates, state = tx.update(grads, state, params)
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            return (params, state), loss

        def epoch(carry: Any, rate: jax.Array, data: Any, batches: jax.Array) -> Any:
            carry, losses = jax.lax.scan(partial(step, rate, data), carry, batches)
            x, y = data["test"]
            right = jnp.mean(logits(carry[0], x).argmax(-1) == y, dtype=jnp.float32)
            return carry, losses, right

        return tx, jax.jit(epoch, donate_argnums=0)

    def __call__(self, cell: Cell) -> Record:
        """One run at a constant rate, until the mean loss of an epoch is not finite."""
        tx, epoch = self.program(cell.setting, cell.optimizer)
        setting, begin = self.settings[cell.setting], time.perf_counter()
        size, inputs = self.data["train"][0].shape
        per_epoch = size // setting.batch
        rng = generator(setting.model, cell.seed)
        params = initial(setting, inputs, rng)
        carry = params, tx.init(params)
        of_state, of_params = (sum(x.nbytes for x in jax.tree.leaves(tree)) for tree in carry[::-1])
        losses, accuracies, first = [], [], math.nan
        for _ in range(setting.epochs):
            rows = rng.permutation(size)[: per_epoch * setting.batch].astype(np.int32)
            batches = jnp.asarray(rows.reshape(per_epoch, setting.batch))
            carry, found, right = epoch(carry, jnp.float32(cell.rate), self.data, batches)
            first = first if losses else float(found[0])
            losses.append(float(found.mean()))
            accuracies.append(float(right))
            if not math.isfinite(losses[-1]):
                break
        diverged = not losses[-1] <= first
        best = min((x for x in losses if math.isfinite(x)), default=math.nan)
        accuracy = math.nan if diverged else accuracies[-1]
        seconds, bytes_ = time.perf_counter() - begin, 4 * of_state / of_params
        numbers = (best, losses[-1], accuracy, diverged, seconds, bytes_)
        curve = json.dumps({"loss": digits(losses), "accuracy": digits(accuracies)})
        return Record(*cell, setting.epochs * per_epoch, *numbers, VERSION, self.digest, curve)


def digits(numbers: list[float]) -> list[float | None]:
    """Six digits of each number; None for what is not finite."""
    return [float(f"{x:.6g}") if math.isfinite(x) else None for x in numbers]


def mnist() -> dict[str, Any]:
    """All 60,000 training images and the test images, as rows of numbers from 0 to 1."""
    train, validation, test = real("mnist")
    train = [np.concatenate(pair) for pair in zip(train, validation, strict=True)]
    return {k: (x.reshape(len(x), -1), y) for k, (x, y) in (("train", train), ("test", test))}


def finished(folder: Path) -> set[tuple[Any, ...]]:
    """The cells of this version of the plan that are in the file."""
    found = results.read(FILE, folder)
    cells = found[found.plan == VERSION].iloc[:, : len(Cell._fields)]
    return set(cells.itertuples(index=False, name=None))


def work(todo: list[Cell], runner: Runner, folder: Path) -> Iterator[Record]:
    """Run what is missing; each record is written before it is yielded."""
    results.check_data(FILE, runner.digest, folder)
    done = finished(folder)
    for cell in todo:
        if cell not in done:
            record = runner(cell)
            results.append(record, folder, FILE)
            yield record


def main() -> None:
    """Run the plan under a progress bar."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.paper")
    parser.add_argument("--folder", type=Path, default=results.FOLDER, help="where paper.csv is")
    folder = parser.parse_args().folder
    pin(0)
    todo = cells(SETTINGS)
    with tqdm(total=len(todo), initial=len(finished(folder) & set(todo)), unit="run") as bar:
        for record in work(todo, Runner(SETTINGS, mnist()), folder):
            bar.set_description(f"{record.task}, {record.optimizer}: {record.final:.4f}")
            bar.update()


if __name__ == "__main__":
    main()
