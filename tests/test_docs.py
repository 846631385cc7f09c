"""Code in pages and docstrings runs as it stands and prints what stands beside it."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import adashift_optax

MODULES = [module.name for module in pkgutil.iter_modules(adashift_optax.__path__)]
WITH_EXAMPLES = {"_alias": 2, "_memory": 1, "analysis": 4, "problems": 2, "sharding": 1}
PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks(page, capsys):
    text = page.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert code
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        exec(compile(code, page.name, "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    expected = re.findall(r"print\(.*\)  # (.*)", code)
    assert len(printed) == len(expected)
    for line, comment in zip(printed, expected, strict=True):
        assert line.startswith(comment.removesuffix("..."))


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_docstrings(name):
    module = importlib.import_module(f"adashift_optax.{name}")
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    assert len(tests) == WITH_EXAMPLES.get(name, 0)
    runner = doctest.DocTestRunner()
    with jax.numpy_dtype_promotion("standard"):
        for test in tests:
            assert runner.run(test).failed == 0
