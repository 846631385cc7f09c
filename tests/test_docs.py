"""Code in the README, the pages and docstrings runs as it stands and prints what stands beside it.

Each page has a namespace of its own, in which its blocks run from top to bottom. A block that is
followed by a block of text runs alone: it is a whole script, and the text is what it prints.
"""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import pytest

import adashift_optax
from adashift_optax import state_bytes

ROOT = Path(__file__).parent.parent
MODULES = [module.name for module in pkgutil.iter_modules(adashift_optax.__path__)]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in FILES}
BLOCK = re.compile(r"^```python\n(.*?)^```$(?:\n\n^```text\n(.*?)^```$)?", re.M | re.S)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?%?")
CLIENTS = ("equinox", "haiku", "blackjax", "numpyro")  # which only `make test-all` installs
NOISE = 0.03  # of accuracies, between processors, which round differently


def assert_printed(line, text, noise=0.0):
    """The same words; numbers up to the last digits of float32, which depend on the compiler."""
    assert NUMBER.sub("", line) == NUMBER.sub("", text)
    for number, said in zip(NUMBER.findall(line), NUMBER.findall(text), strict=True):
        loose = noise * ("." in said) * (100 if said.endswith("%") else 1)
        number, said = (float(x.replace(",", "").removesuffix("%")) for x in (number, said))
        assert number == pytest.approx(said, abs=loose, rel=1e-6)


def run(code, page, names, capsys):
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        exec(compile(code, page, "exec"), names)
    return capsys.readouterr().out.splitlines()


def marked(page):
    needs = re.search(rf"import ({'|'.join(CLIENTS)})", PAGES[page])
    return pytest.param(page, marks=pytest.mark.all_only if needs else ())


@pytest.mark.slow
@pytest.mark.parametrize("page", [marked(page) for page in PAGES if BLOCK.search(PAGES[page])])
def test_blocks(page, capsys):
    names = {}
    for code, text in BLOCK.findall(PAGES[page]):
        if text:
            for line, said in zip(run(code, page, {}, capsys), text.splitlines(), strict=True):
                assert_printed(line, said, NOISE)
            continue
        printed = run(code, page, names, capsys)
        said = re.findall(r"print\(.*\)(  |\n)# (.*)", code)  # beside a call, or below it
        assert len(printed) == len(said)
        for line, (place, comment) in zip(printed, said, strict=True):
            if comment.endswith("..."):
                assert line.startswith(comment.removesuffix("..."))
            else:
                assert_printed(line, comment, NOISE if place == "\n" else 0.0)


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__main__"])
def test_docstrings(name):
    module = importlib.import_module(f"adashift_optax.{name}")
    runner = doctest.DocTestRunner()
    with jax.numpy_dtype_promotion("standard"):
        for test in doctest.DocTestFinder().find(module):
            assert runner.run(test).failed == 0
            # No backslash of a formula has become a control character.
            assert all(c.isprintable() or c == "\n" for c in test.docstring)


def test_the_table_of_memory():
    """Each row is code, and the bytes of state that it needs per parameter of large leaves."""
    rows = re.findall(r"^\| `(.+)` \| (\d+) \| (\d+) \|$", PAGES["memory"], re.M)
    assert rows
    for code, *figures in rows:
        tx = eval(code, {"optax": importlib.import_module("optax"), **vars(adashift_optax)})
        for figure, dtype in zip(figures, ("float32", "bfloat16"), strict=True):
            params = {f"w{i}": jax.ShapeDtypeStruct((1024, 1024), dtype) for i in range(8)}
            held = state_bytes(tx, params) / sum(p.size for p in params.values())
            assert int(figure) <= held < int(figure) + 0.2, (code, dtype)


def test_the_reference_has_every_public_name():
    listed = set(re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", PAGES["api"], re.M))
    public = set(adashift_optax.__all__)
    for module in map(importlib.import_module, re.findall(r"automodule:: (.+)", PAGES["api"])):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and callable(value) and not name.startswith("_"):
                public.add(name)
    assert listed == public


def anchors(path):
    """What a link to a heading of a page may name."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "path", [*FILES, *(ROOT / "benchmarks").rglob("*.md")], ids=lambda p: p.stem
)
def test_links_and_named_tests_are_there(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file) if file else path
        assert other.exists(), target
        if anchor and other.suffix == ".md":
            assert anchor in anchors(other), target
    for file, test in re.findall(r"`((?:tests/)?test_\w+\.py)(?:::(\w+))?`", text):
        code = (ROOT / "tests" / Path(file).name).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in code, test
