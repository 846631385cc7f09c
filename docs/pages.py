"""What the site adds to the notebooks and the gallery when it is built; ``conf.py`` calls it.

A notebook says with two comments what one of its cells draws, the caption and the text for those
who cannot see the picture:

    # Figure: What to see in the picture.
    # Alt: What is drawn: the panels, the axes, the curves.

On the site a cell that begins with such a comment is folded, and so are the checks: the last cell.
This file needs nothing but Python, because a test without Sphinx reads it.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
_WORDS = re.compile(r"^# Figure: (.+(?:\n# .+)*)\n# Alt: (.+(?:\n# .+)*)$", re.M)
_ENTRY = re.compile(r"^- \[(.+)\]\(\.\./notebooks/(\w+)\.ipynb\)(?:<!-- picture (\d+) -->)?", re.M)
# What Sphinx writes for a word in code and for the name of an argument.
_CODE = re.compile(r'(?<=<span class="pre">)[^<]+|(?<=<li><p><strong>)[^<]+')
_PARTS = re.compile(r"(?<=\w)[_.(](?=[^\W\d]|$)")


def code_cells(book: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of a notebook that hold code."""
    return [cell for cell in book["cells"] if cell["cell_type"] == "code"]


def pictures(cell: dict[str, Any]) -> list[str]:
    """The pictures that a cell drew, in base64."""
    bundles = [output.get("data", {}) for output in cell.get("outputs", ())]
    return [bundle["image/png"] for bundle in bundles if "image/png" in bundle]


def words(cell: dict[str, Any]) -> list[tuple[str, str]]:
    """The caption and the alternative text of each picture that a cell's comments describe."""
    found = _WORDS.findall("".join(cell["source"]))
    return [(caption.replace("\n# ", " "), alt.replace("\n# ", " ")) for caption, alt in found]


def notebook(text: str, stem: str) -> str:
    """The notebook `text` with captions, folded cells and, below the title, links to its files."""
    book = json.loads(text)
    cells = code_cells(book)
    for cell in cells:
        source = "".join(cell["source"])
        added = {}
        if pictures(cell) and words(cell):
            ((caption, alt),) = words(cell)
            added = {"image": {"alt": alt}, "figure": {"caption": caption}}
        if source.startswith("# Figure: "):
            _fold(cell, added, "the code of this figure")
        elif cell is cells[-1] and "assert " in source:
            _fold(cell, added, "the checks of what this notebook says")
        cell["metadata"]["mystnb"] = added
    first = book["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    first["source"] = f"{title}\n\n{_downloads(stem, cells)}\n\n{rest}"
    return json.dumps(book)


def _fold(cell: dict[str, Any], added: dict[str, Any], what: str) -> None:
    cell["metadata"]["tags"] = ["hide-input"]
    added |= {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}


def _downloads(stem: str, cells: list[dict[str, Any]]) -> str:
    names = [f"{stem}.ipynb", f"{stem}.py"]
    if any("from common import" in "".join(cell["source"]) for cell in cells):
        names.append("common.py")
    links = [f"{{download}}`{name}`" for name in names]
    needs = " Both import the third file, which must lie beside them." if names[2:] else ""
    return f"Download this notebook: {', '.join(links)}.{needs}"


def picture(stem: str, number: int) -> tuple[bytes, str]:
    """A picture of a notebook, counted from 1, and its alternative text."""
    book = json.loads((NOTEBOOKS / f"{stem}.ipynb").read_text(encoding="utf-8"))
    cell = [cell for cell in code_cells(book) if pictures(cell)][number - 1]
    alt = words(cell)[0][1] if words(cell) else ""
    return base64.b64decode(pictures(cell)[0]), alt


def gallery(text: str, folder: Path) -> str:
    """The page `text` with a picture of each notebook, written to `folder`, above its entry.

    An entry is a line that begins with "- [title](../notebooks/name.ipynb)". It gets the first
    picture of the notebook, or the second if "<!-- picture 2 -->" follows.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def with_picture(match: re.Match[str]) -> str:
        title, stem, number = match.groups()
        content, alt = picture(stem, int(number or 1))
        (folder / f"{stem}.png").write_bytes(content)
        link = f"(../notebooks/{stem}.ipynb)"
        alt = re.sub(r"([\[\]*_`])", r"\\\1", alt)
        return f"- [![{alt}](_build/{folder.name}/{stem}.png)]{link}\n\n  **[{title}]{link}**"

    return _ENTRY.sub(with_picture, text)


def breakable(body: str) -> str:
    """The HTML `body`, in which the names in code may break after each "_", "." and "(".

    Without it a narrow screen breaks a long name in the middle of a word.
    """
    return _CODE.sub(lambda match: _PARTS.sub(r"\g<0><wbr>", match[0]), body)
