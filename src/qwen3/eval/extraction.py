"""Finding the final answer in a text: a choice letter, a number, a phrase."""

from __future__ import annotations

import re

from qwen3.rewards.maths import boxed

# The last match of the first pattern that matches counts. The first form is the one that chat
# prompts ask for, the others those of chain-of-thought exemplars and of usual prose.
_LETTER = (
    re.compile(r'"answer"\s*:\s*"\(?([A-Z])\)?[".]'),
    re.compile(r"(?i:answer\s*(?:is|:|：))\s*\**\s*\(?([A-Z])\)?(?![A-Za-z])"),
    re.compile(r"答案(?:是|为|选|：|:)?\s*\(?([A-Z])\)?(?![A-Za-z])"),
    re.compile(r"^\W*\(?([A-Z])\)?\W*$", re.MULTILINE),
)
# Digits of other scripts are decimal digits to \d and int(): full-width, Bengali, Telugu, Thai.
_NUMBER = re.compile(r"-?\d[\d,.٬  ]*")
_AFTER = re.compile(r".*the answer is\s*(.*)", re.IGNORECASE)


def letter(text: str, choices: int) -> str | None:
    """The choice letter that a text ends on, among the first `choices` of the alphabet."""
    inside = boxed(text)
    if inside and re.fullmatch(r"(?:\\text\{)?\(?([A-Z])\)?\}?", inside):
        text = f'"answer": "{re.sub(r"[^A-Z]", "", inside)}"'
    for pattern in _LETTER:
        matches = [m for m in pattern.findall(text) if ord(m) - ord("A") < choices]
        if matches:
            return matches[-1]
    return None


def last_number(text: str, *, decimal_comma: bool = False) -> str | None:
    """The last number of a text in plain decimal notation, thousands marks dropped.

    decimal_comma: the language writes 1.234,5 for 1234.5. A mark counts as one of thousands where
    exactly three digits follow it, and as the decimal mark otherwise.
    """
    matches = _NUMBER.findall(text)
    if not matches:
        return None
    number = re.sub(r"[٬  ]", "", matches[-1]).rstrip(".,")
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    thousands, decimal = (".", ",") if decimal_comma else (",", ".")
    digits = re.sub(rf"\{thousands}(?=\d{{3}}(?:\D|$))", "", digits)
    digits = digits.replace(decimal, ".") if digits.count(decimal) == 1 else digits
    plain = "".join(str(int(c)) if c.isdigit() else c for c in digits)
    plain = plain.replace(",", "")
    try:
        value = float(plain)
    except ValueError:
        return None
    whole = value == int(value) if abs(value) < 1e15 else False
    return sign + (str(int(value)) if whole else plain)


def after_the_answer_is(text: str) -> str | None:
    """What follows the last "the answer is", without a final full stop."""
    matches = _AFTER.findall(text)
    return matches[-1].strip().removesuffix(".").strip() if matches else None


def last_line(text: str) -> str | None:
    """The last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
