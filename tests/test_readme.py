"""The code of the README runs as it stands, top to bottom, and prints what the README says."""

import re
from pathlib import Path

import jax
import pytest

import adashift_optax

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
CODE = "".join(re.findall(r"```python\n(.*?)```", README, re.S))
NUMBER = r"\d+\.\d+"
NOISE = 0.03  # of an accuracy, between processors


def test_code_blocks(capsys):
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        exec(compile(CODE, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    expected = re.findall(r"^print\(.*\)\n# (.*)$", CODE, re.M)
    assert len(printed) == len(expected) == CODE.count("print(")
    for line, comment in zip(printed, expected, strict=True):
        assert re.sub(NUMBER, "", line) == re.sub(NUMBER, "", comment)
        numbers, said = (list(map(float, re.findall(NUMBER, text))) for text in (line, comment))
        assert numbers == pytest.approx(said, abs=NOISE)


def test_docstrings_are_printable():
    """No backslash of a formula has become a control character."""
    for name in adashift_optax.__all__:
        text = getattr(adashift_optax, name).__doc__
        assert all(c.isprintable() or c == "\n" for c in text), name
