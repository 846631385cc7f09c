"""Who kills whom: every mutant of `mutants.toml` against the tests of the core.

python tests/mutants.py [--only NAME] [--jobs 2]

A mutant is the package with one passage replaced, in a folder of its own. The tests of `make check`
run on it until one fails; if none does, those of `make test`. The last lines count the dead.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "adashift_optax"
# The tests of the core. Most mutants die in the first file.
CORE = """
exact
ends_of_range precision bad_arguments bad_calls order state in_place random widths sharding flax
shard_map injection masks contexts checkpoint contract
"""
QUICK_START = {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
MARKS = {"check": "not slow and not all_only", "test": "not all_only"}


def make(mutant: dict, folder: Path) -> None:
    """A copy of the package with the mutant's passage replaced."""
    copy = folder / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "demo"))
    file = copy / mutant["file"]
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(mutant["old"], mutant["new"]), encoding="utf-8")


def killer(folder: Path, marks: str) -> str | None:
    """The first test that fails on the package in `folder`, or None."""
    first, *others = (f"test_{name}.py" for name in CORE.split())
    return first_failure(folder, marks, [first]) or first_failure(folder, marks, others)


def first_failure(folder: Path, marks: str, files: list[str]) -> str | None:
    """The first test in `files` that fails, or None."""
    files = [file for file in files if (TESTS / file).is_file()]
    command = [sys.executable, "-m", "pytest", "-x", "-m", marks, "-p", "no:cacheprovider"]
    found = subprocess.run(
        [*command, "--tb=no", *files],
        cwd=TESTS,  # not the folder of the package, which Python would then import
        env={**os.environ, "PYTHONPATH": str(folder), **QUICK_START},
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode == 0:
        return None
    name = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S.*?)(?: - |$)", found.stdout, re.M)
    if name is None:
        sys.exit(f"pytest failed without a test:\n{found.stdout[-3000:]}{found.stderr[-3000:]}")
    return name[1]


def killers(mutant: dict) -> dict[str, str | None]:
    """Who kills the mutant in `make check` and, if nobody does, in `make test`."""
    with tempfile.TemporaryDirectory() as folder:
        make(mutant, Path(folder))
        by_check = killer(Path(folder), MARKS["check"])
        by_test = by_check or killer(Path(folder), MARKS["test"])
    where = "check" if by_check else "test" if by_test else "ALIVE"
    print(f"{mutant['name']:60s} {where:6s} {by_test or ''}", flush=True)
    return {"check": by_check, "test": by_test}


def main() -> None:
    """Check that every passage is there once, then run and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="a part of the names of the mutants to run")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    mutants = tomllib.loads((TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
    for mutant in mutants:
        count = (PACKAGE / mutant["file"]).read_text(encoding="utf-8").count(mutant["old"])
        if count != 1:
            sys.exit(f"{mutant['name']}: its passage is {count} times in {mutant['file']}")
    mutants = [mutant for mutant in mutants if args.only in mutant["name"]]
    if failed := killer(PACKAGE.parent, MARKS["check"]):
        sys.exit(f"{failed} fails without a mutant")
    with ThreadPoolExecutor(args.jobs) as pool:
        found = list(pool.map(killers, mutants))
    for flavour in MARKS:
        print(f"{sum(x[flavour] is not None for x in found)} of {len(found)} die: make {flavour}")
    sys.exit(any(x["test"] is None for x in found))


if __name__ == "__main__":
    main()
