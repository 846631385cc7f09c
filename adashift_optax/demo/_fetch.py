"""MNIST and CIFAR-10 as their authors packed them, downloaded once into the user's cache."""

import sys
import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook its progress bar, tqdm's, would warn
    import pooch


class DataError(Exception):
    """A dataset that cannot be used; the message is one line saying which file and why."""


# The hashes of MNIST are of the archives whose MD5 torchvision publishes; CIFAR-10's is published.
MNIST = {
    "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
FILES = {
    "mnist": {f"{name}.gz": digest for name, digest in MNIST.items()},
    "cifar10": {
        CIFAR10_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    },
}
MIRRORS = {  # each has all files of its dataset
    "mnist": (
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "cifar10": ("https://www.cs.toronto.edu/~kriz/",),
}


def fetch(name: str) -> Path:
    """Return the folder of a dataset's archives; download those that are missing or damaged."""
    folder = pooch.os_cache("adashift-optax") / name
    pooch.get_logger().setLevel("WARNING")  # it would announce each download on stderr
    for file, digest in FILES[name].items():
        failures = []
        for mirror in MIRRORS[name]:
            try:
                bar = sys.stderr.isatty()
                pooch.retrieve(mirror + file, digest, file, folder, progressbar=bar)
                break
            except ValueError:  # pooch has deleted the download
                reason = f"not the file of SHA-256 {digest}"
            except OSError as error:  # those of requests have long texts, and no strerror
                reason = error.strerror or type(error).__name__
            failures.append(f"{mirror}: {reason}")
        else:
            raise DataError(
                f"{file} cannot be downloaded into {folder} ({'; '.join(failures)}): put "
                f"{', '.join(FILES[name])} there, or name the folder that has them with --data-dir"
            )
    return folder
