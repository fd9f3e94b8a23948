"""Checks of verifiable constraints on a text: counts, casing, keywords, form, endings.

The kinds are those of IFEval (arXiv 2311.07911) and a few more, written anew; each check is a pure
function of the answer and its parameters, so that files in IFEval's form can use the same rows.
"""

import json
import re
from collections.abc import Sequence

from qwen3.rewards import text_statistics as statistics

RELATIONS = {
    "at least": lambda count, n: count >= n,
    "at most": lambda count, n: count <= n,
    "less than": lambda count, n: count < n,
    "exactly": lambda count, n: count == n,
}


def relation(name: str, count: int, n: int) -> bool:
    """Whether `count` stands in the relation `name` to n; ValueError naming the relations."""
    if name not in RELATIONS:
        raise ValueError(f"relation {name!r} is none of {list(RELATIONS)}")
    return RELATIONS[name](count, n)


def count_word(answer: str, word: str) -> int:
    """How often a word or phrase occurs as such, in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE))


def words(answer: str, *, compare: str, n: int) -> bool:
    return relation(compare, len(statistics.words(answer)), n)


def sentences(answer: str, *, compare: str, n: int) -> bool:
    return relation(compare, statistics.sentences(answer), n)


def paragraphs(answer: str, *, n: int, separator: str = r"\n\s*\n") -> bool:
    return len(statistics.paragraphs(answer, separator)) == n


def paragraph_start(answer: str, *, n: int, index: int, word: str) -> bool:
    """Exactly n paragraphs; number `index` (from 1) opens with `word`."""
    parts = statistics.paragraphs(answer)
    if len(parts) != n or not statistics.words(parts[index - 1]):
        return False
    return statistics.words(parts[index - 1])[0].lower() == word.lower()


def lowercase(answer: str) -> bool:
    return any(map(str.isalpha, answer)) and answer == answer.lower()


def uppercase(answer: str) -> bool:
    return any(map(str.isalpha, answer)) and answer == answer.upper()


def capital_words(answer: str, *, compare: str, n: int) -> bool:
    """The number of words in capitals stands in the relation `compare` to n."""
    return relation(compare, sum(word.isupper() for word in statistics.words(answer)), n)


def no_comma(answer: str) -> bool:
    return not set(answer) & set(",，、")


def keywords(answer: str, *, words: Sequence[str]) -> bool:
    return all(count_word(answer, word) for word in words)


def forbidden(answer: str, *, words: Sequence[str]) -> bool:
    return not any(count_word(answer, word) for word in words)


def frequency(answer: str, *, word: str, compare: str, n: int) -> bool:
    return relation(compare, count_word(answer, word), n)


def letter(answer: str, *, letter: str, compare: str, n: int) -> bool:
    return relation(compare, answer.lower().count(letter.lower()), n)


def bullets(answer: str, *, n: int) -> bool:
    """Exactly n lines of a Markdown list."""
    return len(re.findall(r"(?m)^[ \t]*[*\-+][ \t]+\S", answer)) == n


def highlights(answer: str, *, n: int) -> bool:
    """At least n spans of *text* or **text**."""
    spans = re.findall(r"\*\*([^\n*]+)\*\*|(?<!\*)\*([^\n*\s][^\n*]*)\*(?!\*)", answer)
    return sum(1 for span in spans if statistics.words("".join(span))) >= n


def placeholders(answer: str, *, n: int) -> bool:
    """At least n non-empty blanks in square brackets."""
    blanks = re.findall(r"\[([^\[\]\n]+)\]", answer)
    return sum(1 for blank in blanks if statistics.words(blank)) >= n


def sections(answer: str, *, mark: str, n: int) -> bool:
    """At least n headings "mark 1", "mark 2", ... on lines of their own."""
    return len(re.findall(rf"(?mi)^[^\w\n]*{re.escape(mark)}[ \t]+\S", answer)) >= n


def title(answer: str) -> bool:
    return any(part.strip() for part in re.findall(r"<<([^<>\n]+)>>", answer))


def postscript(answer: str, *, mark: str) -> bool:
    """A last part that starts a line with `mark` ("P.S.") and says something."""
    match = re.search(rf"(?mi)^[ \t]*{re.escape(mark)}(.*)", answer, re.DOTALL)
    return match is not None and bool(statistics.words(match[1]))


def end_phrase(answer: str, *, phrase: str) -> bool:
    return answer.strip().strip('"').strip().lower().endswith(phrase.strip().lower())


def quotation(answer: str) -> bool:
    text = answer.strip()
    return len(text) > 2 and text[0] == text[-1] == '"'


def two_answers(answer: str) -> bool:
    """Exactly two texts, different ones, parted by six asterisks."""
    parts = [part.strip() for part in answer.strip().split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def repeats(answer: str, *, prompt: str) -> bool:
    """The answer opens with the prompt, word for word, and goes on."""
    text, opening = answer.strip().lower(), prompt.strip().lower()
    return text.startswith(opening) and bool(statistics.words(text[len(opening) :]))


def one_of(answer: str, *, options: Sequence[str]) -> bool:
    """The answer contains exactly one of the options."""
    return sum(option.lower() in answer.lower() for option in options) == 1


def json_only(answer: str) -> bool:
    """The whole answer, or the inside of its one code fence, is JSON."""
    body = answer.strip()
    if body.startswith("```") and body.endswith("```") and body.count("```") == 2:
        body = body.strip("`").removeprefix("json").removeprefix("JSON")
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


# language code -> letters of its script, as the inside of a character class
SCRIPTS = {
    "ar": "\u0600-\u06ff",
    "fa": "\u0600-\u06ff",
    "ur": "\u0600-\u06ff",
    "bn": "\u0980-\u09ff",
    "gu": "\u0a80-\u0aff",
    "hi": "\u0900-\u097f",
    "mr": "\u0900-\u097f",
    "ne": "\u0900-\u097f",
    "kn": "\u0c80-\u0cff",
    "ko": "\uac00-\ud7af",
    "pa": "\u0a00-\u0a7f",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "th": "\u0e00-\u0e7f",
    "ru": "\u0400-\u04ff",
    "bg": "\u0400-\u04ff",
    "uk": "\u0400-\u04ff",
    "zh": "\u4e00-\u9fff",
    "ja": "\u3040-\u30ff\u4e00-\u9fff",
    "he": "\u0590-\u05ff",
    "el": "\u0370-\u03ff",
}


def script(answer: str, *, language: str) -> bool:
    """At least 80 % of the letters are of the language's script; ValueError if it shares Latin."""
    if language not in SCRIPTS:
        raise ValueError(f"language {language!r} has no script of its own; known: {list(SCRIPTS)}")
    letters = [c for c in answer if c.isalpha()]
    own = re.findall(f"[{SCRIPTS[language]}]", "".join(letters))
    return bool(letters) and len(own) >= 0.8 * len(letters)
