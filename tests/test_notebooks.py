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

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_runs(source, tmp_path):
    environment = os.environ | {"ADASHIFT_QUICK": "1", "XLA_FLAGS": FLAGS}
    command = [sys.executable, source]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_kept_outputs_are_of_this_source(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    text = source.read_text(encoding="utf-8")
    for cell in cells:
        assert "".join(cell["source"]) in text
        assert cell["execution_count"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output["output_type"] == "error" for output in outputs)
    # A warning would show readers where the files of this machine are.
    assert not any(output.get("name") == "stderr" for output in outputs)
