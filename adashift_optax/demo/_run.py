"""One comparison from its data to its files, with a progress bar and a clean end on Ctrl-C."""

import signal
import sys
import threading
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from adashift_optax.demo import _data, _results, _training


def run(
    names: list[str], epochs: int, seeds: int, dataset: str, data_dir: Path | None, output: Path
) -> int:
    """Run the comparison, write its files, print its table; return the exit code."""
    total = len(names) * len(_training.LEARNING_RATES) * seeds
    numbers, curves = output / f"{dataset}.csv", output / f"{dataset}.png"
    rows: list[_training.Row] = []
    stop = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    try:
        data = _data.load(dataset, data_dir)  # may download, which Ctrl-C ends at once
        # Raised in the middle of JAX's own code, a KeyboardInterrupt can be lost or crash.
        signal.signal(signal.SIGINT, lambda *_: stop.set())
        output.mkdir(parents=True, exist_ok=True)
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("training", total=total)
            for finished in _training.compare(data, names, epochs, seeds, stop):
                rows += finished
                _results.save_csv(rows, numbers)
                curves.unlink(missing_ok=True)  # those of an earlier comparison
                progress.update(task, advance=1, description=finished[0].optimizer)
        title = f"{dataset}, {seeds} seed(s), {epochs} epoch(s), learning rate by validation loss"
        _results.save_figure(_results.select(rows), title, curves)
    except KeyboardInterrupt:
        where = f"see {numbers}" if rows else "nothing written"
        print(f"interrupted: {len(rows) // epochs} of {total} runs done, {where}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGINT, previous)
    Console().print(_results.make_table(rows, title))
    print(f"wrote {numbers} and {curves}")
    return 0
