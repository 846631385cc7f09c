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
from flax import nnx

from adashift_optax import adashift, adashift_factored
from adashift_optax.demo._data import Dataset, Examples
from adashift_optax.demo._network import Network
from adashift_optax.demo._report import Report


def half_of_adams_memory(rate: Any) -> optax.GradientTransformation:
    """Return the recommended setting, whose state is half as large as Adam's."""
    return adashift_factored(rate)


class Optimizer(NamedTuple):
    """How tables and pictures call an optimizer, and how it is made from a learning rate."""

    label: str
    make: Callable[[Any], optax.GradientTransformation]


OPTIMIZERS = {
    "adashift-factored": Optimizer("AdaShift (factored, ema)", half_of_adams_memory),
    "adashift-max": Optimizer("AdaShift (max, n=10)", partial(adashift, n=10, phi="max")),
    "adam": Optimizer("Adam", optax.adam),
    "amsgrad": Optimizer("AMSGrad", optax.amsgrad),
    "adopt": Optimizer("ADOPT", optax.contrib.adopt),
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
def measures(
    graphdef: Any, params: Any, train_loss: jax.Array, parts: tuple[Examples, ...]
) -> jax.Array:
    """Return the loss of training, then loss and accuracy on each part: one array to fetch."""
    return jnp.array([train_loss, *(m for part in parts for m in evaluate(graphdef, params, part))])


class Trainer:
    """What the runs of a comparison share: data, the starts of each seed, compiled programs.

    A program serves all learning rates, because neither it nor a state depends on them.
    """

    def __init__(
        self, data: Dataset, names: list[str], epochs: int, seeds: int, report: Report
    ) -> None:
        self.train, *parts = jax.tree.map(jnp.asarray, data)
        self.parts = tuple(parts)
        self.orders = [self._orders(np.random.default_rng(seed), epochs) for seed in range(seeds)]
        report.compiling("the network")
        make_network = nnx.jit(lambda key: Network(self.train.images.shape[1:], nnx.Rngs(key)))
        networks = [nnx.split(make_network(jax.random.key(seed))) for seed in range(seeds)]
        # Dictionaries of arrays: JAX flattens them at every call, and Flax's own types slowly.
        self.starts = [nnx.to_pure_dict(params) for _, params in networks]
        graphdef, params = networks[0][0], self.starts[0]
        zero = jnp.float32(0)
        self.measures = measures.lower(graphdef, params, zero, self.parts).compile()
        self.inits, self.epochs = {}, {}
        for name in names:
            report.compiling(OPTIMIZERS[name].label)
            self.inits[name] = jax.jit(make_optimizer(name, LEARNING_RATES[0]).init)
            carry = params, self.inits[name](params)
            lowered = train_epoch.lower(name, graphdef, carry, zero, self.train, self.orders[0][0])
            self.epochs[name] = lowered.compile()

    def _orders(self, rng: np.random.Generator, epochs: int) -> list[jax.Array]:
        """Return the batches of each epoch: rows of indices of examples."""
        size = len(self.train.labels)
        steps = max(1, size // BATCH_SIZE)
        orders = (rng.permutation(size)[: steps * BATCH_SIZE] for _ in range(epochs))
        return [jnp.asarray(order.reshape(steps, -1), jnp.int32) for order in orders]

    def run(self, name: str, learning_rate: float, seed: int, report: Report) -> Iterator[Row]:
        """Train one optimizer; yield a row after each epoch."""
        params = jax.tree.map(jnp.copy, self.starts[seed])  # an epoch reuses its memory
        carry = params, self.inits[name](params)
        state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(carry[1]))
        rate = jnp.float32(learning_rate)
        for epoch, order in enumerate(self.orders[seed], 1):
            report.check()
            start = time.perf_counter()
            carry, loss = jax.block_until_ready(self.epochs[name](carry, rate, self.train, order))
            speed = len(order) / (time.perf_counter() - start)
            numbers = np.asarray(self.measures(carry[0], loss, self.parts)).tolist()
            yield Row._make([name, learning_rate, seed, epoch, *numbers, speed, state_bytes])


def compare(
    data: Dataset, names: list[str], epochs: int, seeds: int, report: Report
) -> Iterator[list[Row]]:
    """Train each optimizer at each learning rate from each seed; yield the rows of each run."""
    trainer = Trainer(data, names, epochs, seeds, report)
    # All optimizers in turn, so that the load of the machine is the same for their speeds.
    for learning_rate, seed, name in itertools.product(LEARNING_RATES, range(seeds), names):
        report.training(OPTIMIZERS[name].label)
        yield list(trainer.run(name, learning_rate, seed, report))
