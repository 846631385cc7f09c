"""``make notebooks``: executes every notebook from its source and keeps what it printed and drew.

The sources are the ``.py`` files beside this one (jupytext's percent format). The ``.ipynb`` are
made from them, whole or not at all; nothing in them but the outputs differs from run to run.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def sources() -> list[Path]:
    """The sources of the notebooks, in their order."""
    return sorted(HERE.glob("[0-9]*.py"))


def read(source: Path) -> nbformat.NotebookNode:
    """The notebook of a source, without outputs."""
    notebook = jupytext.read(source)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = {"kernelspec": kernel}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = str(number)
        cell["metadata"] = {}
    return notebook


def execute(source: Path) -> None:
    """Run one notebook in a new kernel; write it if it ran to its end."""
    notebook = read(source)
    options = {"timeout": 1800, "kernel_name": "python3", "record_timing": False}
    NotebookClient(notebook, resources={"metadata": {"path": str(HERE)}}, **options).execute()
    notebook.metadata.pop("language_info", None)
    target = source.with_suffix(".ipynb")
    partial = target.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, target)


def main() -> int:
    """Execute all notebooks, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="beginnings of names, e.g. 02 (default: all)")
    names = tuple(parser.parse_args().names)
    start = time.perf_counter()
    for source in sources():
        if not names or source.name.startswith(names):
            before = time.perf_counter()
            execute(source)
            print(f"{source.stem}: {time.perf_counter() - before:.0f} s", flush=True)
    print(f"all: {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
