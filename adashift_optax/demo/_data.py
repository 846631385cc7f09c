"""The demo's datasets: scikit-learn's digits, and MNIST and CIFAR-10 from their original files."""

import gzip
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import idx2numpy
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from adashift_optax.demo._fetch import CIFAR10_ARCHIVE, DataError, fetch

DATASETS = ("digits", "mnist", "cifar10")
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
    """Load one of `DATASETS`; MNIST and CIFAR-10 from `data_dir`, or downloaded once if None.

    `data_dir` or its folder ``mnist`` or ``cifar-10-batches-bin`` has the original files. Raises
    DataError if they cannot be had or used.
    """
    if name == "digits":
        pixels, labels = load_digits(return_X_y=True)
        train, test = _split(Examples(pixels.reshape(-1, 8, 8, 1), labels))
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
    folder = _inner(folder, "mnist")

    def read(part: str) -> Examples:
        images, _ = _read_idx(folder, f"{part}-images-idx3-ubyte", (28, 28))
        labels, path = _read_idx(folder, f"{part}-labels-idx1-ubyte", ())
        if len(labels) != len(images):
            raise DataError(f"{path}: {len(labels)} labels for {len(images)} images")
        return _checked(images[..., None], labels, path)

    return read("train"), read("t10k")


def read_cifar10(folder: Path) -> tuple[Examples, Examples]:
    """Read CIFAR-10's training and test examples (uint8) from the binary version.

    That is its archive, or the six files in it. The python version is a pickle, which can run any
    code when it is loaded: it is not read.
    """
    archive = folder / CIFAR10_ARCHIVE
    folder = _inner(folder, "cifar-10-batches-bin")
    contents = None
    if archive.exists() and not (folder / "data_batch_1.bin").exists():
        folder, contents = archive, _unpacked(archive)

    def read(name: str) -> Examples:
        path = folder / name
        if contents is None:
            content = _read_bytes(path, "the binary version of CIFAR-10")
        else:
            content = contents.get(name, b"")
        data = np.frombuffer(content, np.uint8)
        if not data.size or data.size % 3073:
            raise DataError(f"{path}: {data.size} bytes, expected a multiple of 3073 (truncated?)")
        rows = data.reshape(-1, 3073)  # the label, then the red, green and blue planes
        images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return _checked(images, rows[:, 0], path)

    batches = [read(f"data_batch_{i}.bin") for i in range(1, 6)]
    train = Examples(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    return train, read("test_batch.bin")


def _inner(folder: Path, name: str) -> Path:
    inner = folder / name
    return inner if inner.is_dir() else folder


def _unpacked(path: Path) -> dict[str, bytes]:
    """The contents of an archive's files by their names."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            files = ((member.name, archive.extractfile(member)) for member in archive)
            return {Path(name).name: file.read() for name, file in files if file}
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{path}: not a whole .tar.gz file: {error}") from error


def _read_idx(folder: Path, name: str, item: tuple[int, ...]) -> tuple[np.ndarray, Path]:
    path = folder / name
    if not path.exists() and (folder / f"{name}.gz").exists():
        path = folder / f"{name}.gz"
    data = _read_bytes(path, "plain or .gz")
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        array = idx2numpy.convert_from_string(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}") from error
    except (idx2numpy.FormatError, OverflowError) as error:  # OverflowError: absurd dimensions
        reason = error if len(data) > 3 else f"only {len(data)} bytes"
        raise DataError(f"{path}: not a whole IDX file: {reason}") from error
    if array.dtype != np.uint8 or array.ndim != 1 + len(item) or array.shape[1:] != item:
        wanted = f"expected uint8 of shape {('N', *item)}"
        raise DataError(f"{path}: {array.dtype} values of shape {array.shape}, {wanted}")
    return array, path


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
