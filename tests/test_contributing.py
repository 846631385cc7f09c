"""CONTRIBUTING.md: imports run as its table of files says. And what an import loads."""

import ast
import re
from pathlib import Path

import import_time
import pytest

import adashift_optax

PACKAGE = Path(adashift_optax.__file__).parent
TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `(\w+\.py|\w+/)` \|", TEXT, re.M)


def imports_of(path):
    """The files and folders of the package that one of its files imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "no relative imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            assert not name.startswith("optax._src")
            if name.startswith(f"{PACKAGE.name}."):
                part = name.split(".")[1]
                found = [room for room in (f"{part}.py", f"{part}/") if (PACKAGE / room).exists()]
                yield (*found, "__init__.py")[0]


def test_imports_run_down_the_table():
    places = {path: path.relative_to(PACKAGE).parts for path in sorted(PACKAGE.rglob("*.py"))}
    rooms = {path: parts[0] + "/" * (len(parts) > 1) for path, parts in places.items()}
    assert sorted(ROOMS) == sorted(set(rooms.values()))
    assert "_ring.py" in imports_of(PACKAGE / "_adashift.py")  # the test sees some
    for path, room in rooms.items():
        for other in imports_of(path):
            assert room == other == "demo/" or ROOMS.index(room) < ROOMS.index(other), (path, other)


@pytest.mark.slow
def test_import_loads_nothing_that_optax_does_not():
    assert import_time.more_modules() == []
