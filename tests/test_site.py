"""What the site needs: words for every picture, an entry in the gallery for every notebook."""

import base64
import json
import re
import runpy
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks/README.md"]
SITE = runpy.run_path(str(ROOT / "docs" / "pages.py"))


def read(path):
    return path.read_text(encoding="utf-8")


def test_each_picture_has_a_caption_and_a_text():
    """A page gives one caption to a cell, so a cell that draws two pictures must be two cells."""
    for path in NOTEBOOKS:
        for cell in SITE["code_cells"](json.loads(read(path))):
            drawn, described = SITE["pictures"](cell), SITE["words"](cell)
            assert len(drawn) == len(described) <= 1, (path, "".join(cell["source"]))
    for path in PAGES:
        for alt, rest in re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", read(path)):
            assert alt, f"![](...) needs a text between its brackets: {rest}"
            if path.name != "README.md" or path.parent != ROOT:  # the README's says what it shows
                assert re.fullmatch(r'\S+\s+"[^"]+"', rest), f'![...](file "caption"): {rest}'


def test_the_gallery_shows_every_notebook(tmp_path):
    page = SITE["gallery"](read(ROOT / "docs" / "gallery.md"), tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == [path.stem for path in NOTEBOOKS]
    for path in NOTEBOOKS:
        assert (tmp_path / f"{path.stem}.png").read_bytes().startswith(b"\x89PNG")
        entry = rf"^- \[!\[.*\]\(\S+{path.stem}\.png\)\]\(\.\./notebooks/{path.stem}\.ipynb\)\n"
        assert re.search(entry, page, re.M)


def test_a_notebook_becomes_a_page():
    figure = {"data": {"image/png": base64.b64encode(b"picture").decode()}}
    comment = "# Figure: One line\n# and another.\n# Alt: A line.\n"
    cells = [
        ("markdown", "# Title\n\nText.", []),
        ("code", "from common import band", []),
        ("code", f"{comment}plt.plot()", [figure]),
        ("code", f"train()\n{comment}plt.plot()", [figure]),
        ("code", "assert True", []),
    ]
    kinds = ("cell_type", "source", "outputs")
    book = {"cells": [dict(zip(kinds, cell, strict=True), metadata={}) for cell in cells]}
    first, *code = json.loads(SITE["notebook"](json.dumps(book), "name"))["cells"]
    assert re.match(r"# Title\n\nDownload.*name\.ipynb.*name\.py.*common\.py", first["source"])
    assert first["source"].endswith("\n\nText.")
    assert [cell["metadata"].get("tags") == ["hide-input"] for cell in code] == [0, 1, 0, 1]
    for cell in code[1:3]:
        shown = cell["metadata"]["mystnb"]
        assert shown["figure"] == {"caption": "One line and another."}
        assert shown["image"] == {"alt": "A line."}


def test_one_file_has_the_address_of_the_repository():
    """`make address` sets it there; the README and the pages must not repeat it."""
    urls = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["urls"]
    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    for path in [*PAGES, ROOT / "CITATION.cff", ROOT / "docs" / "conf.py"]:
        assert urls["Repository"] not in read(path), path
