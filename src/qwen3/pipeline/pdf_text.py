"""Running text of a PDF: its text layer, or OCR of the pages without one.

pdfium gives a page's text in the order in which it was set, so columns come one after another. What
is left to do: lines that repeat on the pages (furniture), words broken at line ends, line ends that
are not ends of paragraphs.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qwen3.data.unpacked import BadData, Unpacked
from qwen3.pipeline import pdf_pages

EDGE_LINES = 2  # at the top and the bottom of a page where furniture stands
SEPARATORS = "\ufffe\u00ad\u0002"  # how pdfium and others give a hyphen at a line's end
TIMEOUT = 2 * pdf_pages.SECONDS  # seconds of waiting for a document
_NUMBERS = re.compile(r"\d+|\b[ivxlc]+\b")
_BROKEN = re.compile(rf"\w(?:-|[{SEPARATORS}])$")


def read_pdf(url: str, ocr: str = "", dpi: int = 150) -> tuple[str, list[str]]:
    """(text, history: how the pages were read) of a PDF.

    ocr: languages of tesseract, such as "eng" or "deu+fra", for pages without a text layer.
    Raises BadData naming a file that is encrypted, broken, too slow or without text.
    """
    if ocr and not shutil.which("tesseract"):
        raise ValueError(f"{url}: ocr={ocr!r} needs the program tesseract, which is not installed")
    copy = Unpacked(url, binary=True)
    try:
        pages = _pages(url, copy.path, ocr, dpi)
    finally:
        copy.close()
    text = assemble([text for text, _ in pages])
    if not text.strip():
        hint = "" if ocr else "; give the option ocr"
        raise BadData(f"{url}: no text on {len(pages)} pages{hint}")
    return text, [ways_of([how for _, how in pages])]


def ways_of(pages: Sequence[str]) -> str:
    """How each page was read, as a line of history.

    >>> ways_of(["text layer", "text layer", "OCR", "text layer"])
    'pdf: pages 1-2 text layer, 3 OCR, 4 text layer'
    """
    runs, first = [], 1
    for how, group in itertools.groupby(pages):
        last = first + len(list(group)) - 1
        runs.append(f"{first}-{last} {how}" if last > first else f"{first} {how}")
        first = last + 1
    return f"pdf: pages {', '.join(runs)}"


def _pages(url: str, path: str, ocr: str, dpi: int) -> list[tuple[str, str]]:
    command = [sys.executable, str(Path(pdf_pages.__file__)), path, ocr, str(dpi)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
        result = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise BadData(f"{url}: not read within {TIMEOUT} s") from error
    except json.JSONDecodeError as error:
        last = done.stderr.decode(errors="replace").strip().split("\n")[-1]
        if "pypdfium2" in last:
            raise ValueError(f"{last}: pip install 'qwen3[beam]'") from error
        raise BadData(f"{url}: reading ended with code {done.returncode} {last}") from error
    if "error" in result:
        raise BadData(f"{url}: {result['error']}")
    return [(text, how) for text, how in result["pages"]]


def assemble(pages: Sequence[str]) -> str:
    """Pages as paragraphs, without furniture and broken words; pages run on where a sentence does.

    >>> assemble(["An exam-\\nple of it."])
    'An example of it.'
    """
    pages = without_furniture(pages)
    joined = ""
    for page in pages:
        gap = "\n" if re.search(r"[.!?:»”\"]\s*$", joined) else ""
        joined = f"{joined.rstrip()}\n{gap}{page.strip()}" if joined else page.strip()
    return paragraphs(joined)


def without_furniture(pages: Sequence[str]) -> list[str]:
    """Pages without lines at their edges that, numbers apart, stand on half of the pages."""
    split = [[line for line in page.split("\n") if line.strip()] for page in pages]
    counts = Counter(key for lines in split for key in {_masked(line) for line in _edges(lines)})
    least = max(3, len(pages) / 2)
    # A book's left and right pages have headers of their own, each on half of them or less.
    if len(pages) >= 8:
        least = max(3, len(pages) / 3)
    furniture = {key for key, count in counts.items() if count >= least}
    return [_stripped(page, furniture) for page in pages]


def _edges(lines: Sequence[str]) -> list[str]:
    return [*lines[:EDGE_LINES], *lines[max(len(lines) - EDGE_LINES, EDGE_LINES) :]]


def _masked(line: str) -> str:
    return " ".join(_NUMBERS.sub("0", line.lower()).split())


def _stripped(page: str, furniture: set[str]) -> str:
    lines = page.split("\n")
    filled = [i for i, line in enumerate(lines) if line.strip()]
    edges = {*filled[:EDGE_LINES], *filled[-EDGE_LINES:]}
    return "\n".join(
        line for i, line in enumerate(lines) if i not in edges or _masked(line) not in furniture
    )


def paragraphs(text: str) -> str:
    """Lines joined to paragraphs: a line that is clearly shorter than the others ends one.

    A word that is broken at the end of a line is joined, which costs a compound its own hyphen.
    """
    lines = text.split("\n")
    lengths = [len(line) for line in lines if line.strip()]
    full = 0.75 * statistics.median(lengths) if lengths else 0
    result, open_lines = [], []
    for line in [*lines, ""]:
        if line.strip():
            open_lines.append(line.strip())
        if open_lines and (not line.strip() or len(line.strip()) < full):
            result.append(_joined(open_lines))
            open_lines = []
    return "\n\n".join(result)


def _joined(lines: Sequence[str]) -> str:
    text = lines[0]
    for line in lines[1:]:
        is_broken = _BROKEN.search(text) and line[0].islower()
        text = text[:-1] + line if is_broken else f"{text} {line}"
    return text
