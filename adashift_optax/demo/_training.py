"""The demo: AdaShift next to Adam, AMSGrad and ADOPT on a small image classifier."""

import csv
import io
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table

from adashift_optax import adashift
from adashift_optax.demo._data import CLASSES, Dataset, Examples, load

OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adashift": adashift,
    "adam": optax.adam,
    "amsgrad": optax.amsgrad,
    "adopt": optax.contrib.adopt,
}
LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
EPOCHS = {"digits": 30, "mnist": 3, "cifar10": 5}
BATCH_SIZE = 64


class Network(nnx.Module):
    """Two hidden layers of 64; images in color pass two strided convolutions first."""

    def __init__(self, shape: tuple[int, ...], rngs: nnx.Rngs) -> None:
        height, width, channels = shape
        self.convolutions = nnx.List()
        if channels > 1:  # coarse patches, because convolutions are what is slow on a CPU
            self.convolutions.append(nnx.Conv(channels, 16, (4, 4), strides=4, rngs=rngs))
            self.convolutions.append(nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs))
            height, width, channels = -(-height // 8), -(-width // 8), 32
        self.hidden1 = nnx.Linear(height * width * channels, 64, rngs=rngs)
        self.hidden2 = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the logits of images (N, height, width, channels)."""
        for convolution in self.convolutions:
            x = nnx.relu(convolution(x))
        x = nnx.relu(self.hidden1(x.reshape(len(x), -1)))
        return self.out(nnx.relu(self.hidden2(x)))


class Row(NamedTuple):
    """One epoch of one run: a line of the CSV file."""

    optimizer: str
    learning_rate: float
    seed: int
    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    test_loss: float
    test_accuracy: float
    steps_per_second: float
    state_bytes: int


def make_optimizer(name: str, learning_rate: Any) -> optax.GradientTransformation:
    """Return the named optimizer behind the gradient clipping that all of them share."""
    return optax.chain(optax.clip_by_global_norm(1.0), OPTIMIZERS[name](learning_rate))


@partial(jax.jit, static_argnums=0)
def evaluate(graphdef: Any, params: Any, examples: Examples) -> tuple[jax.Array, jax.Array]:
    """Return the mean cross-entropy and the fraction of right answers."""
    logits = nnx.merge(graphdef, params)(examples.images)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, examples.labels)
    return losses.mean(), jnp.mean(logits.argmax(-1) == examples.labels, dtype=jnp.float32)


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=2)
def train_epoch(
    name: str, graphdef: Any, carry: Any, rate: jax.Array, examples: Examples, order: jax.Array
) -> tuple[Any, jax.Array]:
    """Train on each batch, a row of indices in `order`, from `carry`: parameters and state."""
    optimizer = make_optimizer(name, rate)
    loss_and_grads = jax.value_and_grad(evaluate, argnums=1, has_aux=True)

    def step(carry: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        batch_examples = jax.tree.map(lambda array: array[batch], examples)
        (loss, _), grads = loss_and_grads(graphdef, params, batch_examples)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    carry, losses = jax.lax.scan(step, carry, order)
    return carry, losses.mean()


def compare(
    data: Dataset, names: list[str], epochs: int, seeds: int, stop: threading.Event
) -> Iterator[list[Row]]:
    """Train each optimizer at each learning rate from each seed; yield the rows of each run."""
    train, validation, test = jax.tree.map(jnp.asarray, data)
    size = len(train.labels)
    steps = max(1, size // BATCH_SIZE)
    inits = {name: jax.jit(make_optimizer(name, LEARNING_RATES[0]).init) for name in names}
    programs = {}  # neither these nor the states depend on the learning rate
    # All optimizers in turn, so that the load of the machine is the same for their speeds.
    for learning_rate, seed, name in itertools.product(LEARNING_RATES, range(seeds), names):
        graphdef, params = nnx.split(Network(train.images.shape[1:], nnx.Rngs(seed)))
        carry = params, inits[name](params)
        state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(carry[1]))
        rng = np.random.default_rng(seed)
        rows = []
        for epoch in range(1, epochs + 1):
            if stop.is_set():
                raise KeyboardInterrupt
            order = rng.permutation(size)[: steps * BATCH_SIZE].reshape(steps, -1)
            inputs = (jnp.float32(learning_rate), train, jnp.asarray(order, jnp.int32))
            if name not in programs:  # once for all rates, and not as part of the measured speed
                programs[name] = train_epoch.lower(name, graphdef, carry, *inputs).compile()
            start = time.perf_counter()
            carry, loss = jax.block_until_ready(programs[name](carry, *inputs))
            speed = steps / (time.perf_counter() - start)
            metrics = [evaluate(graphdef, carry[0], part) for part in (validation, test)]
            numbers = [float(number) for number in (loss, *metrics[0], *metrics[1])]
            row = [name, learning_rate, seed, epoch, *numbers, speed, state_bytes]
            rows.append(Row._make(row))
        yield rows


def over_seeds(rows: list[Row], field: str) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of a field over the seeds, one value per epoch."""
    epochs = max(row.epoch for row in rows)
    values = np.array([getattr(row, field) for row in rows]).reshape(-1, epochs)
    return values.mean(0), values.std(0, ddof=min(1, len(values) - 1))  # 0 for a single seed


def select(rows: list[Row]) -> dict[str, list[Row]]:
    """Return each optimizer's rows at the learning rate with the least final validation loss."""

    def final_loss(group: list[Row]) -> Any:  # a diverged run, with NaN, never wins
        return np.nan_to_num(over_seeds(group, "validation_loss")[0][-1], nan=np.inf)

    groups: dict[str, dict[float, list[Row]]] = {}
    for row in rows:
        groups.setdefault(row.optimizer, {}).setdefault(row.learning_rate, []).append(row)
    return {name: min(rates.values(), key=final_loss) for name, rates in groups.items()}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file such that readers see all of it, or what was there before."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save_csv(rows: list[Row], path: Path) -> None:
    """Write the rows under a header line."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([Row._fields, *rows])
    write_whole(path, text.getvalue().encode())


def save_figure(selected: dict[str, list[Row]], title: str, path: Path) -> None:
    """Draw the curves of each optimizer at its selected learning rate."""
    figure = Figure(figsize=(10, 4), dpi=100, layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    for axes, field in ((losses, "train_loss"), (accuracies, "test_accuracy")):
        for name, rows in selected.items():
            mean, spread = over_seeds(rows, field)
            epochs = np.arange(1, len(mean) + 1)
            (line,) = axes.plot(epochs, mean, label=f"{name}, lr {rows[0].learning_rate:g}")
            low = np.maximum(mean - spread, mean / 10)  # above 0, for the logarithmic axis
            axes.fill_between(epochs, low, mean + spread, color=line.get_color(), alpha=0.15)
        axes.set(xlabel="epoch", ylabel=field.replace("_", " "))
        axes.grid(alpha=0.3)
    losses.set_yscale("log")
    # Without the first tenth, whose climb would squeeze the rest.
    accuracies.set_ylim(bottom=min(np.quantile(a.get_ydata(), 0.1) for a in accuracies.lines))
    accuracies.legend(loc="lower right")
    figure.suptitle(title)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_whole(path, content.getvalue())


def make_table(rows: list[Row], title: str) -> Table:
    """Return the comparison: mean ± standard deviation over seeds at the end, median speed."""
    headers = ("lr", "test accuracy", "test loss", "steps/s", "state bytes")
    table = Table("optimizer", *(Column(h, justify="right") for h in headers), title=title)
    for name, best in select(rows).items():
        accuracy, accuracy_spread = (values[-1] for values in over_seeds(best, "test_accuracy"))
        loss, loss_spread = (values[-1] for values in over_seeds(best, "test_loss"))
        speeds = [row.steps_per_second for row in rows if row.optimizer == name]
        table.add_row(
            name,
            f"{best[0].learning_rate:g}",
            f"{accuracy:.2%} ± {accuracy_spread:.2%}",
            f"{loss:.4f} ± {loss_spread:.4f}",
            f"{np.median(speeds):,.0f}",
            f"{best[0].state_bytes:,}",
        )
    return table


def run(
    names: list[str], epochs: int, seeds: int, dataset: str, data_dir: Path | None, output: Path
) -> int:
    """Run the comparison, write its files, print its table; return the exit code."""
    total = len(names) * len(LEARNING_RATES) * seeds
    numbers, curves = output / f"{dataset}.csv", output / f"{dataset}.png"
    rows: list[Row] = []
    stop = threading.Event()
    # Raised in the middle of JAX's or NumPy's own code, a KeyboardInterrupt can be lost or crash.
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        data = load(dataset, data_dir)
        output.mkdir(parents=True, exist_ok=True)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("training", total=total)
            for finished in compare(data, names, epochs, seeds, stop):
                rows += finished
                save_csv(rows, numbers)
                curves.unlink(missing_ok=True)  # those of an earlier comparison
                progress.update(task, advance=1, description=finished[0].optimizer)
        title = f"{dataset}, {seeds} seed(s), {epochs} epoch(s), learning rate by validation loss"
        save_figure(select(rows), title, curves)
    except KeyboardInterrupt:
        where = f"see {numbers}" if rows else "nothing written"
        print(f"interrupted: {len(rows) // epochs} of {total} runs done, {where}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, previous)
    Console().print(make_table(rows, title))
    print(f"wrote {numbers} and {curves}")
    return 0
