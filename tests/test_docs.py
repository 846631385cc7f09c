"""Code in pages and docstrings runs as it stands and prints what stands beside it."""

import doctest
import importlib
import json
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import adashift_optax
from adashift_optax import adashift, state_bytes

ROOT = Path(__file__).parent.parent
MODULES = [module.name for module in pkgutil.iter_modules(adashift_optax.__path__)]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}
CODE = {page: re.findall(r"```python\n(.*?)```", text, re.S) for page, text in PAGES.items()}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("page", sorted(page for page in CODE if CODE[page] and page != "scripts"))
def test_code_blocks(page, capsys):
    code = "\n".join(CODE[page])
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        exec(compile(code, page, "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    expected = re.findall(r"print\(.*\)  # (.*)", code)
    assert len(printed) == len(expected)
    for line, comment in zip(printed, expected, strict=True):
        assert line.startswith(comment.removesuffix("..."))


SCRIPTS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGES["scripts"], re.S)


def words_and_numbers(text):
    numbers = [float(x.replace(",", "")) for x in re.findall(r"\d[\d,.]*\d", text)]
    return re.sub(r"\d[\d,.]*\d", "", text), numbers


@pytest.mark.parametrize(("script", "printed"), SCRIPTS, ids=["nnx", "linen", "equinox"])
def test_scripts(script, printed, capsys):
    """Alone, as a user runs it; it prints the same bytes and, within 3 %, the same accuracies."""
    with jax.numpy_dtype_promotion("standard"):
        exec(compile(script, "scripts", "exec"), {})
    words, numbers = words_and_numbers(capsys.readouterr().out)
    expected_words, expected = words_and_numbers(printed)
    assert words == expected_words
    for number, want in zip(numbers, expected, strict=True):
        assert number == pytest.approx(want, abs=3 if want <= 100 else 0)


def held(tx, dtype):
    """Bytes of state per parameter of large leaves."""
    params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), dtype) for i in range(8)}
    return state_bytes(tx, params) / sum(p.size for p in params.values())


def test_the_table_of_memory():
    """Each row is code, and the bytes of state that it needs per parameter of large leaves."""
    rows = re.findall(r"^\| `(.+)` \| (\d+) \| (\d+) \|$", PAGES["memory"], re.M)
    assert rows
    for code, *figures in rows:
        tx = eval(code, {"adashift": adashift, "optax": optax})
        for figure, dtype in zip(figures, ("float32", "bfloat16"), strict=True):
            assert int(figure) <= held(tx, dtype) < int(figure) + 0.2, (code, dtype)


def zero_updates(tx):
    """How many updates at the start are zero, of gradients that never are."""
    grads = jnp.linspace(-1.0, 1.5, 12 * 4).reshape(12, 2, 2)
    state = tx.init(grads[0])
    _, updates = jax.lax.scan(lambda state, g: tx.update(g, state, g)[::-1], state, grads)
    return int(jnp.argmax(jnp.any(updates != 0, axis=(1, 2))))


def test_the_table_of_differs():
    """Bytes and zero updates of each row are those of the optimizer of this name on the page."""
    names = {}
    exec(compile(CODE["differs"][0], "differs", "exec"), names)
    optimizers = names["optimizers"]
    rows = re.findall(r"^\| (.+?) \|.*\| (\d+) \|.*\| (\d+) \|$", PAGES["differs"], re.M)
    assert [name for name, _, _ in rows] == list(optimizers)
    for name, figure, zeros in rows:
        tx = optimizers[name]
        assert int(figure) <= held(tx, "float32") < int(figure) + 0.2, name
        with jax.numpy_dtype_promotion("standard"):  # as a user runs it
            assert zero_updates(tx) == int(zeros), name


FAQ = re.split(r"(?m)^## ", PAGES["faq"])[1:]


@pytest.mark.parametrize("section", FAQ, ids=lambda section: section.splitlines()[0])
def test_an_answer_is_short(section):
    heading, prose = re.sub(r"(?s)```.*?```", "", section).split("\n", 1)
    assert len(prose.split()) <= 90, heading


def test_the_table_of_choosing():
    """Each row stands in what notebook 9 printed when it was last executed."""
    notebook = json.loads((ROOT / "notebooks" / "09_choosing.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    printed = " ".join("".join(output.get("text", ())) for output in outputs).split()
    section = PAGES["choosing"].split("## What did the study find?")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+) \|$", section, re.M)
    assert len(rows) > 20
    for row in rows:
        words = row.replace("|", " ").replace("`", "").split()
        assert " ".join(words) in " ".join(printed), row


def test_the_reference_has_every_public_name():
    listed = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", PAGES["api"], re.M))
    public = set(adashift_optax.__all__)
    for module in map(importlib.import_module, re.findall(r"automodule:: (.+)", PAGES["api"])):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and callable(value) and not name.startswith("_"):
                public.add(name)
    assert listed == public


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_docstrings(name):
    module = importlib.import_module(f"adashift_optax.{name}")
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]
    runner = doctest.DocTestRunner()
    with jax.numpy_dtype_promotion("standard"):
        for test in tests:
            assert runner.run(test).failed == 0
