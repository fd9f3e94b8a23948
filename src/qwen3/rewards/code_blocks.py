"""Fenced blocks of code in a Markdown answer, found line by line.

A block opens with a line of at least three backticks or tildes and an optional label, and ends at a
line of as many of them and nothing else, indented at most three spaces deeper than the opening
(CommonMark, 4.5). Fences inside of strings and docstrings of a program are thus part of it. A block
that is never closed is no block.
"""

import re
from collections.abc import Iterator

PYTHON = ("", "python", "python3", "py", "py3")  # labels of a program

_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*([^\n]*?)[ \t]*")


def blocks(answer: str) -> Iterator[tuple[str, str]]:
    """(label, content) of each complete block: the label in lower case, attributes left out."""
    opening, label, lines = "", "", list[str]()
    indent = 0
    for line in answer.replace("\r\n", "\n").split("\n"):
        fence = _FENCE.fullmatch(line)
        width = len(fence[1].expandtabs(4)) if fence else 0
        if not opening:
            if fence and not ("`" in fence[2] and "`" in fence[3]):  # ```x``` is a span of code
                opening, label, lines, indent = fence[2], _label(fence[3]), [], width
        elif fence and not fence[3] and fence[2].startswith(opening) and width - indent < 4:
            yield label, "\n".join(lines)
            opening = ""
        else:
            lines.append(_dedented(line, indent))


def program(answer: str, entry: str) -> str | None:
    """The program of an answer that shall define `entry`; None without a complete block of Python.

    Among several blocks it is the last one that defines the entry: drafts come first. If none does,
    it is the last one.
    """
    programs = [content for label, content in blocks(answer) if label in PYTHON]
    name = re.escape(entry)
    definition = re.compile(rf"(?m)^[ \t]*(?:(?:async +)?def|class) +{name}\b|^{name}[ \t]*=")
    defining = [content for content in programs if definition.search(content)]
    ordered = [*programs, *defining]
    return ordered[-1] if ordered else None


def _label(info: str) -> str:
    """The language of an info string: "Python", "python title=x", "{.python}"."""
    words = info.strip("{}. ").split()
    return words[0].strip(".,:{}").lower() if words else ""


def _dedented(line: str, indent: int) -> str:
    """The line without the indentation of its block's fence, as far as it has it."""
    expanded = len(line) - len(line.lstrip(" "))
    return line[min(indent, expanded) :]
