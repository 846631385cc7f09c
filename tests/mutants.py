"""Who kills whom: every mutant of `mutants.toml` against the tests of the core.

python tests/mutants.py [--only NAME] [--jobs 2]

A mutant is the package with one passage replaced, in a folder of its own. The tests of `make check`
run on it until one fails; if none does, those of `make test`. The last lines count the dead.
"""

import argparse
import contextlib
import io
import multiprocessing
import multiprocessing.pool
import os
import shutil
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path

# Loaded once: a test run starts as a copy of this process. The library itself must not be loaded.
import chex
import flax.nnx
import jax
import optax
import pytest

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "adashift_optax"
# The tests of the core. Most mutants die in the first file.
CORE = """
exact
bad_arguments bad_calls precision ends_of_range order state in_place random soak widths sharding
flax shard_map injection masks contexts checkpoint contract
"""
MARKS = {"check": "not slow and not all_only", "test": "not all_only"}
LOADED = (chex, flax.nnx, jax, optax)


class FirstFailure:
    """A plugin of pytest that keeps the name of the first test that fails."""

    name: str | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the test's name if it failed."""
        self.name = self.name or (report.nodeid if report.failed else None)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the file's name if it cannot even be imported."""
        self.name = self.name or (report.nodeid if report.failed else None)


def run(folder: str, marks: str, files: list[str]) -> str | None:
    """The first test in `files` that fails with the package in `folder`. It changes the process."""
    sys.path[:0] = [folder, str(TESTS)]
    sys.dont_write_bytecode = True
    os.environ |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": folder}
    os.chdir(TESTS)  # not the folder of the package, which Python would then import
    found = FirstFailure()
    options = ["-x", "-m", marks, "-p", "no:cacheprovider", "--tb=no"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = pytest.main([*options, *files], plugins=[found])
    return found.name or (None if code == 0 else f"pytest ended with {code}")


def killer(folder: str, marks: str) -> str | None:
    """The first test that fails on the package in `folder`, or None."""
    first, *others = (f"test_{name}.py" for name in CORE.split())
    for files in ([first], [name for name in others if (TESTS / name).is_file()]):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            if name := pool.apply(run, (folder, marks, files)):
                return name
    return None


def killers(mutant: dict) -> dict[str, str | None]:
    """Who kills the mutant in `make check` and, if nobody does, in `make test`."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / PACKAGE.name
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "demo"))
        file = copy / mutant["file"]
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutant["old"], mutant["new"]), encoding="utf-8")
        by_check = killer(folder, MARKS["check"])
        by_test = by_check or killer(folder, MARKS["test"])
    where = "check" if by_check else "test" if by_test else "ALIVE"
    print(f"{mutant['name']:60s} {where:6s} {by_test or ''}", flush=True)
    return {"check": by_check, "test": by_test}


def main() -> None:
    """Check that every passage is there once, then run and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="a part of the names of the mutants to run")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "os.fork")  # JAX has not started its threads yet
    mutants = tomllib.loads((TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    for mutant in mutants:
        count = (PACKAGE / mutant["file"]).read_text(encoding="utf-8").count(mutant["old"])
        if count != 1:
            sys.exit(f"{mutant['name']}: its passage is {count} times in {mutant['file']}")
    mutants = [mutant for mutant in mutants if args.only in mutant["name"]]
    if failed := killer(str(PACKAGE.parent), MARKS["check"]):
        sys.exit(f"{failed} fails without a mutant")
    with multiprocessing.pool.ThreadPool(args.jobs) as pool:
        found = pool.map(killers, mutants, chunksize=1)
    for flavour in MARKS:
        print(f"{sum(x[flavour] is not None for x in found)} of {len(found)} die: make {flavour}")
    sys.exit(any(x["test"] is None for x in found))


if __name__ == "__main__":
    main()
