"""The arguments of ``python -m adashift_optax``, and its clean end on Ctrl-C."""

import argparse
import io
import signal
import sys
from functools import partial
from pathlib import Path

import pandas as pd

from adashift_optax.demo import _data, _picture, _results, _table, _training
from adashift_optax.demo._report import Report

EPOCHS = {"digits": 30, "mnist": 3, "cifar10": 5}


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments and run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m adashift_optax",
        description="Train a small network on images with AdaShift and with its relatives, each at "
        "the learning rate that does best on validation data, and compare them.",
    )
    add, names = parser.add_argument, list(_training.OPTIMIZERS)
    text = f"of {', '.join(names)} (default: all)"
    add("--optimizers", nargs="+", choices=names, default=names, metavar="NAME", help=text)
    text = ", ".join(f"{number} for {name}" for name, number in EPOCHS.items())
    add("--epochs", type=whole_number, metavar="N", help=f"default: {text}")
    add("--seeds", type=whole_number, default=5, metavar="N", help="default: 5")
    add("--dataset", choices=EPOCHS, default="digits", help="default: digits")
    text = "folder of the original files of MNIST or CIFAR-10 (default: the user's cache, into "
    add("--data-dir", type=Path, help=f"{text} which they are downloaded once)")
    add("--output", type=Path, default=Path("runs"), help="folder to write to (default: runs)")
    args = parser.parse_args(argv)
    if args.dataset == "digits" and args.data_dir is not None:
        parser.error(
            f"argument --data-dir: must not be given with --dataset digits, which reads no files, "
            f"got {args.data_dir}: leave it out, or add --dataset mnist or cifar10"
        )
    args.optimizers = list(dict.fromkeys(args.optimizers))
    args.epochs = args.epochs or EPOCHS[args.dataset]
    if isinstance(sys.stdout, io.TextIOWrapper):  # the paths may have characters that it lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return run(args)
    except (_data.DataError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGINT, previous)


def run(args: argparse.Namespace) -> int:
    """Run the comparison, write its files, print its table; return the exit code."""
    total = len(args.optimizers) * len(_training.LEARNING_RATES) * args.seeds
    numbers, curves = (args.output / f"{args.dataset}.{kind}" for kind in ("csv", "png"))
    runs: list[pd.DataFrame] = []
    try:
        data = _data.load(args.dataset, args.data_dir)  # may download, which Ctrl-C ends at once
        report = Report(total)
        # A KeyboardInterrupt that Python raises in the middle of JAX's code can be lost or crash.
        signal.signal(signal.SIGINT, report.stop)
        with report.bar:
            args.output.mkdir(parents=True, exist_ok=True)
            choice = args.optimizers, args.epochs, args.seeds
            for finished in _training.compare(data, *choice, report):
                runs.append(finished)
                _results.write_whole(numbers, partial(pd.concat(runs).to_csv, index=False))
                curves.unlink(missing_ok=True)  # those of an earlier comparison
                report.finished()
        rows = pd.concat(runs, ignore_index=True)
        _picture.save_figure(_results.select(rows), args.dataset, curves)
    except KeyboardInterrupt:
        where = f"see {numbers}" if runs else "nothing written"
        print(f"interrupted: {len(runs)} of {total} runs done, {where}", file=sys.stderr)
        return 130  # 128 + 2, the number of SIGINT
    except OSError as error:
        rule = "must be a folder that can be written to, or made"
        reason = error.strerror or error
        print(f"--output {rule}, got {args.output} ({reason}): name another", file=sys.stderr)
        return 2
    _table.show(rows, args.dataset)
    print(f"wrote {numbers} and {curves}")
    return 0


def whole_number(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
