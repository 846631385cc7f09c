"""The demo's downloads, from a server on loopback that has small archives."""

import contextlib
import hashlib
import os
import pty
import signal
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from image_files import MNIST_FILES, cifar10_archive, write_cifar10, write_mnist
from loopback import Handler, nowhere, serving

from adashift_optax.__main__ import main
from adashift_optax.demo import _data, _fetch

ARCHIVES = {
    "mnist": [f"{name}.gz" for name in MNIST_FILES],
    "cifar10": ["cifar-10-binary.tar.gz"],
}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A mirror of both datasets, the only one; the arrays on it, and the folder of the cache."""
    folders = {name: tmp_path / name for name in ("site", "files", "cache")}
    for folder in folders.values():
        folder.mkdir()
    arrays = {"mnist": write_mnist(folders["site"], zipped=True)}
    arrays["cifar10"] = write_cifar10(folders["files"])
    (folders["site"] / ARCHIVES["cifar10"][0]).write_bytes(cifar10_archive(folders["files"]))
    handler = type("Counting", (Handler,), {"requests": []})
    with serving(folders["site"], handler) as url:
        sources = {
            name: _fetch.Source((url,), {file: sha256(folders["site"] / file) for file in files})
            for name, files in ARCHIVES.items()
        }
        monkeypatch.setattr(_fetch, "SOURCES", sources)
        monkeypatch.setattr(pooch, "os_cache", lambda project: folders["cache"] / project)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        cache = folders["cache"] / "adashift-optax"
        yield SimpleNamespace(
            arrays=arrays,
            handler=handler,
            sources=sources,
            url=url,
            folder=folders["site"],
            cache=cache,
        )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def cached(site: SimpleNamespace) -> list[str]:
    """All files in the cache."""
    return sorted(
        p.relative_to(site.cache).as_posix() for p in site.cache.rglob("*") if p.is_file()
    )


def error_of(name: str) -> str:
    """The line that says why a dataset cannot be had."""
    with pytest.raises(_data.DataError) as caught:
        _data.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def use_mirrors(site: SimpleNamespace, name: str, *mirrors: str) -> None:
    site.sources[name] = site.sources[name]._replace(mirrors=mirrors)


def test_sources_are_the_files_that_the_readers_read():
    assert {name: list(source.files) for name, source in _fetch.SOURCES.items()} == ARCHIVES
    for source in _fetch.SOURCES.values():
        assert all(url.startswith("https://") and url.endswith("/") for url in source.mirrors)
        assert all(len(bytes.fromhex(digest)) == 32 for digest in source.files.values())


def test_both_datasets_are_downloaded_once(site, monkeypatch, capfd, caplog):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    for _ in range(2):
        mnist, cifar10 = _data.load("mnist"), _data.load("cifar10")
        images = site.arrays["mnist"][MNIST_FILES[2]].astype(np.float32) / np.float32(255)
        np.testing.assert_array_equal(mnist.test.images[..., 0], images)
        images, labels = site.arrays["cifar10"]["test_batch.bin"]
        np.testing.assert_array_equal(cifar10.test.images, images.astype("f4") / np.float32(255))
        np.testing.assert_array_equal(cifar10.test.labels, labels)
    assert site.handler.requests == [*ARCHIVES["mnist"], *ARCHIVES["cifar10"]]
    assert cached(site) == sorted(f"{name}/{f}" for name, files in ARCHIVES.items() for f in files)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_damaged_file_of_the_cache_is_downloaded_again(site):
    _data.load("mnist")
    damaged = site.cache / "mnist" / ARCHIVES["mnist"][1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    site.handler.requests.clear()
    _data.load("mnist")
    assert site.handler.requests == [damaged.name]


def test_files_put_into_the_cache_by_hand_need_no_server(site):
    use_mirrors(site, "cifar10", nowhere())
    line = error_of("cifar10")
    assert f"{ARCHIVES['cifar10'][0]} there" in line
    (folder,) = [Path(word) for word in line.split() if word.startswith(str(site.cache))]
    folder.joinpath(ARCHIVES["cifar10"][0]).write_bytes(
        (site.folder / ARCHIVES["cifar10"][0]).read_bytes()
    )
    assert len(_data.load("cifar10").test.labels) == 20
    assert not site.handler.requests


def test_a_file_of_another_hash_is_refused_and_not_kept(site):
    page = site.folder / ARCHIVES["mnist"][2]
    page.write_bytes(b"<!DOCTYPE html>")
    line = error_of("mnist")
    digest = site.sources["mnist"].files[page.name]
    assert line.startswith(f"{page.name} cannot be downloaded")
    assert f"{site.url}: not the file of SHA-256 {digest}" in line
    assert cached(site) == [f"mnist/{name}" for name in sorted(ARCHIVES["mnist"][:2])]


def test_a_download_that_breaks_off_leaves_nothing(site):
    site.handler.half = lambda handler: None
    assert f"{site.url}: ChunkedEncodingError" in error_of("cifar10")
    assert cached(site) == []
    site.handler.half = None
    assert len(_data.load("cifar10").test.labels) == 20


def test_offline_is_one_line_that_says_what_to_put_where(site):
    mirrors = nowhere(), nowhere()
    use_mirrors(site, "mnist", *mirrors)
    line = error_of("mnist")
    for words in (*(f"{mirror}: ConnectionError" for mirror in mirrors), *ARCHIVES["mnist"]):
        assert words in line
    assert f"into {site.cache / 'mnist'} " in line
    assert "--data-dir" in line
    assert cached(site) == []


@pytest.mark.parametrize("trouble", ["no server", "no such file", "another file"])
def test_the_next_mirror_is_asked_when_one_fails(site, trouble):
    first = {"no server": nowhere(), "no such file": f"{site.url}missing/"}.get(trouble)
    if first is None:
        first = f"{site.url}other/"
        (site.folder / "other").mkdir()
        for name in ARCHIVES["mnist"]:
            (site.folder / "other" / name).write_bytes(b"another file")
    use_mirrors(site, "mnist", first, site.url)
    assert len(_data.load("mnist").test.labels) == 20
    assert len(cached(site)) == 4


def test_a_missing_file_of_the_only_mirror_is_named(site):
    (site.folder / ARCHIVES["cifar10"][0]).unlink()
    assert f"{site.url}: HTTPError" in error_of("cifar10")


def test_a_cache_that_is_a_file_is_one_line(site):
    site.cache.touch()
    line = error_of("mnist")
    assert f"into {site.cache / 'mnist'} " in line
    assert "directory" in line or "exists" in line


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_data_dir_asks_no_server(site, name, tmp_path):
    (tmp_path / "given").mkdir()
    write = write_mnist if name == "mnist" else write_cifar10
    write(tmp_path / "given")
    assert len(_data.load(name, tmp_path / "given").test.labels) == 20
    assert not site.handler.requests
    assert not site.cache.exists()


def test_ctrl_c_ends_a_download(site, capsys, tmp_path):
    done = threading.Event()

    def interrupt(handler):
        # Another thread that gets the signal would leave this one waiting for the server.
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        done.wait(60)

    site.handler.half = interrupt
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(["--dataset", "cifar10", "--output", str(tmp_path / "runs")]) == 130
    finally:
        done.set()
    assert "nothing written" in capsys.readouterr().err
    assert cached(site) == []
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_terminal_sees_a_bar_for_each_file(site, monkeypatch):
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read():
        with contextlib.suppress(OSError):  # Linux's end of file
            while part := os.read(ours, 4096):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        _fetch.fetch("mnist")
    reader.join()
    os.close(ours)
    for name in ARCHIVES["mnist"]:
        size = (site.folder / name).stat().st_size
        whole = f"{size}/{size} bytes" if size < 1000 else f"{size / 1000:.1f}/{size / 1000:.1f} kB"
        last = shown.decode().split(name)[-1].split(".gz")[0]
        assert whole in last
