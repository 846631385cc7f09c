"""CONTRIBUTING.md: its table has every file of the package, and imports run down it."""

import ast
import re
from pathlib import Path

import import_time
import pytest

import adashift_optax

PACKAGE = Path(adashift_optax.__file__).parent
ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `(\w+\.py|\w+/)` \|", TEXT, re.M)


def imports_of(path):
    """The files and folders of the package that one of its files imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes)
    for node in (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)):
        for alias in node.names:
            name = f"{getattr(node, 'module', '')}.{alias.name}".strip(".")
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


def test_named_targets_and_files_exist():
    """Every `make` target of the page is in the Makefile, and every file it names is there."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z-]+)", TEXT))
    assert targets <= set(re.findall(r"^([a-z-]+):", makefile, re.M))
    assert {"check", "test", "test-all", "mutants", "release-check"} <= targets
    for name in re.findall(r"`((?:tests|benchmarks|docs|\.github)/[\w./-]+)`", TEXT):
        assert "_build" in name or (ROOT / name).exists(), name


@pytest.mark.slow
def test_import_loads_nothing_that_optax_does_not():
    assert import_time.more_modules() == []
