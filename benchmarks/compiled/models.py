"""The shapes of parameters, and what is trained: nothing here is ever allocated."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

HEADS, CONTEXT, BATCH, VOCABULARY, WIDTH, BLOCKS = 16, 512, 8, 32_768, 1024, 2
SIDE, ROWS = 2048, 4096


class Model(NamedTuple):
    """What a step trains.

    Attributes:
      params: the shapes of its parameters, a tree.
      specs: on which axes of a mesh they are sharded, a tree like it: the rows of a matrix that
        makes activations wider over "fsdp" and its columns over "tensor".
      batch: the shape of what it is trained on, of which the first axis is over "fsdp".
      loss: of parameters and batch.
    """

    params: Any
    specs: Any
    batch: jax.ShapeDtypeStruct
    loss: Callable[[Any, jax.Array], jax.Array]

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return sum(x.size for x in jax.tree.leaves(self.params))

    @property
    def matrices(self) -> int:
        """How many of its leaves are matrices."""
        return sum(x.ndim > 1 for x in jax.tree.leaves(self.params))


WIDER, NARROWER = PartitionSpec("fsdp", "tensor"), PartitionSpec("tensor", "fsdp")


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """The shape of an array."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def matrices(side: int, count: int = 8) -> Any:
    """Square matrices, each with a vector: the leaves of ``benchmarks.run``."""
    return {f"{k}": {"bias": shape(side), "kernel": shape(side, side)} for k in range(count)}


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """A matrix product in bfloat16, summed in float32."""
    operands = (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    return jnp.matmul(*operands, preferred_element_type=jnp.float32)


def residual(layers: int) -> Model:
    """Layers x + relu(x w), without biases: nothing but matrix products and their updates."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for w in params:
            x = x + jax.nn.relu(product(x, w)).astype(x.dtype)
        return jnp.mean(x.astype(jnp.float32) ** 2)

    batch = shape(ROWS, SIDE, dtype=jnp.bfloat16)
    return Model([shape(SIDE, SIDE)] * layers, [WIDER] * layers, batch, loss)


def transformer() -> Model:
    """A small transformer with a head of its own: 15 matrices, of which 2 are tables."""
    block = {name: shape(WIDTH, WIDTH) for name in ("key", "out", "query", "value")}
    block |= {"up": shape(WIDTH, 4 * WIDTH), "down": shape(4 * WIDTH, WIDTH)}
    block |= {"norm1": shape(WIDTH), "norm2": shape(WIDTH)}
    params = {
        "blocks": [block] * BLOCKS,
        "embedding": shape(VOCABULARY, WIDTH),
        "head": shape(WIDTH, VOCABULARY),
        "norm": shape(WIDTH),
        "positions": shape(CONTEXT, WIDTH),
    }
    return Model(params, specs_of(params), shape(BATCH, CONTEXT + 1, dtype=jnp.int32), _loss)


def llama() -> Any:
    """The parameters of Llama 3.2 1B: 1.24e9, in 146 leaves."""
    width, hidden, of_keys = 2048, 8192, 512
    layer = {
        "down": shape(hidden, width),
        "gate": shape(width, hidden),
        "key": shape(width, of_keys),
        "norm1": shape(width),
        "norm2": shape(width),
        "out": shape(width, width),
        "query": shape(width, width),
        "up": shape(width, hidden),
        "value": shape(width, of_keys),
    }
    return {"embedding": shape(128_256, width), "layers": [layer] * 16, "norm": shape(width)}


def specs_of(params: Any) -> Any:
    """Where each leaf of a transformer belongs on a mesh: vectors on every chip."""

    def spec(path: Any, x: jax.ShapeDtypeStruct) -> PartitionSpec:
        if x.ndim < 2 or path[-1].key == "positions":
            return PartitionSpec()
        return NARROWER if path[-1].key in ("down", "embedding", "out") else WIDER

    return jax.tree.map_with_path(spec, params)


def _loss(params: Any, tokens: jax.Array) -> jax.Array:
    """The loss of predicting each token from those before it."""
    x = params["embedding"][tokens[:, :-1]] + params["positions"]
    x = x.astype(jnp.bfloat16)
    for block in params["blocks"]:
        x = x + _attention(block, _normalized(x, block["norm1"])).astype(x.dtype)
        hidden = jax.nn.gelu(product(_normalized(x, block["norm2"]), block["up"]))
        x = x + product(hidden, block["down"]).astype(x.dtype)
    logits = product(_normalized(x, params["norm"]), params["head"])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.mean(losses)


def _attention(block: Any, x: jax.Array) -> jax.Array:
    def heads(name: str) -> jax.Array:
        y = product(x, block[name]).astype(x.dtype)
        return y.reshape(*x.shape[:2], HEADS, WIDTH // HEADS)

    y = jax.nn.dot_product_attention(heads("query"), heads("key"), heads("value"), is_causal=True)
    return product(y.reshape(x.shape), block["out"])


def _normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * scale).astype(x.dtype)
