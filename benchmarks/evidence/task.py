"""What a task is: data, parameters, a loss, and the batches that a seed stands for."""

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any
Batch = Any
Init = Callable[[jax.Array], Params]
Model = Callable[[Params, jax.Array], jax.Array]


@dataclass(frozen=True)
class Task:
    """One problem. Its functions are pure, so that one compiled program serves all runs.

    Attributes:
      name: the name in the plan and in the results.
      init: the parameters of a key.
      loss: the mean loss of a batch, from parameters, data and batch.
      batches: from a generator and a number of steps, a tree of arrays with one entry for a step.
      data: a tree of arrays: what `loss` and `evaluate` read.
      evaluate: the validation loss, from parameters and data.
      steps: the length of a run.
      test: the accuracy on the test set, or None.
      clip: the largest global norm of a gradient.
      decay: of the matrices, decoupled as in AdamW; the rate multiplies it.
      in_loop: whether steps run in a loop of the program. Not for convolutions: on a CPU XLA makes
        them ten times as slow there.
    """

    name: str
    init: Init
    loss: Callable[[Params, Any, Batch], jax.Array]
    batches: Callable[[np.random.Generator, int], Batch]
    data: Any
    evaluate: Callable[[Params, Any], jax.Array]
    steps: int
    test: Callable[[Params, Any], jax.Array] | None = None
    clip: float = 1.0
    decay: float = 0.0
    in_loop: bool = True


def digest(data: Any) -> str:
    """A short number of a tree of arrays: of the same data it is the same."""
    bits = hashlib.sha256()
    for x in jax.tree.leaves(data):
        bits.update(np.ascontiguousarray(x).tobytes())
    return bits.hexdigest()[:12]


def generator(name: str, seed: int) -> np.random.Generator:
    """The generator of a task and a seed, the same for every optimizer."""
    return np.random.default_rng([zlib.crc32(name.encode()), seed])


def start(task: Task, seed: int, steps: int) -> tuple[Params, Batch]:
    """The initial parameters and all batches of a run: they depend on the task and the seed."""
    rng = generator(task.name, seed)
    params = jax.jit(task.init)(jax.random.key(int(rng.integers(2**31))))
    return params, task.batches(rng, steps)


def dense(key: jax.Array, *shape: int, fan_in: int | None = None) -> jax.Array:
    """Normal numbers that keep the variance of what they are multiplied with."""
    return jax.random.normal(key, shape) * (fan_in or shape[-2]) ** -0.5


def cross_entropy(model: Model, params: Params, x: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean cross-entropy of a classifier."""
    return optax.softmax_cross_entropy_with_integer_labels(model(params, x), labels).mean()


def mean_over(parts: int, evaluate: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """The mean of `evaluate` over `parts` equal parts of the arrays, one part after the other."""
    split = [a.reshape(parts, -1, *a.shape[1:]) for a in arrays]
    return jnp.mean(jax.lax.map(lambda part: evaluate(*part), split))
