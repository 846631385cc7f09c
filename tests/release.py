"""`make release-check`: what must hold before a release, all of it; stops at the first failure.

python tests/release.py [--only oldest|0.6|0.7|0.8|0.9|0.10|0.11|newest ...] [--python X.Y]
"""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from environments import BIN, ROOT, find_python, run, show_all_pythons, uv
from versions import PYTHONS, VERSIONS, WHEELS, check_alone, check_versions


def build(tmp):
    """The sdist, and the wheel from it; both complete and in order."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(sys.executable, "-m", "build", "--installer", "uv", quiet=True)
    (wheel,), (sdist,) = (list((ROOT / "dist").glob(f"*.{end}")) for end in ("whl", "tar.gz"))
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    run(BIN / "check-wheel-contents", wheel)
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp, filter="data")
    source = tmp / sdist.name.removesuffix(".tar.gz")
    needed = ("LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "adashift_optax", "tests")
    tracked = run("git", "ls-files", *needed, quiet=True).split()
    lacking = [name for name in tracked if not (source / name).is_file()]
    if lacking:
        sys.exit(f"release-check: FAILED, the sdist lacks {', '.join(lacking)}")
    return wheel, sdist, source


def check_files():
    run(BIN / "pre-commit", "run", "--all-files")
    for schema, files in {
        "citation-file-format": ["CITATION.cff"],
        "github-workflows": sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    }.items():
        run(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=VERSIONS, default=VERSIONS, metavar="VERSION")
    parser.add_argument("--python", help="for all that is installed (default: oldest and newest)")
    args = parser.parse_args()
    start, found = time.monotonic(), []
    show_all_pythons()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        check_files()
        run("make", "test-compiled")
        wheel, sdist, source = build(tmp)
        for python in PYTHONS:
            extras = ("--extra", "test", "--python-version", python, *WHEELS)
            uv("pip", "compile", *extras, ROOT / "pyproject.toml", quiet=True)
        found.append(f"the test extra resolves to wheels for Python {', '.join(PYTHONS)}")
        own = find_python([args.python] if args.python else [])
        check_alone(sdist, tmp, own)
        alone = check_alone(wheel, tmp, own)
        # With --verifytypes Pyright heeds no --pythonpath: it looks at the `python` of PATH.
        verify = ("--verifytypes", "adashift_optax", "--ignoreexternal")
        path = f"{alone.parent}{os.pathsep}{os.environ['PATH']}"
        report = run(BIN / "pyright", *verify, cwd=tmp, quiet=True, PATH=path)
        found += [line for line in report.splitlines() if "completeness" in line]
        imports = run(alone, "-I", ROOT / "tests" / "import_time.py", cwd=tmp, quiet=True)
        found += imports.splitlines()
        shutil.rmtree(source / "adashift_optax")  # so that what is tested is the wheel
        found += [check_versions(x, wheel, source, tmp, args.python) for x in args.only]
    print("\nrelease-check passed.", *found, f"{time.monotonic() - start:.0f} s", sep="\n- ")


if __name__ == "__main__":
    main()
