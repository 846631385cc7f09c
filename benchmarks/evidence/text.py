"""Real text that every machine can have: sources of Python and of packages, comments, C headers."""

import hashlib
import re
import subprocess
import sys
import sysconfig
import zipfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

PACKAGES = Path("runs/evidence/packages")
SYMPY = "sympy==1.14.0"
# Tests, and what distributions leave out or put there.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
PROSE = re.compile(rb'"""(.*?)"""|\'\'\'(.*?)\'\'\'|#([^\n]*)', re.DOTALL)
WORD = re.compile(rb"[a-z]{2,}")
LINE, REPEATED = 16, 1 / 3  # the shortest line that counts; the share at which a file is a repeat


def digest(path: str) -> bytes:
    """A number of a path that is the same on every machine."""
    return hashlib.sha256(path.encode()).digest()


def distinct(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without each file of which more than a third of the lines stand in the files before it."""
    seen: set[bytes] = set()
    kept = {}
    for name, text in files.items():
        lines = {line for raw in text.splitlines() if len(line := raw.strip()) >= LINE}
        if len(lines & seen) <= REPEATED * len(lines):
            kept[name] = text
            seen |= lines
    return kept


def of_folder(root: Path, pattern: str) -> dict[str, bytes]:
    """The files of a folder by name, without tests and without near repeats."""
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob(pattern))
    names = [name for name in names if not LEFT_OUT & set(name.split("/"))]
    return distinct({name: (root / name).read_bytes() for name in names})


@cache
def unpacked(requirement: str) -> Path:
    """The folder of a package's wheel, which pip downloads once: that of Linux and Python 3.12."""
    folder = PACKAGES / requirement
    if not folder.exists():
        pip = f"{sys.executable} -m pip download --quiet --no-deps --only-binary=:all:"
        to = (
            "--python-version 3.12 --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64"
        )
        PACKAGES.mkdir(parents=True, exist_ok=True)
        where = PACKAGES / f"wheel of {requirement}"
        subprocess.run([*pip.split(), *to.split(), "--dest", where, requirement], check=True)
        with zipfile.ZipFile(next(where.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
    return folder


@cache
def sources(part: str) -> tuple[bytes, bytes]:
    """Half "a" or "b" of the standard library's sources, or those of a package, or "headers": the
    C headers of NumPy. Nine tenths of the files, and the rest.
    """
    if part == "headers":
        return split(of_folder(Path(np.get_include()), "*.h"))
    if part not in ("a", "b"):
        return split(of_folder(unpacked(part), "*.py"))
    files = of_folder(Path(sysconfig.get_path("stdlib")), "*.py")
    return split({name: text for name, text in files.items() if "ab"[digest(name)[0] % 2] == part})


def split(files: dict[str, bytes]) -> tuple[bytes, bytes]:
    """Training and held-out text: a tenth of the files is held out."""
    held_out = {name for name in files if digest(name)[1] % 10 == 0}
    train = b"\n".join(text for name, text in files.items() if name not in held_out)
    return train, b"\n".join(text for name, text in files.items() if name in held_out)


def as_bytes(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out text as numbers from 0 to 255."""
    train, held_out = (np.frombuffer(text, np.uint8) for text in sources(part))
    return train, held_out


def prose(text: bytes) -> bytes:
    """The comments and docstrings of sources."""
    return b" ".join(piece for match in PROSE.findall(text) for piece in match)


@cache
def words(part: str, size: int, only_prose: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The words of the sources by their rank among the `size` most frequent; others are left out.

    Of comments and docstrings only, if `only_prose`. Training and held-out files, as in `sources`.
    """
    train, validation = (
        WORD.findall((prose(text) if only_prose else text).lower()) for text in sources(part)
    )
    ranks = {word: i for i, (word, _) in enumerate(Counter(train).most_common(size))}
    train, validation = (
        np.array([ranks[w] for w in ws if w in ranks], np.int32) for ws in (train, validation)
    )
    return train, validation
