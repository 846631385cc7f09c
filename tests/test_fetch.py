"""The demo's downloads, from a server on loopback that has small archives."""

import hashlib
import io
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from demo_runs import run
from image_files import MNIST_FILES, cifar10_archive, write_cifar10, write_mnist
from loopback import Handler, nowhere, serving

from adashift_optax.demo import _data, _fetch

ZIPPED = [f"{name}.gz" for name in MNIST_FILES]
ARCHIVE = "cifar-10-binary.tar.gz"

pytestmark = pytest.mark.slow


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A mirror of both datasets, the only one; the arrays on it, and the folder of the cache."""
    folder, files, cache = (tmp_path / name for name in ("site", "files", "cache"))
    for new in (folder, files, cache):
        new.mkdir()
    arrays = {"mnist": write_mnist(folder, zipped=True), "cifar10": write_cifar10(files)}
    (folder / ARCHIVE).write_bytes(cifar10_archive(files))
    handler = type("Counting", (Handler,), {"requests": []})
    mirrors = {}
    monkeypatch.setattr(_fetch, "MIRRORS", mirrors)
    for name, names in (("mnist", ZIPPED), ("cifar10", [ARCHIVE])):
        hashes = {x: hashlib.sha256((folder / x).read_bytes()).hexdigest() for x in names}
        monkeypatch.setitem(_fetch.FILES, name, hashes)
    monkeypatch.setattr(pooch, "os_cache", lambda project: cache / project)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(folder, handler) as url:
        mirrors.update(mnist=(url,), cifar10=(url,))
        made = dict(arrays=arrays, handler=handler, mirrors=mirrors, url=url, folder=folder)
        yield SimpleNamespace(**made, cache=cache / "adashift-optax")


def cached(site):
    """All files in the cache."""
    files = (path for path in site.cache.rglob("*") if path.is_file())
    return sorted(path.relative_to(site.cache).as_posix() for path in files)


def error_of(name):
    """The line that says why a dataset cannot be had."""
    with pytest.raises(_data.DataError) as caught:
        _data.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sources_are_the_files_that_the_readers_read():
    files = {name: [*digests] for name, digests in _fetch.FILES.items()}
    assert files == {"mnist": ZIPPED, "cifar10": [ARCHIVE]}
    for name, digests in _fetch.FILES.items():
        assert all(url.startswith("https://") and url[-1] == "/" for url in _fetch.MIRRORS[name])
        assert all(len(bytes.fromhex(digest)) == 32 for digest in digests.values())


def test_both_datasets_are_downloaded_once_and_damaged_files_again(
    site, monkeypatch, capfd, caplog
):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    for _ in range(2):
        mnist, cifar10 = _data.load("mnist"), _data.load("cifar10")
        np.testing.assert_array_equal(mnist.test.labels, site.arrays["mnist"][MNIST_FILES[3]])
        images, _ = site.arrays["cifar10"]["test_batch.bin"]
        np.testing.assert_array_equal(cifar10.test.images, images.astype("f4") / np.float32(255))
    assert site.handler.requests == [*ZIPPED, ARCHIVE]
    assert cached(site) == [f"cifar10/{ARCHIVE}", *sorted(f"mnist/{name}" for name in ZIPPED)]
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    damaged = site.cache / "mnist" / ZIPPED[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _data.load("mnist")
    assert site.handler.requests[5:] == [damaged.name]


def test_offline_is_one_line_that_says_what_to_put_where(site, tmp_path):
    """And a file put into the cache by hand, or a --data-dir, needs no server."""
    site.mirrors.update(mnist=(nowhere(), nowhere()), cifar10=(nowhere(),))
    line = error_of("mnist")
    for words in (*(f"{url}: ConnectionError" for url in site.mirrors["mnist"]), *ZIPPED):
        assert words in line
    assert f"into {site.cache / 'mnist'} " in line
    assert "--data-dir" in line
    assert cached(site) == []
    line = error_of("cifar10")
    assert f"{ARCHIVE} there" in line
    (folder,) = [Path(word) for word in line.split() if word.startswith(str(site.cache))]
    (folder / ARCHIVE).write_bytes((site.folder / ARCHIVE).read_bytes())
    assert len(_data.load("cifar10").test.labels) == 20
    assert len(_data.load("mnist", site.folder).test.labels) == 20
    assert not site.handler.requests


def test_another_file_or_half_of_one_is_refused_and_not_kept(site):
    page = site.folder / ZIPPED[2]
    page.write_bytes(b"<!DOCTYPE html>")
    line, digest = error_of("mnist"), _fetch.FILES["mnist"][page.name]
    assert line.startswith(f"{page.name} cannot be downloaded")
    assert f"{site.url}: not the file of SHA-256 {digest}" in line
    assert cached(site) == [f"mnist/{name}" for name in sorted(ZIPPED[:2])]
    site.handler.half = lambda handler: None
    assert f"{site.url}: ChunkedEncodingError" in error_of("cifar10")
    assert len(cached(site)) == 2
    site.handler.half = None
    assert len(_data.load("cifar10").test.labels) == 20


def test_the_next_mirror_is_asked_when_one_fails(site):
    (site.folder / "other").mkdir()
    for name in ZIPPED:
        (site.folder / "other" / name).write_bytes(b"another file")
    failing = nowhere(), f"{site.url}missing/", f"{site.url}other/"
    site.mirrors["mnist"] = (*failing, site.url)
    assert len(_data.load("mnist").test.labels) == 20
    assert len(cached(site)) == 4
    site.mirrors["cifar10"] = failing[1:2]
    assert f"{failing[1]}: HTTPError" in error_of("cifar10")


def test_a_cache_that_is_a_file_is_one_line(site):
    site.cache.touch()
    line = error_of("mnist")
    assert f"into {site.cache / 'mnist'} " in line
    assert "directory" in line or "exists" in line


def test_ctrl_c_ends_a_download(site, tmp_path):
    done = threading.Event()

    def interrupt(handler):
        # Another thread that gets the signal would leave this one waiting for the server.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        done.wait(60)

    site.handler.half = interrupt
    handler = signal.getsignal(signal.SIGINT)
    try:
        ended = run("--dataset", "cifar10", "--output", tmp_path / "runs")
    finally:
        done.set()
    assert ended.code == 130
    assert "nothing written" in ended.err
    assert cached(site) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_terminal_sees_a_bar_for_each_file(site, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    _fetch.fetch("mnist")
    bars = terminal.getvalue().splitlines()
    assert len([bar for bar in bars if "100%" in bar]) == len(ZIPPED)
