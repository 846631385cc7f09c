"""What the demo says on stderr while it works: a bar on a terminal, elsewhere plain lines."""

import signal
import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

INTERVAL = 5.0  # seconds between two lines


class Report:
    """Counts the finished runs. Within `with`, Ctrl-C makes the next call raise KeyboardInterrupt.

    A KeyboardInterrupt that Python raises in the middle of JAX's own code can be lost or crash.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.stopped = total, 0, False
        self.last_line = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.plain = not sys.stderr.isatty()
        self.bar = Progress(*columns, console=Console(stderr=True), expand=True, disable=self.plain)
        self.task = self.bar.add_task("", total=total)

    def __enter__(self) -> "Report":
        self.previous = signal.signal(signal.SIGINT, self._stop)
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.bar.stop()
        signal.signal(signal.SIGINT, self.previous)

    def _stop(self, *_: Any) -> None:
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
        self.bar.update(self.task, description=what)

    def finished(self) -> None:
        """Count one run."""
        self.done += 1
        self.bar.update(self.task, completed=self.done)
        if self.done == self.total or time.monotonic() - self.last_line > INTERVAL:
            self._print_line(f"{self.done} of {self.total} runs done")

    def _print_line(self, text: str) -> None:
        self.last_line = time.monotonic()
        if self.plain:
            print(text, file=sys.stderr, flush=True)
