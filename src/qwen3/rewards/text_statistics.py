"""Counting words, sentences and paragraphs; telling an echo or a stutter from an answer."""

import re
from collections.abc import Iterator

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+|(?<=\d)[.,]\d+)*")
_SENTENCE = re.compile(r"[.!?。！？]+")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|e\.g|i\.e|etc|vs|[A-Z])\.|(?<=\d)\.(?=\d)")


def words(text: str) -> list[str]:
    """The words: runs of letters and digits, inner apostrophes and hyphens included; 3.5 is one."""
    return _WORD.findall(text)


def sentences(text: str) -> int:
    """The number of sentences: parts with a word in them, closed by end marks or by the end."""
    text = _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), text)
    return sum(1 for part in _SENTENCE.split(text) if words(part))


def paragraphs(text: str, separator: str = r"\n\s*\n") -> list[str]:
    """The non-empty paragraphs, by default parted by empty lines."""
    return [part.strip() for part in re.split(separator, text) if part.strip()]


def echoes(answer: str, prompt: str, span: int = 8) -> bool:
    """Whether the answer repeats `span` words of the prompt in a row, is a part of it, or empty."""
    answer_words, prompt_words = _lower_words(answer), _lower_words(prompt)
    spans = set(_windows(prompt_words, span))
    if not answer_words or any(window in spans for window in _windows(answer_words, span)):
        return True
    return f" {' '.join(answer_words)} " in f" {' '.join(prompt_words)} "


def stutters(answer: str) -> bool:
    """Whether words repeat as in no prose.

    Either few of them are distinct (under 40 % and under 20), or one stands four times in a row.
    """
    sequence = _lower_words(answer)
    if len(set(sequence)) < min(0.4 * len(sequence), 20):
        return True
    return any(len(set(window)) == 1 for window in _windows(sequence, 4))


def _lower_words(text: str) -> list[str]:
    return [word.lower() for word in words(text)]


def _windows(sequence: list[str], size: int) -> Iterator[tuple[str, ...]]:
    """All runs of `size` successive items."""
    return (tuple(sequence[i : i + size]) for i in range(len(sequence) - size + 1))
