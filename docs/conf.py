"""The documentation site: `pip install -e '.[docs]'`, then `sphinx-build -W docs build/docs`.

Pages are Markdown; the API reference is read from the sources without importing them. Nothing is
fetched while the site is built or read.
"""

import inspect
import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent

project = "qwen3"
html_title = "qwen3"
html_theme = "furo"
html_show_copyright = False
highlight_language = "none"  # of blocks that name no language

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",  # for its event
    "sphinx.ext.viewcode",
    "autoapi.extension",
]
myst_heading_anchors = 2  # headings that pages link to

autoapi_dirs = [str(DOCS.parent / "src" / "qwen3")]
autoapi_root = "reference"
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_add_toctree_entry = False  # index.md has it
# Two kinds of warnings that no page can cause: an import of a constant that has no page of its own,
# and a builtin type whose name is also that of a field.
suppress_warnings = ["autoapi.python_import_resolution", "ref.python"]

# --- docstrings: plain text in sentences becomes reStructuredText -------------------------------
# Backticks mark code; paragraphs that are indented (formulae, tables, commands) keep their layout;
# lines that begin with "- " are a list. Nothing else has a meaning, whatever characters it holds.

CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
MARKUP = re.compile(r"([*_|\\<>`:])")  # what reStructuredText would read as more than a character
OPENING = re.compile(r"^( *)(?=[^\w\s\\]|\w+[.)]\s)", re.MULTILINE)  # "1. ", "---", "(a)"


def setup(app):
    """Sphinx's entry point of an extension."""
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True}


def convert(app, what, name, obj, options, lines):
    """Sphinx's event: rewrite the docstring `lines` in place."""
    lines[:] = [*to_rst("\n".join(lines)).splitlines(), ""]


def to_rst(docstring: str) -> str:
    """The docstring as reStructuredText, a paragraph at a time."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring))
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text):
    lines = text.splitlines()
    if all(line.startswith(" ") for line in lines):
        return "::\n\n" + textwrap.indent(textwrap.dedent(text), "    ")
    if any(line.startswith("- ") for line in lines):
        return _bullets(lines)
    if any(line.startswith(" ") for line in lines):  # hanging lines: keep the breaks
        return "\n".join("| " + line for line in _prose(text).splitlines())
    return _prose(text)


def _bullets(lines):
    """A list, with the prose before it if there is any; a further line belongs to its item."""
    items, before = [], []
    for line in lines:
        if line.startswith("- "):
            items.append([line[2:]])
        else:
            (items[-1] if items else before).append(line.strip())
    texts = ["- " + textwrap.indent(_prose("\n".join(item)), "  ")[2:] for item in items]
    return "\n\n".join(([_prose("\n".join(before))] if before else []) + texts)


def _prose(text):
    pieces, at = [], 0
    for match in CODE.finditer(text):
        code = " ".join(match[2].split())
        pieces += [_escaped(text[at : match.start()]), rf"\ ``{code}``\ " if code else ""]
        at = match.end()
    return OPENING.sub(r"\1\\", "".join([*pieces, _escaped(text[at:])]))


def _escaped(text):
    return MARKUP.sub(r"\\\1", text)
