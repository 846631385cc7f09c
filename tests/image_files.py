"""MNIST and CIFAR-10 in their original formats, small and of random pixels."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


def write_mnist(folder: Path, train: int = 100, test: int = 20, zipped: bool = False) -> dict:
    """Write MNIST's four files with random pixels; return their arrays by file name."""
    rng, arrays = np.random.default_rng(0), {}
    for i, size in ((0, train), (2, test)):
        arrays[MNIST_FILES[i]] = rng.integers(0, 256, (size, 28, 28), np.uint8)
        arrays[MNIST_FILES[i + 1]] = (np.arange(size) % 10).astype(np.uint8)
    for name, array in arrays.items():
        content = idx_bytes(array)
        name += ".gz" * zipped
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)
    return arrays


def write_cifar10(folder: Path, size: int = 20) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write the six files of CIFAR-10's binary version; return images and labels by file name."""
    rng, arrays = np.random.default_rng(0), {}
    for name in CIFAR10_FILES:
        images = rng.integers(0, 256, (size, 32, 32, 3), np.uint8)
        labels = rng.permutation(np.arange(size) % 10).astype(np.uint8)
        planes = [images[..., channel].reshape(size, -1) for channel in range(3)]
        (folder / name).write_bytes(np.concatenate([labels[:, None], *planes], 1).tobytes())
        arrays[name] = images, labels
    return arrays


def cifar10_archive(folder: Path) -> bytes:
    """Pack the files that `write_cifar10` wrote as CIFAR-10's authors did, and the other files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-bin/batches.meta.txt"))
        for path in sorted(folder.glob("*.bin"), reverse=True):  # in no helpful order
            archive.add(path, f"cifar-10-batches-bin/{path.name}")
    return content.getvalue()
