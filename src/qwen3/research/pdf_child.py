"""The text of one PDF file, a page a line as JSON: run in a process of its own.

PDFium is written in C++ and reads files from anywhere, so a file that crashes it, or that keeps it
busy, must end this process and not the research. Only the standard library and pypdfium2 are used.
"""

from __future__ import annotations

import json
import resource
import sys

MEMORY = 2 << 30  # bytes of address space


def main(path: str) -> None:
    """Print one JSON string a page; the exit code is 3, with the reason on stderr, for no PDF."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    for page in document:
        text = page.get_textpage().get_text_bounded()
        # PDFium ends lines with "\r\n" and marks a hyphen at a line's end with U+FFFE.
        text = text.replace("\ufffe\r\n", "").replace("\ufffe", "").replace("\r\n", "\n")
        print(json.dumps(text))


if __name__ == "__main__":
    main(sys.argv[1])
