"""MNIST and CIFAR-10 as their authors packed them, downloaded once into the user's cache."""

import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook its other progress bar, tqdm's, would warn
    import pooch

CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CHUNK = 1 << 16  # bytes; each is an update of the progress bar


class DataError(Exception):
    """A dataset that cannot be used; the message is one line saying which file and why."""


class Source(NamedTuple):
    """The mirrors of a dataset, each of which has all its files, and the files' SHA-256."""

    mirrors: tuple[str, ...]
    files: dict[str, str]


# The hashes of MNIST are of the archives whose MD5 torchvision publishes; CIFAR-10's is published.
SOURCES = {
    "mnist": Source(
        (
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        ),
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    ),
    "cifar10": Source(
        ("https://www.cs.toronto.edu/~kriz/",),
        {CIFAR10_ARCHIVE: "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
}


def fetch(name: str) -> Path:
    """Return the folder of a dataset's archives; download those that are missing or damaged."""
    folder = pooch.os_cache("adashift-optax") / name
    pooch.get_logger().setLevel("WARNING")  # it would announce each download on stderr
    mirrors, files = SOURCES[name]
    for file, digest in files.items():
        failures = []
        for mirror in mirrors:
            failure = _failure(mirror, file, digest, folder)
            if failure is None:
                break
            failures.append(f"{mirror}: {failure}")
        else:
            raise DataError(
                f"{file} cannot be downloaded into {folder} ({'; '.join(failures)}): put "
                f"{', '.join(files)} there, or name the folder that has them with --data-dir"
            )
    return folder


def _failure(mirror: str, file: str, digest: str, folder: Path) -> str | None:
    """Download a file of `folder` unless it is there; return why that failed, or None."""
    downloader: Any = _download  # pooch calls it so, whatever its own type says
    try:
        pooch.retrieve(mirror + file, digest, file, folder, downloader=downloader)
    except ValueError:  # pooch has deleted the download
        return f"not the file of SHA-256 {digest}"
    except OSError as error:  # those of requests have long texts, and no strerror
        return error.strerror or type(error).__name__
    return None


def _download(url: str, output: str, owner: Any) -> None:
    """Download a file for pooch, under a progress bar where somebody sees it."""
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        bar: Any = _Bar(progress, url.rsplit("/", 1)[1])
        pooch.HTTPDownloader(progressbar=bar, chunk_size=CHUNK)(url, output, owner)


class _Bar:
    """A bar of rich, with the methods that pooch calls; pooch sets `total` before the first."""

    def __init__(self, progress: Progress, description: str) -> None:
        self.total: int | None = None
        self.progress = progress
        self.task = progress.add_task(description, total=None)

    def update(self, amount: int) -> None:
        """Count bytes."""
        self.progress.update(self.task, total=self.total, advance=amount)

    def reset(self) -> None:
        """Start again from 0."""
        self.progress.update(self.task, completed=0)

    def close(self) -> None:
        """Nothing to do: the bar ends with its `progress`."""
