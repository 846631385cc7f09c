"""Predicting the next byte or subword: a transformer and an LSTM."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.evidence.task import Init, Model, Params, Task, cross_entropy, dense, mean_over

BYTES, CONTEXT, HEADS = 256, 64, 4
HELD_OUT = 256  # excerpts
SIZES = {"qkv": (1, 3), "out": (1, 1), "up": (1, 4), "down": (4, 1)}  # of a block, in widths
LSTM_EMBEDDING, LSTM_WIDTH = 64, 256
Tokens = tuple[np.ndarray, np.ndarray]


def transformer_init(
    layers: int, width: int, key: jax.Array, vocabulary: int = BYTES, context: int = CONTEXT
) -> Params:
    """Matrices are [in, out]; 12 width^2 parameters in a layer."""
    keys = iter(jax.random.split(key, 3 + 4 * layers))

    def linear(inputs: int, outputs: int) -> Params:
        return {"kernel": dense(next(keys), inputs, outputs), "bias": jnp.zeros(outputs)}

    def norm() -> Params:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    return {
        "tokens": {"embedding": dense(next(keys), vocabulary, width, fan_in=width)},
        "positions": {"embedding": dense(next(keys), context, width, fan_in=width)},
        "blocks": [
            {name: linear(i * width, o * width) for name, (i, o) in SIZES.items()}
            | {"norm1": norm(), "norm2": norm()}
            for _ in range(layers)
        ],
        "norm": norm(),
        "head": linear(width, vocabulary),
    }


@jax.custom_gradient
def product(x: jax.Array, w: jax.Array) -> Any:
    """The product x @ w, with gradients that are faster on a CPU.

    XLA would join the transpose of x to the product that makes the gradient of w, which then takes
    twice the time. The barrier keeps them apart.
    """

    def gradients(g: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]).T)
        return g @ w.T, rows @ g.reshape(-1, g.shape[-1])

    return x @ w, gradients


def transformer(params: Params, tokens: jax.Array) -> jax.Array:
    """The logits of what follows each of `tokens`, (batch, context, vocabulary)."""

    def linear(p: Params, x: jax.Array) -> jax.Array:
        return product(x, p["kernel"]) + p["bias"]

    def norm(p: Params, x: jax.Array) -> jax.Array:
        return jax.nn.standardize(x, epsilon=1e-6) * p["scale"] + p["bias"]

    def attention(p: Params, x: jax.Array) -> jax.Array:
        shape = (*x.shape[:2], HEADS, x.shape[2] // HEADS)
        q, k, v = (part.reshape(shape) for part in jnp.split(linear(p["qkv"], x), 3, -1))
        mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return linear(p["out"], mixed.reshape(x.shape))

    x = params["tokens"]["embedding"][tokens] + params["positions"]["embedding"]
    for p in params["blocks"]:
        x = x + attention(p, norm(p["norm1"], x))
        x = x + linear(p["down"], jax.nn.gelu(linear(p["up"], norm(p["norm2"], x))))
    return linear(params["head"], norm(params["norm"], x))


def lstm_init(key: jax.Array) -> Params:
    """One layer. The bias of the forget gate starts at 1."""
    k1, k2, k3 = jax.random.split(key, 3)
    bias = jnp.zeros(4 * LSTM_WIDTH).at[LSTM_WIDTH : 2 * LSTM_WIDTH].set(1)
    return {
        "tokens": {"embedding": dense(k1, BYTES, LSTM_EMBEDDING, fan_in=1)},
        "cell": {"kernel": dense(k2, LSTM_EMBEDDING + LSTM_WIDTH, 4 * LSTM_WIDTH), "bias": bias},
        "head": {"kernel": dense(k3, LSTM_WIDTH, BYTES), "bias": jnp.zeros(BYTES)},
    }


def lstm(params: Params, tokens: jax.Array) -> jax.Array:
    """The logits of what follows each of `tokens`, (batch, context, vocabulary)."""
    kernel, bias = params["cell"]["kernel"], params["cell"]["bias"]
    x = params["tokens"]["embedding"][tokens]
    inputs = x @ kernel[:LSTM_EMBEDDING] + bias  # of all steps at once

    def step(carry: Any, x: jax.Array) -> Any:
        h, c = carry
        i, f, g, o = jnp.split(x + h @ kernel[LSTM_EMBEDDING:], 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((len(x), LSTM_WIDTH))
    _, hidden = jax.lax.scan(step, (zeros, zeros), jnp.swapaxes(inputs, 0, 1))
    return jnp.swapaxes(hidden, 0, 1) @ params["head"]["kernel"] + params["head"]["bias"]


def language(
    name: str,
    init: Init,
    model: Model,
    tokens: Tokens,
    steps: int,
    batch: int,
    context: int = CONTEXT,
) -> Task:
    """Predicting what follows in random excerpts of `tokens`, which are training and held out."""
    train, validation = tokens
    starts = np.linspace(0, len(validation) - context - 1, HELD_OUT).astype(int)
    held_out = validation[starts[:, None] + np.arange(context + 1)]

    def loss_of(params: Params, excerpts: jax.Array) -> jax.Array:
        excerpts = excerpts.astype(jnp.int32)
        return cross_entropy(model, params, excerpts[:, :-1], excerpts[:, 1:])

    def loss(params: Params, data: Any, starts: jax.Array) -> jax.Array:
        return loss_of(params, data["train"][starts[:, None] + jnp.arange(context + 1)])

    def evaluate(params: Params, data: Any) -> jax.Array:
        return mean_over(8, partial(loss_of, params), data["held_out"])

    def batches(rng: np.random.Generator, steps: int) -> np.ndarray:
        return rng.integers(0, len(train) - context, (steps, batch), np.int32)

    data = {"train": train, "held_out": held_out}
    return Task(name, init, loss, batches, data, evaluate, steps)
