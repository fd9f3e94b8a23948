"""The pages of one PDF, printed as JSON by a process of its own.

Run as `python pdf_pages.py FILE OCR DPI`; it imports nothing of ours. pdfium is not safe in threads
and a hostile file can crash or stall it, so every document has its own process with limits on
memory and time.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from typing import Any

MEMORY = 4 << 30  # bytes of address space
SECONDS = 600  # of processor time
FEWEST_LETTERS = 16  # of a page; with fewer the page counts as one without a text layer


def main(path: str, ocr: str, dpi: str) -> None:
    """Print {"pages": [[text, how it was read], ...]} or {"error": what is wrong}."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        result: dict[str, Any] = {"pages": pages(path, ocr, int(dpi))}
    except Exception as error:  # the parent tells it; a traceback would be lost
        reason = str(error)
        is_locked = "password" in reason.lower() or "security" in reason.lower()
        result = {"error": "encrypted" if is_locked else f"unreadable ({reason})"}
    json.dump(result, sys.stdout)


def pages(path: str, ocr: str, dpi: int) -> list[tuple[str, str]]:
    """(text, "text layer", "OCR" or "no text") of each page."""
    import pypdfium2

    document = pypdfium2.PdfDocument(path)
    result = []
    for page in document:
        layer = page.get_textpage()
        text = layer.get_text_range().replace("\r\n", "\n")
        layer.close()
        how = "text layer"
        if sum(map(str.isalpha, text)) < FEWEST_LETTERS:
            text, how = (recognised(page, ocr, dpi), "OCR") if ocr else ("", "no text")
        page.close()
        result.append((text, how))
    return result


def recognised(page: Any, languages: str, dpi: int) -> str:
    """The text that tesseract reads off a page; "" for a blank one, which is not asked about."""
    image = page.render(scale=dpi / 72).to_pil().convert("L")
    darkest, lightest = image.getextrema()
    if lightest - darkest < 16:
        return ""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        image.save(file.name)
        command = ["tesseract", file.name, "-", "-l", languages]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
