"""Every notebook runs, on a small budget; what is kept of its last whole run is of its source."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiler import FLAGS

FOLDER = Path(__file__).parent.parent / "notebooks"
SOURCES = sorted(FOLDER.glob("[0-9]*.py"))
MARKS = [pytest.mark.slow, *[pytest.mark.all_only] * (len(SOURCES) - 1)]  # `make test` runs one
RUNS = [pytest.param(s, marks=mark, id=s.stem) for s, mark in zip(SOURCES, MARKS, strict=True)]


@pytest.mark.parametrize("source", RUNS)
def test_runs(source, tmp_path):
    environment = os.environ | {"ADASHIFT_QUICK": "1", "XLA_FLAGS": FLAGS}
    command = [sys.executable, source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_kept_outputs_are_of_this_source(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    text = source.read_text(encoding="utf-8")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) == text.count("\n# %%\n")
    for cell in code:
        assert "".join(cell["source"]) in text
        assert cell["execution_count"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            lines = "".join(cell["source"]).split("\n")
            assert "\n".join(f"# {line}".rstrip() for line in lines) in text
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
    # A warning would show readers where the files of this machine are.
    assert not any(output.get("name") == "stderr" for output in outputs)


def test_no_notebook_is_left_of_a_source_that_is_gone():
    assert sorted(FOLDER.glob("*.ipynb")) == [source.with_suffix(".ipynb") for source in SOURCES]
