"""The code of the README runs as it stands, top to bottom, and its training loops train."""

import re
from pathlib import Path

import jax

import adashift_optax

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


def test_code_blocks(capsys):
    assert BLOCKS
    namespace = {}
    with jax.numpy_dtype_promotion("standard"):  # as a user runs it
        for block in BLOCKS:
            namespace["losses"] = []
            exec(compile(block, "README.md", "exec"), namespace)
            if "losses" in block:
                losses = namespace["losses"]
                assert losses[-1] < 0.7 * losses[0], block
                if "nnx" in block:  # "The first n updates are exactly zero"
                    assert losses[10] == losses[0] != losses[11]
    assert capsys.readouterr().out == "(4, 1, 1)\n"


def test_docstrings_are_printable():
    """No backslash of a formula has become a control character."""
    for name in adashift_optax.__all__:
        text = getattr(adashift_optax, name).__doc__
        assert all(c.isprintable() or c == "\n" for c in text), name
