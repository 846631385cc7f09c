"""What is trained: the shapes of parameters and batches, and losses. Nothing is allocated here."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

# Of a weight matrix that makes activations wider, and of one that makes them narrower again.
WIDER, NARROWER = PartitionSpec("fsdp", "tensor"), PartitionSpec("tensor", "fsdp")


class Model(NamedTuple):
    """What a step trains.

    Attributes:
      name: what the tables call it.
      params: the shapes of its parameters, a tree.
      batch: the shape of what it is trained on.
      loss: of parameters and batch.
    """

    name: str
    params: Any
    batch: jax.ShapeDtypeStruct
    loss: Callable[[Any, jax.Array], jax.Array]


class Sizes(NamedTuple):
    """How large a transformer is, and the dtype of its matrix products."""

    width: int = 1024
    blocks: int = 2
    heads: int = 16
    vocabulary: int = 32_768
    context: int = 512
    batch: int = 8
    dtype: Any = jnp.bfloat16


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """The shape of an array."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def squares(side: int, count: int = 8) -> Any:
    """Square matrices, each with a vector."""
    return {f"{k}": {"bias": shape(side), "kernel": shape(side, side)} for k in range(count)}


def many_leaves() -> Any:
    """300 small leaves, of which 150 are vectors."""
    sizes = [(64, 64), (64,), (64, 256), (256,), (256, 64), (64,)]
    return [[shape(*size) for size in sizes] for _ in range(50)]


def residual(layers: int = 2, side: int = 2048, rows: int = 4096) -> Model:
    """Layers x + relu(x w), without biases: nothing but matrix products and their updates."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for w in params:
            x = x + jax.nn.relu(_product(x, w, jnp.bfloat16)).astype(x.dtype)
        return jnp.mean(x.astype(jnp.float32) ** 2)

    batch = shape(rows, side, dtype=jnp.bfloat16)
    return Model(f"{layers} residual layers", [shape(side, side)] * layers, batch, loss)


def transformer(sizes: Sizes = Sizes()) -> Model:  # noqa: B008
    """A transformer with a head of its own. Two of its matrices are tables."""
    width, vocabulary = sizes.width, sizes.vocabulary
    block = {name: shape(width, width) for name in ("key", "out", "query", "value")}
    block |= {"up": shape(width, 4 * width), "down": shape(4 * width, width)}
    block |= {"norm1": shape(width), "norm2": shape(width)}
    params = {
        "blocks": [block] * sizes.blocks,
        "embedding": shape(vocabulary, width),
        "head": shape(width, vocabulary),
        "norm": shape(width),
        "positions": shape(sizes.context, width),
    }
    batch = shape(sizes.batch, sizes.context + 1, dtype=jnp.int32)
    count = sum(x.size for x in jax.tree.leaves(params)) / 1e6
    name = f"a transformer of {count:.0f} million parameters"
    return Model(name, params, batch, lambda params, tokens: _loss(sizes, params, tokens))


def specs_of(params: Any) -> Any:
    """Where each leaf belongs on a mesh with the axes "fsdp" and "tensor": vectors everywhere."""

    def spec(path: Any, x: jax.ShapeDtypeStruct) -> PartitionSpec:
        name = getattr(path[-1], "key", "")
        if x.ndim < 2 or name == "positions":
            return PartitionSpec()
        return NARROWER if name in ("down", "embedding", "out") else WIDER

    return jax.tree.map_with_path(spec, params)


def _product(x: jax.Array, w: jax.Array, dtype: Any) -> jax.Array:
    """A matrix product in `dtype`, summed in float32."""
    return jnp.matmul(x.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32)


def _loss(sizes: Sizes, params: Any, tokens: jax.Array) -> jax.Array:
    """The loss of predicting each token from those before it."""
    x = (params["embedding"][tokens[:, :-1]] + params["positions"]).astype(sizes.dtype)
    for block in params["blocks"]:
        x = x + _attention(sizes, block, _normalized(x, block["norm1"])).astype(x.dtype)
        hidden = _product(_normalized(x, block["norm2"]), block["up"], sizes.dtype)
        x = x + _product(jax.nn.gelu(hidden), block["down"], sizes.dtype).astype(x.dtype)
    logits = _product(_normalized(x, params["norm"]), params["head"], sizes.dtype)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.mean(losses)


def _attention(sizes: Sizes, block: Any, x: jax.Array) -> jax.Array:
    def heads(name: str) -> jax.Array:
        y = _product(x, block[name], sizes.dtype).astype(x.dtype)
        return y.reshape(*x.shape[:2], sizes.heads, -1)

    y = jax.nn.dot_product_attention(heads("query"), heads("key"), heads("value"), is_causal=True)
    return _product(y.reshape(x.shape), block["out"], sizes.dtype)


def _normalized(x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * scale).astype(x.dtype)
