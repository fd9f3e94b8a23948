"""Real text that every Python carries: its documentation and the sources of its library."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from random import Random

SHORTEST = 80  # characters; shorter paragraphs are joined to the next


def documentation() -> list[str]:
    """Paragraphs of the language reference that `help()` shows. ValueError where it is missing."""
    if importlib.util.find_spec("pydoc_data") is None:
        raise ValueError("this Python comes without its documentation (pydoc_data)")
    from pydoc_data.topics import topics

    return [text for topic in sorted(topics) for text in _paragraphs(topics[topic])]


def sources() -> list[str]:
    """Paragraphs of the standard library's modules. Raises ValueError where they are missing."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(folder.glob("*.py")):
        texts += _paragraphs(path.read_text(encoding="utf-8", errors="replace"))
    if not texts:
        raise ValueError(f"{folder} holds no library sources (*.py)")
    return texts


def _paragraphs(text: str) -> list[str]:
    """Paragraphs of SHORTEST characters at least; a short rest at the end is left out."""
    paragraphs, joined = [], ""
    for paragraph in text.split("\n\n"):
        joined = f"{joined}\n\n{paragraph}" if joined else paragraph.rstrip()
        if len(joined) >= SHORTEST:
            paragraphs.append(joined)
            joined = ""
    return paragraphs


DOMAINS = {"documentation": documentation, "sources": sources}


def documents(domain: str, count: int, seed: int) -> tuple[list[dict], list[dict]]:
    """(training rows, held-out rows) of {"text", "language", "domain"}, one in 20 held out."""
    texts = DOMAINS[domain]()
    Random(f"{domain}/{seed}").shuffle(texts)
    rows = [{"text": text, "language": "en", "domain": domain} for text in texts[:count]]
    return [row for i, row in enumerate(rows) if i % 20], rows[::20]
