"""Sphinx: the pages of this site are docs/*.md, the notebooks and benchmarks beside docs/.

``make docs`` builds it. The source directory is the root of the repository, so that a relative link
means the same file on the site, on GitHub and in an editor.
"""

import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes

import adashift_optax

DOCS = Path(__file__).parent
# Sphinx does not look for modules beside this file, so they can be imported only now.
sys.path.insert(0, str(DOCS))
import formulas  # noqa: E402
import pages  # noqa: E402

PYPROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))

project = "adashift_optax"
author = "the adashift_optax authors"
version = release = adashift_optax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
]

root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "notebooks/*.ipynb",
    "benchmarks/README.md",
    "benchmarks/*/*.md",
    "benchmarks/results/*/*.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
]
exclude_patterns = [".*", "runs", "docs/_build"]

highlight_language = "none"  # of what names no language
nb_execution_mode = "off"  # the outputs that `make notebooks` kept
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say it
napoleon_use_ivar = True
napoleon_attr_annotations = False
doctest_test_doctest_blocks = "default"
nitpicky = True  # without the inventories of other libraries: their names are no references here

html_theme = "sphinx_book_theme"
html_title = f"adashift_optax {version}"
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static", "_build/static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
html_context = {"default_mode": "auto"}
html_show_copyright = False
html_show_sourcelink = False
html_use_index = html_domain_indices = False
html_theme_options = {
    "navbar_persistent": [],
    "show_toc_level": 2,
    "logo": {"text": html_title, "alt_text": ""},
    "repository_url": PYPROJECT["project"]["urls"]["Repository"],
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
}
html_math_renderer = "mathml"
formulas.write_font(DOCS / "_build" / "static" / "formulas.woff")


def _links(app, path, parent, content):
    """Makes the relative links of a file above docs/ those of a page in docs/ that includes it."""
    content[0] = re.sub(r"\]\((?!https?:|#)", "](../", content[0])


def _source(app, docname, content):
    """Adds captions and links to the notebooks, and pictures to the gallery."""
    folder, _, stem = docname.partition("/")
    if folder == "notebooks":
        content[0] = pages.notebook(content[0], stem)
    elif docname == "docs/gallery":
        content[0] = pages.gallery(content[0], DOCS / "_build" / "thumbnails")


def _captions(app, document):
    """Makes ![alt](file "caption") on a line of its own a figure with that caption."""
    for image in list(document.findall(nodes.image)):
        if "title" in image and len(image.parent) == 1:
            caption = nodes.caption("", image.attributes.pop("title"))
            figure = nodes.figure("", image.deepcopy(), caption)
            document.set_id(figure)
            image.parent.replace_self(figure)


def _numbers(app, document):
    """Keeps a number such as 1e-12 on one line, which a browser would break after "1e-"."""
    for text in list(document.findall(nodes.Text)):
        parts = re.split(r"(\b[\d.]*\de-\d+)", text)
        if parts[1:] and not isinstance(text.parent, (nodes.FixedTextElement, nodes.literal)):
            pieces = [nodes.Text(part) for part in parts]
            pieces[1::2] = [nodes.inline("", part, classes=["number"]) for part in parts[1::2]]
            text.parent.replace(text, pieces)


def _arguments(app, document):
    """Begins the text about an argument on the line of its name, also if a list is part of it."""
    for inline in list(document.findall(nodes.inline)):
        if inline.children and isinstance(inline[0], nodes.paragraph):  # Sphinx makes no others
            first, *rest = inline.children
            line = inline.parent
            line.replace(inline, first.children)
            line.parent.insert(line.parent.index(line) + 1, rest)


def _names(app, pagename, templatename, context, doctree):
    """Lets long names break where their words end, in the page and in its table of contents."""
    for part in ("body", "toc"):
        if part in context:
            context[part] = pages.breakable(context[part])


def setup(app):
    """Registers all of these with Sphinx, which calls this."""
    app.connect("include-read", _links)
    app.connect("source-read", _source)
    app.connect("doctree-read", _captions)
    app.connect("doctree-read", _numbers)
    app.connect("doctree-read", _arguments)
    app.connect("html-page-context", _names, priority=400)  # before the theme takes the contents
    app.add_html_math_renderer("mathml", (formulas.render, None), (formulas.render, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
