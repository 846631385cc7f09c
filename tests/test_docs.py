"""The code on the pages of docs/ runs as it stands and prints what the comments beside it say."""

import re
from pathlib import Path

import jax
import pytest

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
