"""CONTRIBUTING.md: imports run as its table of files says, and its example is an optimizer."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import SHAPES, make_grads, run, worst_error

import adashift_optax
from adashift_optax import _adashift, _blocks, _first, scale_by_adashift

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
    assert PACKAGE / "_clock.py" in imports[PACKAGE / "_first.py"]  # the test sees some
    for file, imported in imports.items():
        for other in imported:
            same = room_of(file) == room_of(other)
            assert same or ROOMS.index(room_of(file)) < ROOMS.index(room_of(other)), (file, other)
    list(TopologicalSorter(imports).static_order())  # within demo/ too there is no cycle


@pytest.fixture
def tumbling(monkeypatch):
    """The example, as if its class stood in the file of the windows and its row in the table."""
    code, row = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names = dict(vars(_first))
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    ((name, parts),) = eval("{" + row + "}", {**vars(_adashift), **names}).items()
    monkeypatch.setitem(_adashift.WINDOWS, name, parts)
    return name


def weights(n, b1, t):
    """Those of m_t, of the gradients since the steps 1, n + 1, 2n + 1, ..."""
    held = (t - 1) % n + 1
    w = np.array([b1**i if i < held else 0 for i in range(t)])
    return w / w.sum()


@pytest.mark.parametrize("phi", ["max", "mean", "none"])
@pytest.mark.parametrize(("n", "warm"), [(1, False), (2, False), (5, False), (5, True)])
def test_the_window_of_the_example(n, warm, phi, tumbling, x64):
    window = "sliding" if n == 1 else weights  # a window of one gradient is the same in every way
    grads = make_grads(4 * n + 5)
    updates = run(scale_by_adashift(n, phi=phi, window=tumbling, warm_start=warm), grads)
    for name in SHAPES:
        args = (n, 0.9, 0.999, 1e-10, phi)
        assert worst_error(updates, grads, name, *args, window=window, warm=warm) < 1e-12


def test_the_example_holds_its_mean_in_the_dtype_that_is_asked_for(tumbling):
    """Of gradients that are always 1 it is 1, which every dtype holds."""
    tx, params = scale_by_adashift(2, window=tumbling, mu_dtype="bfloat16"), jnp.ones(3)
    state = tx.init(params)
    for _ in range(6):
        updates, state = tx.update(params, state)
        assert state.mu.dtype == jnp.bfloat16
    np.testing.assert_allclose(updates, 1, rtol=1e-2)


def test_the_state_of_the_example_is_checked(tumbling):
    """Without more code: its clock names it."""
    tx, params = scale_by_adashift(5, window=tumbling), {"w": jnp.ones(3)}
    assert "window=tumbling" in str(tx.init(params).clock)
    with pytest.raises(ValueError, match="tumbling"):
        tx.update(params, scale_by_adashift(5, window="hopping").init(params))
    with pytest.raises(ValueError, match="tumbling"):
        scale_by_adashift(5, window="rolling")


@pytest.mark.parametrize("axes", [None, (0,)])
def test_a_row_of_reductions_is_a_phi(axes, monkeypatch, x64):
    monkeypatch.setitem(_blocks.REDUCTIONS, "min", (jnp.min, jax.lax.pmin))
    monkeypatch.setattr(_adashift, "PHIS", (*_blocks.REDUCTIONS, "none", "factored"))
    shapes = {name: shape for name, shape in SHAPES.items() if shape and name != "empty"}
    grads = make_grads(9, shapes)
    updates = run(scale_by_adashift(2, phi="min", block_axes=axes), grads)
    for name in shapes:
        error = worst_error(updates, grads, name, 2, 0.9, 0.999, 1e-10, np.min, axes=axes)
        assert error < 1e-12
