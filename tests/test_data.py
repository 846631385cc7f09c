"""The demo's readers, on small files in the original formats."""

import gzip
from collections.abc import Callable

import numpy as np
import pytest
from image_files import MNIST_FILES, cifar10_archive, idx_bytes, write_cifar10, write_mnist

from adashift_optax.demo import _data


def test_digits_are_split_once_and_stratified():
    data = _data.load("digits")
    assert [len(part.labels) for part in data] == [1149, 288, 360]
    for part in data:
        assert part.images.shape[1:] == (8, 8, 1)
        assert (part.images.dtype, part.labels.dtype) == (np.float32, np.int32)
        assert (part.images.min(), part.images.max()) == (0, 1)
        shares = np.bincount(part.labels, minlength=10) / len(part.labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.008)
    for part, again in zip(data, _data.load("digits"), strict=True):
        np.testing.assert_array_equal(part.images, again.images)
        np.testing.assert_array_equal(part.labels, again.labels)


def test_digits_parts_are_all_of_the_digits_and_share_none():
    pixels, labels = _data.load_digits(return_X_y=True)
    everything = sorted((*row, label) for row, label in zip(pixels / 16, labels, strict=True))
    data = _data.load("digits")
    rows = np.concatenate([part.images.reshape(-1, 64) for part in data])
    found = zip(rows, np.concatenate([part.labels for part in data]), strict=True)
    assert sorted((*row, label) for row, label in found) == everything


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_reader_returns_what_was_written(tmp_path, zipped):
    arrays = write_mnist(tmp_path, zipped=zipped)
    parts = _data.read_mnist(tmp_path)
    for part, names in zip(parts, (MNIST_FILES[:2], MNIST_FILES[2:]), strict=True):
        np.testing.assert_array_equal(part.images[..., 0], arrays[names[0]])
        np.testing.assert_array_equal(part.labels, arrays[names[1]])


def test_mnist_plain_and_zipped_files_may_be_mixed(tmp_path):
    arrays = write_mnist(tmp_path)
    plain = tmp_path / MNIST_FILES[0]
    (tmp_path / f"{MNIST_FILES[0]}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    np.testing.assert_array_equal(
        _data.read_mnist(tmp_path)[0].images[..., 0], arrays[MNIST_FILES[0]]
    )


def test_mnist_may_be_in_a_folder_of_its_name(tmp_path):
    (tmp_path / "mnist").mkdir()
    arrays = write_mnist(tmp_path / "mnist")
    np.testing.assert_array_equal(_data.read_mnist(tmp_path)[1].labels, arrays[MNIST_FILES[3]])


def test_mnist_is_scaled_and_split(tmp_path):
    arrays = write_mnist(tmp_path)
    train, validation, test = _data.load("mnist", tmp_path)
    assert [len(part.labels) for part in (train, validation, test)] == [80, 20, 20]
    assert np.bincount(validation.labels).tolist() == [2] * 10
    assert (test.images.dtype, test.labels.dtype) == (np.float32, np.int32)
    expected = arrays[MNIST_FILES[2]].astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(test.images[..., 0], expected)


def set_byte(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


BROKEN_IDX: list[tuple[str, Callable[[bytes], bytes], str]] = [
    (MNIST_FILES[0], lambda data: data[:-1], "not a whole IDX file"),
    (MNIST_FILES[0], lambda data: data + b"0", "not a whole IDX file"),
    (MNIST_FILES[0], lambda data: data[:10], "not a whole IDX file"),
    (MNIST_FILES[0], lambda data: b"", "only 0 bytes"),
    (MNIST_FILES[0], lambda data: b"<!DOCTYPE html>", "magic number"),
    (MNIST_FILES[0], lambda data: gzip.compress(data), "magic number"),
    (MNIST_FILES[0], lambda data: set_byte(data, 2, 7), "data type code: 0x07"),
    (MNIST_FILES[0], lambda data: set_byte(data, 4, 255), "not a whole IDX file"),
    (MNIST_FILES[0], lambda data: data[:4] + b"\xff" * 12, "not a whole IDX file"),
    (MNIST_FILES[0], lambda data: idx_bytes(np.zeros((100, 28, 27), np.uint8)), "(100, 28, 27)"),
    (MNIST_FILES[1], lambda data: idx_bytes(np.zeros(99, np.uint8)), "99 labels for 100 images"),
    (MNIST_FILES[1], lambda data: idx_bytes(np.zeros((100, 1), np.uint8)), "(100, 1)"),
    (MNIST_FILES[1], lambda data: b"\0\0\x08\0\x05", "shape ()"),
    (MNIST_FILES[1], lambda data: b"\0\0\x0b\1\0\0\0\1\0\5", ">i2"),
    (MNIST_FILES[3], lambda data: set_byte(data, len(data) - 1, 10), "a label 10"),
]


@pytest.mark.parametrize(("name", "damage", "message"), BROKEN_IDX)
def test_broken_mnist_file_is_named_with_what_is_wrong(tmp_path, name, damage, message):
    write_mnist(tmp_path)
    (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
    with pytest.raises(_data.DataError) as caught:
        _data.load("mnist", tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-20], lambda data: data[:-4] + b"0000", lambda data: b"not gzip at all"],
)
def test_broken_gzip_file_is_named(tmp_path, damage):
    write_mnist(tmp_path, zipped=True)
    path = tmp_path / f"{MNIST_FILES[2]}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(_data.DataError, match=r"t10k-images-idx3-ubyte\.gz: not a whole gzip file"):
        _data.read_mnist(tmp_path)


