"""`make release-check`: what must hold before a release, all of it; stops at the first failure.

python tests/release.py [--only {oldest,newest}] [--python X.Y]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}
SHOWN = ("jax", "jaxlib", "optax", "flax", "orbax-checkpoint", "equinox", "numpy")
# Wheels only, so that a version without one for this Python is not its oldest; idx2numpy has none.
WHEELS = ("--only-binary", ":all:", "--no-binary", "idx2numpy")
# The core of the tests: what a new version of JAX, Optax or Flax can break. `make test` runs all.
CORE = """
    test_exact.py test_factored.py test_numbers.py test_arguments.py test_state.py test_shard_map.py
    test_checkpoint.py test_flax.py test_hopping.py::test_equals_reference
    test_sharding.py::test_nnx_optimizer_as_it_is test_sharding.py::test_linen_partitioned_boxes
""".split()


def run(*command, cwd=ROOT, quiet=False, **env):
    """Runs `command`, with what it prints shown (`quiet`: returned); a failure ends everything."""
    print("$", *(os.path.relpath(c, ROOT) if Path(c).is_file() else c for c in command), flush=True)
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, text=True, stdout=subprocess.PIPE if quiet else None
    )
    if done.returncode:
        sys.exit(f"release-check: FAILED with exit code {done.returncode}\n{done.stdout or ''}")
    return done.stdout


def uv(*args, **kwargs):
    return run(BIN / "uv", "--quiet", *args, **kwargs)


def find_python(versions):
    """The first of `versions` that is on this machine, as a path; else the running Python."""
    for version in versions:
        command = [BIN / "uv", "python", "find", "--no-project", "--no-python-downloads", version]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    return sys.executable


def show_all_pythons():
    """Pyenv shows those it was told to; here they are all wanted."""
    if pyenv := shutil.which("pyenv"):
        command = [pyenv, "versions", "--bare", "--skip-aliases"]
        names = subprocess.run(command, capture_output=True, text=True).stdout.split()
        os.environ["PYENV_VERSION"] = ":".join(n for n in reversed(names) if n.startswith("3."))


def make_environment(folder, python, *install):
    uv("venv", "--no-project", "--python", python, folder)
    uv("pip", "install", "--python", folder, *install)
    return folder / ("Scripts" if os.name == "nt" else "bin") / "python"


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


def check_alone(package, tmp, python):
    """`package` in an environment of its own, without extras, away from the repository."""
    installed = make_environment(tmp / f"alone-{package.suffix}", python, package)
    run(installed, "-I", ROOT / "tests" / "smoke.py", cwd=tmp)
    return installed


def check_versions(which, python, wheel, source, tmp):
    """The core of the tests with the oldest or the newest of everything that pyproject allows."""
    pins = tmp / f"{which}.txt"
    extras = ("--python", python, "--extra", "test", ROOT / "pyproject.toml", *WHEELS)
    uv("pip", "compile", *extras, "--resolution", RESOLUTION[which], "--output-file", pins)
    pins = [line for line in pins.read_text().splitlines() if "==" in line]
    installed = make_environment(tmp / which, python, *pins)
    uv("pip", "install", "--python", installed, "--no-deps", wheel)
    chosen = [pin for pin in pins if pin.split("==")[0] in SHOWN]
    version = run(installed, "--version", quiet=True).strip()
    print(f"{which}: {version}, {', '.join(chosen)}")
    # Without the sources beside them: what is tested is the wheel.
    shutil.rmtree(source / "adashift_optax", ignore_errors=True)
    tests = [f"tests/{name}" for name in CORE]
    command = [installed, "-I", "-m", "pytest", "-n", "logical", "--dist", "worksteal", *tests]
    run(*command, cwd=source)
    return f"{which}: {version}, {', '.join(chosen)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=RESOLUTION, help="these versions (default: both)")
    parser.add_argument("--python", help="for all that is installed (default: oldest and newest)")
    args = parser.parse_args()
    start, found = time.monotonic(), []
    show_all_pythons()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        check_files()
        wheel, sdist, source = build(tmp)
        for python in PYTHONS:
            extras = ("--extra", "test", "--python-version", python, *WHEELS)
            uv("pip", "compile", *extras, ROOT / "pyproject.toml", quiet=True)
        found.append(f"all extras of the tests resolve to wheels for Python {', '.join(PYTHONS)}")
        own = find_python([args.python] if args.python else [])
        check_alone(sdist, tmp, own)
        alone = check_alone(wheel, tmp, own)
        verify = ("--verifytypes", "adashift_optax", "--ignoreexternal", "--pythonpath", alone)
        report = run(BIN / "pyright", *verify, cwd=tmp, quiet=True)
        found += [line for line in report.splitlines() if "completeness" in line]
        imports = run(alone, "-I", ROOT / "tests" / "import_time.py", cwd=tmp, quiet=True)
        found += imports.splitlines()
        for which, order in {"oldest": PYTHONS, "newest": PYTHONS[::-1]}.items():
            if args.only in (None, which):
                python = find_python([args.python] if args.python else order)
                found.append(check_versions(which, python, wheel, source, tmp))
    print("\nrelease-check passed.", *found, f"{time.monotonic() - start:.0f} s", sep="\n- ")


if __name__ == "__main__":
    main()
