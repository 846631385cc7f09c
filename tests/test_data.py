"""The demo's readers, on small files in the original formats."""

import gzip

import numpy as np
import pytest
from image_files import CIFAR10_FILES as BATCHES
from image_files import MNIST_FILES, cifar10_archive, idx_bytes, write_cifar10, write_mnist
from sklearn.datasets import load_digits

from adashift_optax.demo import _data


def error_of(name, folder):
    """The one line that says why a dataset cannot be used."""
    with pytest.raises(_data.DataError) as caught:
        _data.load(name, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digits_are_split_once_and_stratified():
    """The parts are all of the digits and share none."""
    data = _data.load("digits")
    assert [len(part.labels) for part in data] == [1149, 288, 360]
    for part, again in zip(data, _data.load("digits"), strict=True):
        assert part.images.shape[1:] == (8, 8, 1)
        assert (part.images.dtype, part.labels.dtype) == (np.float32, np.int32)
        shares = np.bincount(part.labels, minlength=10) / len(part.labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.008)
        np.testing.assert_array_equal(part.images, again.images)
    pixels, labels = load_digits(return_X_y=True)
    found = [(*x.ravel(), y) for part in data for x, y in zip(*part, strict=True)]
    assert sorted(found) == sorted((*x, y) for x, y in zip(pixels / 16, labels, strict=True))


@pytest.mark.parametrize("form", ["", "zipped", "mnist"])
def test_mnist(tmp_path, form):
    """Files may be plain or zipped, and in a folder of the dataset's name."""
    folder = tmp_path / ("mnist" if form == "mnist" else "")
    folder.mkdir(exist_ok=True)
    arrays = write_mnist(folder, zipped=form == "zipped")
    read = [array for part in _data.read_mnist(tmp_path) for array in part]
    for array, name in zip(read, MNIST_FILES, strict=True):
        np.testing.assert_array_equal(array.squeeze(), arrays[name])
    train, validation, test = _data.load("mnist", tmp_path)
    assert [len(part.labels) for part in (train, validation, test)] == [80, 20, 20]
    assert np.bincount(validation.labels).tolist() == [2] * 10
    scaled = arrays[MNIST_FILES[2]].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(test.images[..., 0], scaled, strict=True)


@pytest.mark.parametrize("form", ["", "cifar-10-batches-bin", "archive"])
def test_cifar10(tmp_path, form):
    (folder := tmp_path / form).mkdir(exist_ok=True)
    *train, test = write_cifar10(folder).values()
    if form == "archive":
        (tmp_path / _data.CIFAR10_ARCHIVE).write_bytes(cifar10_archive(folder))
    read_train, read_test = _data.read_cifar10(tmp_path)
    for read, expected in zip(read_test, test, strict=True):
        np.testing.assert_array_equal(read, expected)
    for read, expected in zip(read_train, zip(*train, strict=True), strict=True):
        np.testing.assert_array_equal(read, np.concatenate(expected))
    assert [len(part.labels) for part in _data.load("cifar10", tmp_path)] == [80, 20, 20]


def set_byte(data, position, value):
    return data[:position] + bytes([value]) + data[position + 1 :]


IMAGES, LABELS, _, TEST_LABELS = MNIST_FILES
NOT_WHOLE = "bytes, not a whole IDX file of uint8 of shape ('N', 28, 28)"
BROKEN_IDX = [
    (IMAGES, lambda data: data[:-1], NOT_WHOLE),
    (IMAGES, lambda data: set_byte(data, 2, 9), NOT_WHOLE),  # of another type
    (IMAGES, lambda data: idx_bytes(np.zeros((100, 28, 27), np.uint8)), NOT_WHOLE),
    (LABELS, lambda data: idx_bytes(np.zeros(99, np.uint8)), "99 labels for 100 images"),
    (TEST_LABELS, lambda data: set_byte(data, len(data) - 1, 10), "a label 10"),
]


def test_a_broken_mnist_file_is_named_with_what_is_wrong(tmp_path):
    write_mnist(tmp_path)
    for name, damage, message in BROKEN_IDX:
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(damage(whole))
        line = error_of("mnist", tmp_path)
        assert line.startswith(f"{path}: ")
        assert message in line
        path.write_bytes(whole)
    write_mnist(tmp_path, test=0)
    assert f"{TEST_LABELS}: no labels" in error_of("mnist", tmp_path)
    write_mnist(tmp_path, train=15)
    assert "cannot split off validation data" in error_of("mnist", tmp_path)
    (tmp_path / IMAGES).unlink()
    (zipped := tmp_path / f"{IMAGES}.gz").write_bytes(gzip.compress(b"0")[:-2])
    assert error_of("mnist", tmp_path).startswith(f"{zipped}: not a whole gzip file: ")


def test_a_broken_cifar10_file_is_named_with_what_is_wrong(tmp_path):
    write_cifar10(tmp_path)
    path = tmp_path / BATCHES[2]
    whole = path.read_bytes()
    messages = ("61459 bytes, expected a multiple of 3073", "a label 77")
    for content, message in zip((whole[:-1], set_byte(whole, 3073, 77)), messages, strict=True):
        path.write_bytes(content)
        assert error_of("cifar10", tmp_path).startswith(f"{path}: {message}")


def test_a_broken_cifar10_archive_is_named(tmp_path):
    (files := tmp_path / "files").mkdir()
    write_cifar10(files)
    path = tmp_path / _data.CIFAR10_ARCHIVE
    for content in (cifar10_archive(files)[:-1000], b"<!DOCTYPE html>", b""):
        path.write_bytes(content)
        assert error_of("cifar10", tmp_path).startswith(f"{path}: not a whole .tar.gz file: ")
    (files / BATCHES[3]).unlink()
    path.write_bytes(cifar10_archive(files))
    assert "data_batch_4.bin: 0 bytes" in error_of("cifar10", tmp_path)


def test_missing_files_are_named_with_what_is_needed(tmp_path):
    for name, words in (
        ("mnist", (f"{IMAGES}: No such", "(needed: plain or .gz)")),
        ("cifar10", ("data_batch_1.bin: No such", "(needed: the binary version of CIFAR-10)")),
    ):
        line = error_of(name, tmp_path)
        assert all(word in line for word in words)
    assert "nowhere: no such folder" in error_of("cifar10", tmp_path / "nowhere")
