"""Training the network with every optimizer, learning rate and seed."""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from flax import nnx

from adashift_optax import adashift, adashift_factored, state_bytes
from adashift_optax.demo._data import Dataset, Examples
from adashift_optax.demo._network import Network
from adashift_optax.demo._report import Report


class Optimizer(NamedTuple):
    """How tables and pictures show an optimizer, and how it is made from a learning rate."""

    label: str
    color: str
    make: Callable[[Any], optax.GradientTransformation]


# Okabe and Ito's colors, which the color-blind can tell apart; the notebooks have the same.
OPTIMIZERS = {
    "adashift_factored": Optimizer("adashift_factored", "#882255", adashift_factored),
    "adashift": Optimizer("AdaShift (max, n=10)", "#0072B2", adashift),
    "adam": Optimizer("Adam", "#000000", optax.adam),
    "amsgrad": Optimizer("AMSGrad", "#E69F00", optax.amsgrad),
    "adopt": Optimizer("ADOPT", "#009E73", optax.contrib.adopt),
}
LEARNING_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
BATCH_SIZE = 64
RUN = ("optimizer", "learning_rate", "seed", "epoch")
MEASURED = ("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy")
COLUMNS = (*RUN, *MEASURED, "steps_per_second", "state_bytes")  # of the CSV file: a row is an epoch


def make_optimizer(name: str, learning_rate: Any) -> optax.GradientTransformation:
    """Return the named optimizer behind the gradient clipping that all of them share."""
    return optax.chain(optax.clip_by_global_norm(1.0), OPTIMIZERS[name].make(learning_rate))


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


@partial(jax.jit, static_argnums=0)
def measures(graphdef: Any, params: Any, train_loss: jax.Array, parts: list[Examples]) -> jax.Array:
    """Return the loss of training, then loss and accuracy on each part: one array to fetch."""
    return jnp.array([train_loss, *(m for part in parts for m in evaluate(graphdef, params, part))])


def make_orders(size: int, epochs: int, seed: int) -> list[jax.Array]:
    """Return the batches of each epoch: rows of indices of `size` examples."""
    rng, steps = np.random.default_rng(seed), max(1, size // BATCH_SIZE)
    orders = (rng.permutation(size)[: steps * BATCH_SIZE] for _ in range(epochs))
    return [jnp.asarray(order.reshape(steps, -1), jnp.int32) for order in orders]


def compare(
    data: Dataset, names: list[str], epochs: int, seeds: int, report: Report
) -> Iterator[pd.DataFrame]:
    """Train each optimizer at each learning rate from each seed; yield the rows of each run.

    A program serves all learning rates, because neither it nor a state depends on them.
    """
    train, *parts = jax.tree.map(jnp.asarray, data)
    orders = [make_orders(len(train.labels), epochs, seed) for seed in range(seeds)]
    report.compiling("the network")
    make_network = nnx.jit(lambda key: Network(train.images.shape[1:], nnx.Rngs(key)))
    networks = [nnx.split(make_network(jax.random.key(seed))) for seed in range(seeds)]
    # Dictionaries of arrays: JAX flattens them at every call, and Flax's own types slowly.
    starts = [nnx.to_pure_dict(params) for _, params in networks]
    graphdef, zero = networks[0][0], jnp.float32(0)
    measure = measures.lower(graphdef, starts[0], zero, parts).compile()
    programs = {}
    for name in names:
        report.compiling(OPTIMIZERS[name].label)
        optimizer = make_optimizer(name, LEARNING_RATES[0])
        init, carry = jax.jit(optimizer.init), (starts[0], optimizer.init(starts[0]))
        lowered = train_epoch.lower(name, graphdef, carry, zero, train, orders[0][0])
        programs[name] = init, lowered.compile(), state_bytes(optimizer, starts[0])
    # All optimizers in turn, so that the load of the machine is the same for their speeds.
    for rate, seed, name in itertools.product(LEARNING_RATES, range(seeds), names):
        report.training(OPTIMIZERS[name].label)
        init, program, size = programs[name]
        params, rows = jax.tree.map(jnp.copy, starts[seed]), []  # an epoch reuses their memory
        carry = params, init(params)
        for epoch, order in enumerate(orders[seed], 1):
            report.check()
            start = time.perf_counter()
            carry, loss = jax.block_until_ready(program(carry, jnp.float32(rate), train, order))
            speed = len(order) / (time.perf_counter() - start)
            numbers = np.asarray(measure(carry[0], loss, parts)).tolist()
            rows.append((name, rate, seed, epoch, *numbers, speed, size))
        yield pd.DataFrame(rows, columns=COLUMNS)
