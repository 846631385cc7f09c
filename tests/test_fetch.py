"""The demo's downloads, from a server on loopback that has small archives."""

import hashlib
import http.server
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from image_files import MNIST_FILES, write_mnist

from adashift_optax.demo import _data, _fetch

ZIPPED = [f"{name}.gz" for name in MNIST_FILES]
NOWHERE = "http://127.0.0.1:1/"

pytestmark = pytest.mark.slow


class Handler(http.server.SimpleHTTPRequestHandler):
    """Sends the files of a folder, or half of each; notes the requests."""

    def do_GET(self):
        self.server.requests.append(self.path[1:])
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.server.half else content)

    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """The second of two mirrors of MNIST, and the only one that answers."""
    (folder := tmp_path / "site").mkdir()
    arrays = write_mnist(folder, zipped=True)
    hashes = {x: hashlib.sha256((folder / x).read_bytes()).hexdigest() for x in ZIPPED}
    monkeypatch.setitem(_fetch.FILES, "mnist", hashes)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    make = partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        server.requests, server.half = [], False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setitem(_fetch.MIRRORS, "mnist", (NOWHERE, url))
        cache = tmp_path / "adashift-optax" / "mnist"
        yield SimpleNamespace(arrays=arrays, server=server, url=url, folder=folder, cache=cache)
        server.shutdown()


def error():
    """The line that says why MNIST cannot be had."""
    with pytest.raises(_data.DataError) as caught:
        _data.load("mnist")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cached(site):
    return sorted(path.name for path in site.cache.rglob("*"))


def test_files_are_downloaded_once_and_damaged_ones_again(site, monkeypatch, capfd, caplog):
    monkeypatch.setattr(pooch.get_logger(), "handlers", [caplog.handler])
    for _ in range(2):
        labels = _data.load("mnist").test.labels
        np.testing.assert_array_equal(labels, site.arrays[MNIST_FILES[3]])
    assert site.server.requests == ZIPPED
    assert cached(site) == sorted(ZIPPED)
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])
    damaged = site.cache / ZIPPED[1]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    _data.load("mnist")
    assert site.server.requests[4:] == [damaged.name]


def test_offline_is_one_line_that_says_what_to_put_where(site, monkeypatch):
    """And a file put into the cache by hand, or a --data-dir, needs no server."""
    monkeypatch.setitem(_fetch.MIRRORS, "mnist", (NOWHERE, NOWHERE))
    line = error()
    assert line.count(f"{NOWHERE}: ConnectionError") == 2
    assert all(word in line for word in (f"into {site.cache} ", "--data-dir", *ZIPPED))
    assert cached(site) == []
    for name in ZIPPED:
        (site.cache / name).write_bytes((site.folder / name).read_bytes())
    assert [len(_data.load("mnist", x).test.labels) for x in (None, site.folder)] == [20, 20]
    assert not site.server.requests


def test_another_file_or_half_of_one_is_refused_and_not_kept(site):
    site.server.half = True
    assert f"{site.url}: ChunkedEncodingError" in error()
    site.server.half = False
    (site.folder / ZIPPED[2]).write_bytes(b"<!DOCTYPE html>")
    line, digest = error(), _fetch.FILES["mnist"][ZIPPED[2]]
    assert line.startswith(f"{ZIPPED[2]} cannot be downloaded")
    assert f"{site.url}: not the file of SHA-256 {digest}" in line
    assert cached(site) == sorted(ZIPPED[:2])


def test_a_cache_that_is_a_file_is_one_line(site):
    site.cache.parent.touch()
    assert f"into {site.cache} " in error()
