"""The network that the demo trains."""

import jax
from flax import nnx

from adashift_optax.demo._data import CLASSES


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
