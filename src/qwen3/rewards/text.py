"""Counting words, sentences and paragraphs; telling an echo or a stutter from an answer."""

import re

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+|(?<=\d)[.,]\d+)*")
_SENTENCE = re.compile(r"[.!?。！？]+")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|e\.g|i\.e|etc|vs|[A-Z])\.|(?<=\d)\.(?=\d)")


def words(text):
    """The words: letters and digits with inner apostrophes and hyphens, numbers like 3.5 whole."""
    return _WORD.findall(text)


def sentences(text):
    """The number of sentences: runs of end marks, and an unfinished tail with a word in it."""
    text = _ABBREVIATION.sub(lambda match: match[0].replace(".", ""), text)
    parts = _SENTENCE.split(text)
    return sum(1 for part in parts if words(part))


def paragraphs(text, separator=r"\n\s*\n"):
    """The non-empty paragraphs, by default parted by empty lines."""
    return [part.strip() for part in re.split(separator, text) if part.strip()]


def echoes(answer, prompt, span=8):
    """Whether the answer holds `span` successive words of the prompt, or the prompt the answer."""
    said, asked = [w.lower() for w in words(answer)], [w.lower() for w in words(prompt)]
    if not said:
        return True
    runs = {tuple(asked[i : i + span]) for i in range(len(asked) - span + 1)}
    if any(tuple(said[i : i + span]) in runs for i in range(len(said) - span + 1)):
        return True
    return f" {' '.join(said)} " in f" {' '.join(asked)} "


def stutters(answer):
    """Whether words repeat as in no prose: few distinct ones (under 40 %, and under 20), or one

    word four times in a row.
    """
    said = [w.lower() for w in words(answer)]
    if len(set(said)) < min(0.4 * len(said), 20):
        return True
    return any(len(set(said[i : i + 4])) == 1 for i in range(len(said) - 3))
