"""The demo's datasets: scikit-learn's digits, and MNIST and CIFAR-10 from their original files."""

import gzip
import math
import struct
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from adashift_optax.demo._fetch import CIFAR10_ARCHIVE, DataError, fetch

CLASSES = 10


class Examples(NamedTuple):
    """Images (N, height, width, channels) and their labels (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Float32 images in [0, 1] and int32 labels, always split the same way."""

    train: Examples
    validation: Examples
    test: Examples


def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load "digits", "mnist" or "cifar10"; the latter two from `data_dir`, downloaded once if None.

    `data_dir` or its folder ``mnist`` or ``cifar-10-batches-bin`` has the original files. Raises
    DataError if they cannot be had or used.
    """
    if name == "digits":
        pixels, labels = load_digits(return_X_y=True)
        train, test = _split(Examples(pixels.reshape(-1, 8, 8, 1), np.asarray(labels)))
        white = np.float32(16)
    else:
        data_dir = fetch(name) if data_dir is None else data_dir
        if not data_dir.is_dir():
            raise DataError(f"--data-dir {data_dir}: no such folder")
        train, test = (read_mnist if name == "mnist" else read_cifar10)(data_dir)
        white = np.float32(255)
    try:
        train, validation = _split(train)
    except ValueError as error:  # a class too small to be in both parts
        raise DataError(f"{data_dir}: cannot split off validation data: {error}") from error
    parts = (train, validation, test)
    return Dataset(*(Examples(x.astype("f4") / white, y.astype("i4")) for x, y in parts))


def read_mnist(folder: Path) -> tuple[Examples, Examples]:
    """Read MNIST's training and test examples (uint8) from its four IDX files, plain or .gz."""
    inner = folder / "mnist"
    folder = inner if inner.is_dir() else folder

    def read(part: str) -> Examples:
        images, _ = _read_idx(folder, f"{part}-images-idx3-ubyte", 28, 28)
        labels, path = _read_idx(folder, f"{part}-labels-idx1-ubyte")
        if len(labels) != len(images):
            raise DataError(f"{path}: {len(labels)} labels for {len(images)} images")
        return _checked(images[..., None], labels, path)

    return read("train"), read("t10k")


def read_cifar10(folder: Path) -> tuple[Examples, Examples]:
    """Read CIFAR-10's training and test examples (uint8) from the binary version.

    That is its archive, or the six files in it. The python version is a pickle, which can run any
    code when it is loaded: it is not read.
    """
    archive, inner = folder / CIFAR10_ARCHIVE, folder / "cifar-10-batches-bin"
    folder = inner if inner.is_dir() else folder
    train, test = [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin"
    if archive.exists() and not (folder / train[0]).exists():
        folder, contents = archive, _unpacked(archive)
    else:
        wanted = "the binary version of CIFAR-10"
        contents = {name: _read_bytes(folder / name, wanted) for name in (*train, test)}

    def read(name: str) -> Examples:
        path, content = folder / name, contents.get(name, b"")
        data = np.frombuffer(content, np.uint8)
        if not data.size or data.size % 3073:
            raise DataError(f"{path}: {data.size} bytes, expected a multiple of 3073 (truncated?)")
        rows = data.reshape(-1, 3073)  # the label, then the red, green and blue planes
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return _checked(images, rows[:, 0], path)

    batches = zip(*map(read, train), strict=True)
    return Examples(*map(np.concatenate, batches)), read(test)


def _unpacked(path: Path) -> dict[str, bytes]:
    """The contents of an archive's files by their names."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            files = ((member.name, archive.extractfile(member)) for member in archive)
            return {Path(name).name: file.read() for name, file in files if file}
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: not a whole .tar.gz file: {error}") from error


def _read_idx(folder: Path, name: str, *item: int) -> tuple[np.ndarray, Path]:
    """Read an array of items of that shape: its sizes as big-endian numbers, then its bytes."""
    path, zipped = folder / name, folder / f"{name}.gz"
    path = zipped if zipped.exists() and not path.exists() else path
    content = _read_bytes(path, "plain or .gz")
    try:
        content = gzip.decompress(content) if path == zipped else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from error
    start, size = 8 + 4 * len(item), math.prod(item)
    count = max(0, len(content) - start) // size
    header = struct.pack(f">{2 + len(item)}I", 0x801 + len(item), count, *item)
    if content[:start] != header or len(content) != start + count * size:
        wanted = f"whole IDX file of uint8 of shape {('N', *item)}"
        raise DataError(f"{path}: {len(content)} bytes, not a {wanted}")
    return np.frombuffer(content[start:], np.uint8).reshape(-1, *item), path


def _read_bytes(path: Path, wanted: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror} (needed: {wanted})") from error


def _checked(images: np.ndarray, labels: np.ndarray, path: Path) -> Examples:
    if not len(labels) or labels.max() >= CLASSES:
        found = f"a label {labels.max()}" if len(labels) else "no labels"
        raise DataError(f"{path}: {found}, expected labels from 0 to {CLASSES - 1}")
    return Examples(images, labels)


def _split(examples: Examples) -> tuple[Examples, Examples]:
    """Split off a stratified fifth, always the same one."""
    rows = np.arange(len(examples.labels))
    rest, fifth = train_test_split(rows, test_size=0.2, random_state=0, stratify=examples.labels)
    return Examples(*(a[rest] for a in examples)), Examples(*(a[fifth] for a in examples))
