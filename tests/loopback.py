"""A server on loopback that sends the files of a folder, and may break off."""

import contextlib
import http.server
import socket
import threading
from functools import partial
from pathlib import Path


class Handler(http.server.SimpleHTTPRequestHandler):
    """Notes each request; with `half`, sends half a file, calls that, and breaks off."""

    requests: list[str]
    half = None

    def do_GET(self):
        self.requests.append(self.path[1:])
        if self.half is None:
            return super().do_GET()
        content = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.half()

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(folder, handler):
    """Serve a folder; yields the address."""
    make = partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def nowhere():
    """The address of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/"
