"""Tables of which a batch touches few rows: word vectors of real text."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Params, Task, dense
from benchmarks.evidence.text import words

VOCABULARY, WIDTH, WINDOW, NEGATIVES = 4000, 64, 4, 5
HELD_OUT = 16384  # pairs
BATCH = 512

Loss = Callable[[jax.Array, jax.Array], jax.Array]


def tables(key: jax.Array) -> Params:
    """Two vectors and a bias for each word: 0.52 million parameters."""
    k1, k2 = jax.random.split(key)
    return {
        "word": {"embedding": dense(k1, VOCABULARY, WIDTH, fan_in=WIDTH)},
        "context": {"embedding": dense(k2, VOCABULARY, WIDTH, fan_in=WIDTH)},
        "bias": jnp.zeros(VOCABULARY),
    }


def score(params: Params, word: jax.Array, context: jax.Array) -> jax.Array:
    """The product of the vectors of two words, and the bias of the second."""
    v, c = params["word"]["embedding"][word], params["context"]["embedding"][context]
    return jnp.sum(v * c, -1) + params["bias"][context]


def skip_gram(name: str, part: str, steps: int) -> Task:
    """Telling the neighbours of a word in comments and docstrings from words drawn at random."""
    train, validation = words(part, VOCABULARY)
    weights = np.bincount(train, minlength=VOCABULARY) ** 0.75
    total = np.cumsum(weights / weights.sum())

    def pairs(rng: np.random.Generator, text: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A word, one of its neighbours, and words drawn at random."""
        at = rng.integers(WINDOW, len(text) - WINDOW, shape)
        away = rng.integers(1, WINDOW + 1, shape) * rng.choice([-1, 1], shape)
        drawn = np.searchsorted(total, rng.random((*shape, NEGATIVES)))
        found = np.stack([text[at], text[at + away]], -1)
        return np.concatenate([found, drawn], -1).astype(np.int32)

    def loss_of(params: Params, pairs: jax.Array) -> jax.Array:
        scores = score(params, pairs[:, :1], pairs[:, 1:])
        signs = jnp.ones(1 + NEGATIVES).at[0].set(-1)
        return jnp.mean(jnp.sum(jax.nn.softplus(signs * scores), -1))

    data = {"held_out": pairs(np.random.default_rng(0), validation, (HELD_OUT,))}
    return Task(
        name,
        tables,
        lambda params, data, batch: loss_of(params, batch),
        lambda rng, steps: pairs(rng, train, (steps, BATCH)),
        data,
        lambda params, data: loss_of(params, data["held_out"]),
        steps,
    )


def counts(part: str, prose: bool) -> np.ndarray:
    """How often two words stand at most `WINDOW` words apart: rows of (word, word, count)."""
    text = np.concatenate(words(part, VOCABULARY, prose)).astype(np.int64)
    pairs = [text[:-k] * VOCABULARY + text[k:] for k in range(1, WINDOW + 1)]
    cells, count = np.unique(np.concatenate(pairs), return_counts=True)
    return np.stack([cells // VOCABULARY, cells % VOCABULARY, count], -1).astype(np.int32)


def of_logarithms(predicted: jax.Array, count: jax.Array) -> jax.Array:
    """GloVe's loss: weighted squared errors of the logarithm of a count."""
    return jnp.minimum(1, count / 100) ** 0.75 * (predicted - jnp.log(count)) ** 2


def of_counts(predicted: jax.Array, count: jax.Array) -> jax.Array:
    """Half of Poisson's deviance. Its gradient is exp(predicted) - count, which is rarely large."""
    return jnp.exp(predicted) - count + count * (jnp.log(count) - predicted)


def factorization(
    name: str, part: str, steps: int, loss_of: Loss, prose: bool = True, clip: float = 1.0
) -> Task:
    """The logarithms of the counts as products of two vectors; a tenth of the cells is held out."""
    cells = np.random.default_rng(0).permutation(counts(part, prose))
    size = len(cells) // 10
    data = {"held_out": cells[:size], "train": cells[size:]}

    def mean_loss(params: Params, cells: jax.Array) -> jax.Array:
        predicted = score(params, cells[:, 0], cells[:, 1]) + params["own"][cells[:, 0]]
        return jnp.mean(loss_of(predicted, cells[:, 2].astype(jnp.float32)))

    return Task(
        name,
        lambda key: {**tables(key), "own": jnp.zeros(VOCABULARY)},
        lambda params, data, rows: mean_loss(params, data["train"][rows]),
        lambda rng, steps: rng.integers(0, len(cells) - size, (steps, BATCH), np.int32),
        data,
        lambda params, data: mean_loss(params, data["held_out"]),
        steps,
        clip=clip,
    )
