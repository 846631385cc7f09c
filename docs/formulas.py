"""Formulas as MathML, which browsers show without any script, and the font to show them with.

Where a system has no font with a table for mathematics, as many phones, a browser puts roots and
sums in the wrong size and place. So the site brings such a font: the part of STIX Two Math that
the formulas need.
"""

import string
from pathlib import Path

import ziamath
from docutils import nodes
from fontTools import subset
from latex2mathml.converter import convert

# Besides ASCII: Greek, operators, the letters that MathML makes italic, and a few signs.
_CHARACTERS = [
    *range(0x391, 0x3CA),
    *range(0x2200, 0x2300),
    *range(0x1D434, 0x1D468),
    *range(0x1D6E2, 0x1D71C),
    *(0xB1, 0xB7, 0xD7, 0x302, 0x3F5, 0x2016, 0x2026, 0x2032, 0x210E, 0x2192),
]


def write_font(target: Path) -> None:
    """Write the font of the formulas, unless the file is there."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # 13 and 14 are the license.
    options = subset.Options(flavor="woff", layout_features=["ssty"], name_IDs=[0, 1, 2, 13, 14])
    source = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    font, subsetter = subset.load_font(source, options), subset.Subsetter(options)
    subsetter.populate(text=string.printable, unicodes=_CHARACTERS)
    subsetter.subset(font)
    subset.save_font(font, target, options)


def render(translator, node):
    """Write a formula as MathML: the visitor of Sphinx's `add_html_math_renderer`."""
    block, text = isinstance(node, nodes.math_block), node.astext()
    if r"\\" in text:  # several lines, aligned at their &
        text = rf"\begin{{split}}{text}\end{{split}}"
    translator.body.append(translator.starttag(node, "div" if block else "span", "", CLASS="math"))
    translator.body.append(convert(text, display="block" if block else "inline"))
    translator.body.append("</div>\n" if block else "</span>")
    raise nodes.SkipNode
