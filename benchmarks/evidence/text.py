"""Real text that every machine with JAX has: sources, their comments, C headers."""

import hashlib
import re
import sysconfig
from collections import Counter
from functools import cache
from pathlib import Path

import jax
import numpy as np

# Tests, and what distributions leave out or put there.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
PROSE = re.compile(rb'"""(.*?)"""|\'\'\'(.*?)\'\'\'|#([^\n]*)', re.DOTALL)
WORD = re.compile(rb"[a-z]{2,}")


def digest(path: str) -> bytes:
    """A number of a path that is the same on every machine."""
    return hashlib.sha256(path.encode()).digest()


@cache
def sources(part: str) -> tuple[bytes, bytes]:
    """Half "a" or "b" of the standard library's sources, or those of "jax".

    Nine tenths of the files, and the rest.
    """
    root = Path(jax.__file__).parent if part == "jax" else Path(sysconfig.get_path("stdlib"))
    names = {path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    names = {name for name in names if not LEFT_OUT & set(name.split("/"))}
    mine = {name for name in names if part in ("jax", "ab"[digest(name)[0] % 2])}
    return _split(root, sorted(mine))


@cache
def headers() -> tuple[bytes, bytes]:
    """NumPy's C headers, likewise."""
    root = Path(np.get_include())
    return _split(root, sorted(path.relative_to(root).as_posix() for path in root.rglob("*.h")))


def _split(root: Path, names: list[str]) -> tuple[bytes, bytes]:
    held_out = {name for name in names if digest(name)[1] % 10 == 0}
    parts = ([n for n in names if n not in held_out], [n for n in names if n in held_out])
    train, validation = (b"\n".join((root / n).read_bytes() for n in part) for part in parts)
    return train, validation


def as_array(text: bytes) -> np.ndarray:
    """The bytes as numbers."""
    return np.frombuffer(text, np.uint8)


@cache
def words(part: str, size: int, prose: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """The words of the sources by their rank among the `size` most frequent; others are left out.

    Of comments and docstrings only, if `prose`. Training and held-out files, as in `sources`.
    """

    def found(text: bytes) -> list[bytes]:
        pieces = (piece for match in PROSE.findall(text) for piece in match) if prose else [text]
        return WORD.findall(b" ".join(pieces).lower())

    train, validation = map(found, sources(part))
    ranks = {word: i for i, (word, _) in enumerate(Counter(train).most_common(size))}
    numbers = (
        np.array([ranks[w] for w in ws if w in ranks], np.int32) for ws in (train, validation)
    )
    train, validation = numbers
    return train, validation
