"""`make release-check`: what must hold before a release, all of it; stops at the first failure.

python tests/release.py [--only oldest|0.6|0.7|0.8|0.9|0.10|newest ...] [--python X.Y]
"""

import argparse
import os
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from environments import BIN, ROOT, find_python, make_environment, run, show_all_pythons, uv

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The oldest and the newest of everything that pyproject.toml allows, and between them the newest
# patch of each minor version of JAX with the newest Optax, Flax and Orbax that go with it.
VERSIONS = {
    "oldest": ("--resolution", "lowest-direct"),
    **{f"0.{minor}": (f"jax==0.{minor}.*", f"jaxlib==0.{minor}.*") for minor in range(6, 11)},
    "newest": (),
}
SHOWN = ("jax", "jaxlib", "optax", "flax", "orbax-checkpoint", "numpy")
# Wheels only, so that a version without one for this Python is not its oldest.
WHEELS = ("--only-binary", ":all:")
TOOLS = ("chex>=0.1.90", "pytest>=9.0", "pytest-xdist>=3.8")
# What a version of JAX, Optax, Flax or Orbax can break: updates against the reference, wrappers,
# sharding, boxes and checkpoints. What compiled programs are like is tested on one version only.
CORE = (
    "test_exact.py test_contract.py test_sharding.py test_shard_map.py test_flax.py test_masks.py",
    "test_checkpoint.py test_injection.py test_recipes.py test_distributed.py",
)


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


def check_alone(package, tmp, python, pins=()):
    """`package` in an environment of its own, without extras, away from the repository."""
    folder = tmp / "alone"
    shutil.rmtree(folder, ignore_errors=True)
    installed = make_environment(folder, python, package, *pins)
    run(installed, "-I", ROOT / "tests" / "smoke.py", cwd=tmp)
    return installed


def check_versions(which, python, wheel, source, tmp):
    """The wheel with some versions of what it needs: what users have alone, and CORE."""
    wanted = VERSIONS[which]
    options = [option for option in wanted if "==" not in option]
    tools = tmp / f"{which}.in"
    tools.write_text("\n".join((*TOOLS, *(x for x in wanted if x not in options))))
    pins = tmp / f"{which}.txt"
    extras = ("--python", python, "--extra", "distributed", ROOT / "pyproject.toml", tools)
    uv("pip", "compile", *extras, *WHEELS, *options, "--output-file", pins)
    lines = pins.read_text(encoding="utf-8").splitlines()
    chosen = [line for line in lines if line.split("==")[0] in SHOWN]
    check_alone(wheel, tmp, python, [c for c in chosen if c.startswith(("jax", "optax", "numpy"))])
    installed = make_environment(tmp / which, python, "--requirement", pins)
    uv("pip", "install", "--python", installed, "--no-deps", wheel)
    version = run(installed, "--version", quiet=True).strip()
    summary = f"{which}: {version}, {', '.join(chosen)}"
    print(summary)
    # Without the sources beside them: what is tested is the wheel. What other versions deprecate
    # is no error here.
    shutil.rmtree(source / "adashift_optax", ignore_errors=True)
    tests = [f"tests/{name}" for name in " ".join(CORE).split()]
    pytest = ("-I", "-m", "pytest", "-W", "default", "-n", "logical", "--dist", "worksteal")
    run(installed, *pytest, *tests, cwd=source)
    return summary


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
        for which in args.only:
            order = PYTHONS[::-1] if which == "newest" else PYTHONS
            python = find_python([args.python] if args.python else order)
            found.append(check_versions(which, python, wheel, source, tmp))
    print("\nrelease-check passed.", *found, f"{time.monotonic() - start:.0f} s", sep="\n- ")


if __name__ == "__main__":
    main()
