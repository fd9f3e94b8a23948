"""Real text that every Python carries: its documentation and the sources of its library."""

import importlib.util
import sysconfig
from pathlib import Path
from random import Random

SHORTEST = 80  # characters; shorter paragraphs are joined to the next


def documentation():
    """Paragraphs of the language reference that `help()` shows."""
    if importlib.util.find_spec("pydoc_data") is None:
        raise ValueError("this Python comes without its documentation (pydoc_data)")
    from pydoc_data.topics import topics

    return [text for topic in sorted(topics) for text in _paragraphs(topics[topic])]


def sources():
    """Paragraphs of the standard library's modules."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(folder.glob("*.py")):
        texts += _paragraphs(path.read_text(encoding="utf-8", errors="replace"))
    if not texts:
        raise ValueError(f"{folder} holds no library sources (*.py)")
    return texts


def _paragraphs(text):
    kept, waiting = [], ""
    for paragraph in text.split("\n\n"):
        waiting = f"{waiting}\n\n{paragraph}" if waiting else paragraph.rstrip()
        if len(waiting) >= SHORTEST:
            kept.append(waiting)
            waiting = ""
    return kept


DOMAINS = {"documentation": documentation, "sources": sources}


def documents(domain, count, seed):
    """(training rows, held-out rows) of {"text", "language", "domain"}, one in 20 held out."""
    texts = DOMAINS[domain]()
    Random(f"{domain}/{seed}").shuffle(texts)
    rows = [{"text": text, "language": "en", "domain": domain} for text in texts[:count]]
    return [r for i, r in enumerate(rows) if i % 20], rows[::20]
