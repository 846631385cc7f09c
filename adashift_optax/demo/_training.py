"""Training the network with every optimizer, learning rate and seed."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from adashift_optax import adashift
from adashift_optax.demo._data import Dataset, Examples
from adashift_optax.demo._network import Network

OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "adashift": adashift,
    "adam": optax.adam,
    "amsgrad": optax.amsgrad,
    "adopt": optax.contrib.adopt,
}
LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
BATCH_SIZE = 64


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
