"""The documents of a folder as text: plain text, Markdown, HTML and PDF.

A file that cannot be read is named with its reason and counted; it stops nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwen3.research import pdf_child

LARGEST = 32 * 2**20  # bytes of a file
PDF_SECONDS = 60.0  # time for the text of one PDF


class Unreadable(Exception):
    """A file whose text cannot be had; the message is the reason."""


@dataclass(frozen=True)
class SourceFile:
    """A document of the corpus."""

    path: str  # within the folder, with "/"
    title: str  # its first heading or line, or the file's name
    pages: tuple[str, ...]  # text; one page for all but PDF


@dataclass(frozen=True)
class SourceFolder:
    """All documents of a folder, and what could not be read."""

    files: tuple[SourceFile, ...]  # in the order of their paths
    unread: tuple[tuple[str, str], ...]  # (path, reason)
    digest: str  # of the names and the content of all files


def read_folder(folder: Path) -> SourceFolder:
    """Read a folder and those below it; names that begin with a full stop are passed over.

    Raises ValueError for a folder that does not exist or in which nothing can be read.
    """
    if not folder.is_dir():
        raise ValueError(f"--corpus {folder} is no folder")
    files, unread, digest = [], [], hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) or not path.is_file():
            continue
        try:
            files.append(_read(path, name.as_posix(), digest.update))
        except (Unreadable, OSError) as error:
            unread.append((name.as_posix(), str(error)))
    if not files:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unread[:5])
        raise ValueError(f"--corpus {folder}: nothing to read there ({reasons or 'no files'})")
    return SourceFolder(tuple(files), tuple(unread), digest.hexdigest())


def _read(path: Path, name: str, feed: Callable[[bytes], None]) -> SourceFile:
    """One file; its name and content are fed to the digest of the folder."""
    feed(f"{name}\0{path.stat().st_size}\0".encode())
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(f"{path.suffix or 'no suffix'}: read are {', '.join(READERS)}")
    size = path.stat().st_size
    if not size:
        raise Unreadable("empty file")
    if size > LARGEST:
        raise Unreadable(f"{size} bytes, at most {LARGEST} are read")
    feed(path.read_bytes())
    title, pages = reader(path)
    if not any(page.strip() for page in pages):
        raise Unreadable("no text in it")
    first = re.sub(r"^#+\s*", "", next(filter(None, map(str.strip, pages[0].splitlines())), ""))
    return SourceFile(name, (title or first or name)[:120], pages)


def _text(path: Path) -> tuple[str, tuple[str, ...]]:
    """Text and Markdown in UTF-8."""
    data = path.read_bytes()
    if b"\0" in data:
        raise Unreadable("binary data, not text (a zero byte)")
    try:
        return "", (data.decode("utf-8-sig"),)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not UTF-8 (byte {error.start})") from None


def _html(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text of an HTML page without its scripts, styles, menus, head and foot."""
    from selectolax.lexbor import LexborHTMLParser

    _, (markup,) = _text(path)
    tree = LexborHTMLParser(markup)
    title = tree.css_first("title")
    name = "" if title is None else title.text(strip=True)
    for node in tree.css("script, style, noscript, template, nav, header, footer"):
        node.decompose()
    return name, (tree.body.text(separator="\n", strip=True) if tree.body else "",)


def _pdf(path: Path) -> tuple[str, tuple[str, ...]]:
    """The text layer of a PDF, read by `pdf_child` in a process of its own."""
    command = [sys.executable, "-I", pdf_child.__file__, str(path)]
    try:
        child = subprocess.run(command, capture_output=True, timeout=PDF_SECONDS)
    except subprocess.TimeoutExpired:
        raise Unreadable(f"the PDF was not read within {PDF_SECONDS:g} s") from None
    if child.returncode:
        reason = child.stderr.decode(errors="replace").strip().splitlines()
        raise Unreadable(
            f"broken PDF: {reason[-1] if reason else f'code {child.returncode}'}"[:200]
        )
    return "", tuple(json.loads(line) for line in child.stdout.splitlines())


READERS: dict[str, Callable[[Path], tuple[str, tuple[str, ...]]]] = {
    ".txt": _text,
    ".md": _text,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}
