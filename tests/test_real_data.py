"""The demo's readers on the real MNIST and CIFAR-10, if ADASHIFT_DATA names their folder."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from adashift_optax.demo import _data

FOLDER = os.environ.get("ADASHIFT_DATA")

pytestmark = [
    pytest.mark.all_only,
    pytest.mark.skipif(
        not FOLDER, reason="ADASHIFT_DATA names no folder with mnist/ and cifar-10-batches-bin/"
    ),
]

# How often each digit is in MNIST, from its description; CIFAR-10 has as many of each class.
MNIST_TRAIN = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def parts(name, size):
    """The examples as they were published; a fifth of those for training is for validation."""
    data = _data.load(name, Path(FOLDER))
    assert [len(part.labels) for part in data] == [size * 4 // 5, size // 5, 10000]
    assert (data.test.images.min(), data.test.images.max()) == (0, 1)
    return (_data.read_mnist if name == "mnist" else _data.read_cifar10)(Path(FOLDER))


def test_mnist():
    train, test = parts("mnist", 60000)
    assert (train.images.shape, test.images.shape) == ((60000, 28, 28, 1), (10000, 28, 28, 1))
    assert np.bincount(train.labels).tolist() == MNIST_TRAIN
    assert np.bincount(test.labels).tolist() == MNIST_TEST
    # The mean and deviation that everybody normalizes with.
    scaled = train.images / 255
    assert (round(scaled.mean(), 4), round(scaled.std(), 4)) == (0.1307, 0.3081)


def test_cifar10():
    train, test = parts("cifar10", 50000)
    assert (train.images.shape, test.images.shape) == ((50000, 32, 32, 3), (10000, 32, 32, 3))
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    scaled = train.images.mean((0, 1, 2)) / 255  # of red, green and blue
    assert scaled.round(4).tolist() == [0.4914, 0.4822, 0.4465]
    # The published MD5 of data_batch_1.bin: the pixels are read in its order.
    images, labels = (array[:10000] for array in train)
    planes = images.transpose(0, 3, 1, 2).reshape(10000, -1)
    digest = hashlib.md5(np.concatenate([labels[:, None], planes], 1).tobytes()).hexdigest()
    assert digest == "5dd7e06a14cb22eb9f671a540d1b7c25"
