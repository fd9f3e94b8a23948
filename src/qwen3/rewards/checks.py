"""Verifiable constraints on a text: counts, casing, keywords, form, ends. One row a kind.

The kinds are those of IFEval (arXiv 2311.07911) and a few more, written anew; each check is a pure
function of the answer and its parameters, so that files in IFEval's form can use the same rows.
"""

import json
import re

from qwen3.rewards import text

RELATIONS = {
    "at least": lambda count, n: count >= n,
    "at most": lambda count, n: count <= n,
    "less than": lambda count, n: count < n,
    "exactly": lambda count, n: count == n,
}


def relation(name, count, n):
    if name not in RELATIONS:
        raise ValueError(f"relation {name!r} is none of {list(RELATIONS)}")
    return RELATIONS[name](count, n)


def count_word(answer, word):
    """Occurrences of a word or phrase, whole and in any case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE))


def words(answer, *, compare, n):
    return relation(compare, len(text.words(answer)), n)


def sentences(answer, *, compare, n):
    return relation(compare, text.sentences(answer), n)


def paragraphs(answer, *, n, separator=r"\n\s*\n"):
    return len(text.paragraphs(answer, separator)) == n


def paragraph_start(answer, *, n, index, word):
    """`n` paragraphs, number `index` (from 1) of which opens with `word`."""
    parts = text.paragraphs(answer)
    if len(parts) != n or not text.words(parts[index - 1]):
        return False
    return text.words(parts[index - 1])[0].lower() == word.lower()


def lowercase(answer):
    return any(map(str.isalpha, answer)) and answer == answer.lower()


def uppercase(answer):
    return any(map(str.isalpha, answer)) and answer == answer.upper()


def capital_words(answer, *, compare, n):
    """Words of capital letters only."""
    return relation(compare, sum(word.isupper() for word in text.words(answer)), n)


def no_comma(answer):
    return not set(answer) & set(",，、")


def keywords(answer, *, words):
    return all(count_word(answer, word) for word in words)


def forbidden(answer, *, words):
    return not any(count_word(answer, word) for word in words)


def frequency(answer, *, word, compare, n):
    return relation(compare, count_word(answer, word), n)


def letter(answer, *, letter, compare, n):
    return relation(compare, answer.lower().count(letter.lower()), n)


def bullets(answer, *, n):
    """Exactly n Markdown list lines."""
    return len(re.findall(r"(?m)^[ \t]*[*\-+][ \t]+\S", answer)) == n


def highlights(answer, *, n):
    """At least n spans of *text* or **text**."""
    spans = re.findall(r"\*\*([^\n*]+)\*\*|(?<!\*)\*([^\n*\s][^\n*]*)\*(?!\*)", answer)
    return sum(1 for span in spans if text.words("".join(span))) >= n


def placeholders(answer, *, n):
    return sum(1 for blank in re.findall(r"\[([^\[\]\n]+)\]", answer) if text.words(blank)) >= n


def sections(answer, *, mark, n):
    """At least n headings "mark 1", "mark 2", ... on lines of their own."""
    return len(re.findall(rf"(?mi)^[^\w\n]*{re.escape(mark)}[ \t]+\S", answer)) >= n


def title(answer):
    return any(part.strip() for part in re.findall(r"<<([^<>\n]+)>>", answer))


def postscript(answer, *, mark):
    """A last part that starts a line with `mark` ("P.S.") and says something."""
    found = re.search(rf"(?mi)^[ \t]*{re.escape(mark)}(.*)", answer, re.DOTALL)
    return found is not None and bool(text.words(found[1]))


def end_phrase(answer, *, phrase):
    return answer.strip().strip('"').strip().lower().endswith(phrase.strip().lower())


def quotation(answer):
    whole = answer.strip()
    return len(whole) > 2 and whole[0] == whole[-1] == '"'


def two_answers(answer):
    """Two different texts parted by six asterisks."""
    parts = [part.strip() for part in answer.strip().split("******")]
    return len(parts) == 2 and all(parts) and parts[0] != parts[1]


def repeats(answer, *, prompt):
    """Opens with the prompt, word for word, and goes on."""
    whole, opening = answer.strip().lower(), prompt.strip().lower()
    return whole.startswith(opening) and bool(text.words(whole[len(opening) :]))


def one_of(answer, *, options):
    """Contains exactly one of the options."""
    return sum(option.lower() in answer.lower() for option in options) == 1


def json_only(answer):
    """The whole answer, or the inside of its one code fence, is JSON."""
    body = answer.strip()
    if body.startswith("```") and body.endswith("```") and body.count("```") == 2:
        body = body.strip("`").removeprefix("json").removeprefix("JSON")
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


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


def script(answer, *, language):
    """At least 80 % of the letters are of the language's script; ValueError if it shares Latin."""
    if language not in SCRIPTS:
        raise ValueError(f"language {language!r} has no script of its own; known: {list(SCRIPTS)}")
    letters = [c for c in answer if c.isalpha()]
    own = re.findall(f"[{SCRIPTS[language]}]", "".join(letters))
    return bool(letters) and len(own) >= 0.8 * len(letters)
