"""``make notebooks``: executes every notebook from its source and keeps what it printed and drew.

With arguments it executes those whose names begin so: ``python notebooks/run.py 02 05``. The
sources are the ``.py`` files beside this one (jupytext's percent format). The ``.ipynb`` are made
from them, whole or not at all; nothing in them but the outputs differs from run to run.
"""

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def execute(source: Path) -> None:
    """Run one notebook in a new kernel; write it if it ran to its end."""
    notebook = jupytext.read(source)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = str(number)
        cell["metadata"] = {}
    options = {"timeout": 1800, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **options).execute()
    notebook.metadata.pop("language_info", None)
    partial = source.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, source.with_suffix(".ipynb"))


if __name__ == "__main__":
    for path in sorted(HERE.glob("[0-9]*.py")):
        if path.name.startswith(tuple(sys.argv[1:]) or ""):
            start = time.perf_counter()
            execute(path)
            print(f"{path.stem}: {time.perf_counter() - start:.0f} s", flush=True)
