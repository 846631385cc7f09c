"""Commands, Pythons and environments of their own, for release.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


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
    """The first of `versions` that is on this machine, as a path; else the running Python.

    A single version was asked for by name and must be there.
    """
    for version in versions:
        command = [BIN / "uv", "python", "find", "--no-project", "--no-python-downloads", version]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip()
    if len(versions) == 1:
        sys.exit(f"release-check: FAILED, no Python {versions[0]} on this machine")
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