def test_empty_mnist_labels_are_refused(tmp_path):
    write_mnist(tmp_path, test=0)
    with pytest.raises(_data.DataError, match="t10k-labels-idx1-ubyte: no labels"):
        _data.read_mnist(tmp_path)


def test_too_few_examples_to_split(tmp_path):
    write_mnist(tmp_path, train=15)
    with pytest.raises(_data.DataError, match="cannot split off validation data") as caught:
        _data.load("mnist", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["", "cifar-10-batches-bin", "archive"])
def test_cifar10_reader_returns_what_was_written(tmp_path, form):
    folder = tmp_path / form
    folder.mkdir(exist_ok=True)
    *train, test = write_cifar10(folder).values()
    if form == "archive":
        (tmp_path / _data.CIFAR10_ARCHIVE).write_bytes(cifar10_archive(folder))
    read_train, read_test = _data.read_cifar10(tmp_path)
    for read, expected in zip(read_test, test, strict=True):
        np.testing.assert_array_equal(read, expected)
    for read, expected in zip(read_train, zip(*train, strict=True), strict=True):
        np.testing.assert_array_equal(read, np.concatenate(expected))
    assert [len(part.labels) for part in _data.load("cifar10", tmp_path)] == [80, 20, 20]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "61459 bytes, expected a multiple of 3073"),
        (lambda data: b"", "0 bytes"),
        (lambda data: set_byte(data, 3073, 77), "a label 77"),
    ],
)
def test_broken_cifar10_file_is_named_with_what_is_wrong(tmp_path, damage, message):
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_3.bin"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(_data.DataError) as caught:
        _data.load("cifar10", tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_broken_cifar10_archive_is_named(tmp_path):
    (tmp_path / "files").mkdir()
    write_cifar10(tmp_path / "files")
    path = tmp_path / _data.CIFAR10_ARCHIVE
    for content in (cifar10_archive(tmp_path / "files")[:-1000], b"<!DOCTYPE html>", b""):
        path.write_bytes(content)
        with pytest.raises(_data.DataError) as caught:
            _data.load("cifar10", tmp_path)
        assert str(caught.value).startswith(f"{path}: not a whole .tar.gz file: ")
        assert "\n" not in str(caught.value)
    (tmp_path / "files" / "data_batch_4.bin").unlink()
    path.write_bytes(cifar10_archive(tmp_path / "files"))
    with pytest.raises(_data.DataError, match=r"data_batch_4\.bin: 0 bytes"):
        _data.load("cifar10", tmp_path)


def test_missing_files_are_named_with_what_is_needed(tmp_path):
    with pytest.raises(_data.DataError, match=r"train-images-idx3-ubyte: No such.*plain or \.gz"):
        _data.load("mnist", tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(_data.DataError, match=r"data_batch_1\.bin: No such.*binary version"):
        _data.load("cifar10", tmp_path)
    (tmp_path / "data_batch_1.bin").mkdir()
    with pytest.raises(_data.DataError, match=r"data_batch_1\.bin: Is a directory"):
        _data.load("cifar10", tmp_path)


def test_data_dir_must_exist(tmp_path):
    with pytest.raises(_data.DataError, match="nowhere: no such folder"):
        _data.load("cifar10", tmp_path / "nowhere")
