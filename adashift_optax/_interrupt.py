"""Ctrl-C while ``python -m adashift_optax`` still imports: one line, no traceback."""

import os
import signal
from typing import Any, NoReturn


def end_on_ctrl_c() -> None:
    """Until another handler is set, end the process at once when the user presses Ctrl-C."""
    signal.signal(signal.SIGINT, _end)


def _end(*_: Any) -> NoReturn:
    # A KeyboardInterrupt in the middle of an import can be lost, or print tracebacks of threads.
    os.write(2, b"interrupted\n")
    os._exit(130)
