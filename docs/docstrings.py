"""Docstrings of this code for Sphinx: plain text in sentences becomes reStructuredText.

Backticks mark code; paragraphs that are indented (formulae, tables, commands) keep their layout;
lines that begin with "- " are a list. Nothing else has a meaning, whatever characters it holds.
"""

import inspect
import re
import textwrap

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
