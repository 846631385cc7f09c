"""CONTRIBUTING.md: its table has every file of the package, and imports run down it."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import adashift_optax

PACKAGE = Path(adashift_optax.__file__).parent
TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
ROOMS = re.findall(r"^\| `(\w+\.py|\w+/)` \|", TEXT, re.M)


def imports_of(path):
    """The files of the package that one of them imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), "no relative imports"
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            assert not name.startswith("optax._src")
            if name.split(".")[0] == PACKAGE.name:
                yield file_of(name.split(".")[1:])


def file_of(parts):
    """The file of the module that these parts of a name name, or one of whose names they do."""
    modules = (PACKAGE.joinpath(*parts), PACKAGE.joinpath(*parts[:-1]))
    files = [f for m in modules for f in (m.with_suffix(".py"), m / "__init__.py")]
    return next(file for file in files if file.is_file())


def room_of(path):
    name = path.relative_to(PACKAGE).parts[0]
    return name if name.endswith(".py") else f"{name}/"


def test_imports_run_down_the_table():
    files = sorted(PACKAGE.rglob("*.py"))
    assert sorted(ROOMS) == sorted({room_of(file) for file in files})
    imports = {file: set(imports_of(file)) for file in files}
    assert PACKAGE / "_ring.py" in imports[PACKAGE / "_adashift.py"]  # the test sees some
    for file, imported in imports.items():
        for other in imported:
            same = room_of(file) == room_of(other)
            assert same or ROOMS.index(room_of(file)) < ROOMS.index(room_of(other)), (file, other)
    list(TopologicalSorter(imports).static_order())  # within demo/ too there is no cycle


def test_named_targets_and_files_exist():
    """Every `make` target of the page is in the Makefile, and every file it names is there."""
    root = Path(__file__).parent.parent
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"`make ([a-z-]+)", TEXT)
    assert {"check", "test", "test-all", "mutants", "release-check"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target
    for name in re.findall(r"`((?:tests|benchmarks|docs|\.github)/[\w./-]+)`", TEXT):
        assert "_build" in name or (root / name).exists(), name
