"""``python -m adashift_optax``: see ``--help``."""

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the demo, or say what it lacks; return the exit code."""
    try:
        from adashift_optax.demo import _command
    except ModuleNotFoundError as error:
        print(f'the demo: {error}; pip install "adashift-optax[demo]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return _command.main(argv)


if __name__ == "__main__":
    sys.exit(main())
