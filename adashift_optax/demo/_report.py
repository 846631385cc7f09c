"""What the demo says on stderr while it works: a bar on a terminal, elsewhere plain lines."""

import sys
import time
from typing import Any

from tqdm import tqdm

INTERVAL = 5.0  # seconds between two lines


class Report:
    """Counts the finished runs. After `stop` its next call raises KeyboardInterrupt."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.stopped = total, 0, False
        self.last_line = time.monotonic()
        self.bar = tqdm(total=total, unit="run", disable=None, dynamic_ncols=True)

    def stop(self, *_: Any) -> None:
        """Note that the user has pressed Ctrl-C."""
        self.stopped = True

    def check(self) -> None:
        """Raise KeyboardInterrupt if the user has pressed Ctrl-C."""
        if self.stopped:
            raise KeyboardInterrupt

    def compiling(self, what: str) -> None:
        """Say what JAX compiles next, which takes a second or more."""
        self.training(f"compiling {what}")
        self._print_line(f"compiling {what} ...")

    def training(self, what: str) -> None:
        """Say which optimizer is trained next."""
        self.check()
        self.bar.set_description(what)

    def finished(self) -> None:
        """Count one run."""
        self.done += 1
        self.bar.update()
        if self.done == self.total or time.monotonic() - self.last_line > INTERVAL:
            self._print_line(f"{self.done} of {self.total} runs done")

    def _print_line(self, text: str) -> None:
        self.last_line = time.monotonic()
        if self.bar.disable:
            print(text, file=sys.stderr, flush=True)
