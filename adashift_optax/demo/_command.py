"""The arguments of ``python -m adashift_optax``."""

import argparse
import io
import sys
from pathlib import Path

from adashift_optax.demo import _data, _run, _training

EPOCHS = {"digits": 30, "mnist": 3, "cifar10": 5}


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments and run the comparison; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m adashift_optax",
        description="Train a small network on images with AdaShift and with its relatives, each at "
        "the learning rate that does best on validation data, and compare them.",
    )
    add = parser.add_argument
    names = list(_training.OPTIMIZERS)
    add(
        "--optimizers",
        nargs="+",
        choices=names,
        default=names,
        metavar="NAME",
        help=f"of {', '.join(names)} (default: all)",
    )
    epochs = ", ".join(f"{number} for {name}" for name, number in EPOCHS.items())
    add("--epochs", type=whole_number, metavar="N", help=f"default: {epochs}")
    add("--seeds", type=whole_number, default=5, metavar="N", help="default: 5")
    add("--dataset", choices=_data.DATASETS, default="digits", help="default: digits")
    add(
        "--data-dir",
        type=Path,
        help="folder of the original files of MNIST or CIFAR-10 "
        "(default: the user's cache, into which they are downloaded once)",
    )
    add("--output", type=Path, default=Path("runs"), help="folder to write to (default: runs)")
    args = parser.parse_args(argv)
    if args.dataset == "digits" and args.data_dir is not None:
        parser.error(
            f"argument --data-dir: must not be given with --dataset digits, which reads no files, "
            f"got {args.data_dir}: leave it out, or add --dataset mnist or cifar10"
        )
    if isinstance(sys.stdout, io.TextIOWrapper):  # the paths may have characters that it lacks
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return _run.run(
            list(dict.fromkeys(args.optimizers)),
            args.epochs or EPOCHS[args.dataset],
            args.seeds,
            args.dataset,
            args.data_dir,
            args.output,
        )
    except (_data.DataError, _run.OutputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def whole_number(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)
