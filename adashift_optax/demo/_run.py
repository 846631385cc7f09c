"""One comparison from its data to its files, with a clean end on Ctrl-C."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from adashift_optax.demo import _data, _picture, _results, _table, _training
from adashift_optax.demo._report import Report


class OutputError(Exception):
    """A folder that cannot be written to; the message is one line saying which and why."""


@contextlib.contextmanager
def _writing_to(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        rule = "must be a folder that can be written to, or made"
        reason = error.strerror or error
        raise OutputError(f"--output {rule}, got {output} ({reason}): name another") from error


def run(
    names: list[str], epochs: int, seeds: int, dataset: str, data_dir: Path | None, output: Path
) -> int:
    """Run the comparison, write its files, print its table; return the exit code."""
    total = len(names) * len(_training.LEARNING_RATES) * seeds
    numbers, curves = output / f"{dataset}.csv", output / f"{dataset}.png"
    rows: list[_training.Row] = []
    lines = _results.as_csv([_training.Row._fields])
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        data = _data.load(dataset, data_dir)  # may download, which Ctrl-C ends at once
        with _writing_to(output), Report(total) as report:
            output.mkdir(parents=True, exist_ok=True)
            for finished in _training.compare(data, names, epochs, seeds, report):
                rows += finished
                lines += _results.as_csv(finished)
                _results.write_whole(numbers, lines.encode())
                curves.unlink(missing_ok=True)  # those of an earlier comparison
                report.finished()
        with _writing_to(output):
            _picture.save_figure(_results.select(rows), dataset, curves)
    except KeyboardInterrupt:
        where = f"see {numbers}" if rows else "nothing written"
        print(f"interrupted: {len(rows) // epochs} of {total} runs done, {where}", file=sys.stderr)
        return 130  # 128 + 2, the number of SIGINT
    finally:
        signal.signal(signal.SIGINT, previous)
    _table.show(rows, dataset)
    print(f"wrote {numbers} and {curves}")
    return 0
