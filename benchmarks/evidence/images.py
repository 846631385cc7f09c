"""MNIST with a small convolutional net, CIFAR-10 with a small residual one."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adashift_optax.demo._data import DataError, Dataset, load
from benchmarks.evidence.task import Init, Model, Params, Task, cross_entropy, dense, mean_over
from benchmarks.evidence.train import POINTS

PADDING = 4
STEM, WIDTHS = 16, (32, 64)


def conv(kernel: jax.Array, x: jax.Array, stride: int = 1) -> jax.Array:
    """A convolution with padding, NHWC."""
    order = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **order)


def kernel(key: jax.Array, size: int, inputs: int, outputs: int) -> jax.Array:
    """He's initialization, [height, width, in, out]."""
    return dense(key, size, size, inputs, outputs, fan_in=size * size * inputs) * 2**0.5


def small_init(key: jax.Array) -> Params:
    """Two convolutions and two dense layers: 0.11 million parameters."""
    k1, k2, k3, k4 = jax.random.split(key, 4)
    return {
        "conv1": {"kernel": kernel(k1, 3, 1, 16), "bias": jnp.zeros(16)},
        "conv2": {"kernel": kernel(k2, 3, 16, 32), "bias": jnp.zeros(32)},
        "dense": {"kernel": dense(k3, 7 * 7 * 32, 64) * 2**0.5, "bias": jnp.zeros(64)},
        "head": {"kernel": dense(k4, 64, 10), "bias": jnp.zeros(10)},
    }


def small(params: Params, x: jax.Array) -> jax.Array:
    """Its logits."""
    for name in ("conv1", "conv2"):
        x = jax.nn.relu(conv(params[name]["kernel"], x, 2) + params[name]["bias"])
    for name in ("dense", "head"):
        x = x.reshape(len(x), -1) @ params[name]["kernel"] + params[name]["bias"]
        x = jax.nn.relu(x) if name == "dense" else x
    return x


def residual_init(key: jax.Array) -> Params:
    """A stem and a residual block for each width, all of stride 2: 0.07 million parameters."""
    keys = iter(jax.random.split(key, 2 + 3 * len(WIDTHS)))

    def layer(size: int, inputs: int, outputs: int) -> Params:
        norm = {"scale": jnp.ones(outputs), "bias": jnp.zeros(outputs)}
        return {"kernel": kernel(next(keys), size, inputs, outputs), "norm": norm}

    def block(inputs: int, outputs: int) -> Params:
        return {
            "conv1": layer(3, inputs, outputs),
            "conv2": layer(3, outputs, outputs),
            "shortcut": layer(1, inputs, outputs),
        }

    return {
        "stem": layer(3, 3, STEM),
        "blocks": [block(*sizes) for sizes in zip((STEM, *WIDTHS), WIDTHS, strict=False)],
        "head": {"kernel": dense(next(keys), WIDTHS[-1], 10), "bias": jnp.zeros(10)},
    }


def residual(params: Params, x: jax.Array) -> jax.Array:
    """Its logits. The norms are over groups of 8 channels of one image."""

    def normed(p: Params, x: jax.Array, stride: int = 1) -> jax.Array:
        x = conv(p["kernel"], x, stride)
        groups = x.reshape(*x.shape[:3], -1, 8)
        x = jax.nn.standardize(groups, axis=(1, 2, 4), epsilon=1e-5).reshape(x.shape)
        return x * p["norm"]["scale"] + p["norm"]["bias"]

    x = jax.nn.relu(normed(params["stem"], x, 2))
    for p in params["blocks"]:
        inner = normed(p["conv2"], jax.nn.relu(normed(p["conv1"], x, 2)))
        x = jax.nn.relu(inner + normed(p["shortcut"], x, 2))
    return x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


SMALL, RESIDUAL = (small_init, small), (residual_init, residual)


def augmented(images: jax.Array, moves: jax.Array) -> jax.Array:
    """Each image cropped from itself with a border, at `moves` = (down, right, mirrored)."""

    def one(image: jax.Array, move: jax.Array) -> jax.Array:
        padded = jnp.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
        image = jax.lax.dynamic_slice(padded, (move[0], move[1], 0), image.shape)
        return jnp.where(move[2] == 1, image[:, ::-1], image)

    return jax.vmap(one)(images, moves)


def real(name: str) -> Dataset:
    """The dataset in the folder that ADASHIFT_DATA names, or downloaded if it names none."""
    folder = os.environ.get("ADASHIFT_DATA")
    try:
        return load(name, Path(folder) if folder else None)
    except DataError as error:
        raise SystemExit(f"{error} (here: with the variable ADASHIFT_DATA)") from error


def images(
    name: str, dataset: str, net: tuple[Init, Model], epochs: int, batch: int, augment: bool = False
) -> Task:
    """Classifying images with a net: its initialization and its logits."""
    init, model = net
    train, validation, test = real(dataset)
    mean, std = train.images.mean((0, 1, 2)), train.images.std((0, 1, 2))
    parts = {"train": train, "validation": validation, "test": test}
    data = {k: ((x.images - mean) / std, x.labels) for k, x in parts.items()}
    size = len(train.labels)

    def right(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(model(params, images).argmax(-1) == labels, dtype=jnp.float32)

    def loss(params: Params, data: Any, batch: Any) -> jax.Array:
        images, labels = (array[batch["rows"]] for array in data["train"])
        images = augmented(images, batch["moves"]) if augment else images
        return cross_entropy(model, params, images, labels)

    def batches(rng: np.random.Generator, steps: int) -> Any:
        orders = [rng.permutation(size)[: size // batch * batch] for _ in range(epochs)]
        rows = np.concatenate(orders).astype(np.int32).reshape(-1, batch)[:steps]
        high = [2 * PADDING + 1, 2 * PADDING + 1, 2]
        moves = rng.integers(0, high, (*rows.shape, 3), np.int32)
        return {"rows": rows, "moves": moves} if augment else {"rows": rows}

    return Task(
        name,
        init,
        loss,
        batches,
        data,
        # In parts, which stay in the cache of a CPU: a third of the time.
        lambda p, data: mean_over(50, partial(cross_entropy, model, p), *data["validation"]),
        epochs * (size // batch) // POINTS * POINTS,  # so that validation comes at equal distances
        lambda params, data: right(params, *data["test"]),
        in_loop=False,
    )
