"""Scorers of suites: (item, answer without its thought) -> Verdict."""

from __future__ import annotations

import ast
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from qwen3 import rewards
from qwen3.eval import extraction
from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.rewards import NoVerdict, answer_equality
from qwen3.rewards.maths import boxed
from qwen3.rewards.task import LONGEST

Scorer: TypeAlias = Callable[[Item, str], Verdict]


def choice(item: Item, answer: str) -> Verdict:
    """The letter that the answer ends on."""
    letter = extraction.letter(answer, len(item["options"]))
    return UNPARSED if letter is None else Verdict(float(letter == item["gold"]), letter)


def problem(item: Item, answer: str) -> Verdict:
    """By the family of `rewards` that the item's Problem belongs to."""
    if len(answer) > LONGEST:
        return UNPARSED
    task = rewards.get(item["problem"].task)
    try:
        return Verdict(float(task.grade(item["problem"], answer)), answer.strip() or None)
    except NoVerdict:
        return Verdict(None)


def marked_program(item: Item, answer: str) -> Verdict:
    """The program up to the mark [DONE], by unit tests."""
    return problem(item, f"```python\n{answer.split('[DONE]')[0].strip()}\n```")


def maths(gold: str) -> Scorer:
    """The boxed answer, equal as mathematics to the field `gold` of the item."""

    def score(item: Item, answer: str) -> Verdict:
        final = boxed(answer)
        return _equal(str(item[gold]), final)

    return score


def minerva(item: Item, answer: str) -> Verdict:
    """What follows "The final answer is", or the boxed answer, against the boxed reference."""
    matches = re.findall(r"[Ff]inal [Aa]nswer is:?\s*(.+)", answer)
    final = matches[-1].split(". I hope")[0].strip().rstrip(".") if matches else boxed(answer)
    return _equal(str(item["answer"]), final)


def _equal(gold: str, final: str | None) -> Verdict:
    if not final:
        return UNPARSED
    try:
        return Verdict(float(answer_equality.same(gold, final)), final)
    except NoVerdict:
        return Verdict(None, final)


def number(gold: str, *, stop: str | None = None) -> Scorer:
    """The last number of the answer against the field `gold`, whose last number counts too.

    stop: text at which the answer of a model that runs on ends.
    """

    def score(item: Item, answer: str) -> Verdict:
        comma = item.fields.get("language") in DECIMAL_COMMA
        answer = answer.split(stop)[0] if stop else answer
        final = boxed(answer)
        last = extraction.last_number(final or answer, decimal_comma=comma)
        if last is None:
            return UNPARSED
        wanted = extraction.last_number(str(item[gold]))
        return Verdict(float(wanted is not None and float(wanted) == float(last)), last)

    return score


DECIMAL_COMMA = ("de", "es", "fr", "ru")  # languages of MGSM that write 1.234,5


def after_the_answer_is(item: Item, answer: str) -> Verdict:
    """BIG-Bench Hard: what follows "the answer is" is the target."""
    final = extraction.after_the_answer_is(answer)
    return UNPARSED if not final else Verdict(float(final == item["target"].strip()), final)


def literal(item: Item, answer: str) -> Verdict:
    """CRUX-O: the value that the call returns, compared as Python literals outside of any call."""
    final = extraction.after_the_answer_is(answer) or extraction.last_line(answer)
    final = (final or "").strip().strip("`")
    try:
        value, wanted = ast.literal_eval(final), ast.literal_eval(item["output"])
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return UNPARSED
    return Verdict(float(type(value) is type(wanted) and value == wanted), final)


def quoted_answer(item: Item, answer: str) -> Verdict:
    """Extractive answers: F1 over words (characters in Chinese) against the best reference."""
    final = extraction.last_line(answer)
    if final is None:
        return UNPARSED
    return Verdict(max(_f1(_units(final), _units(gold)) for gold in item["gold"]), final)


_PUNCTUATION = set(string.punctuation)
_ARTICLES = {"a", "an", "the"}


def _units(text: str) -> Counter[str]:
    plain = "".join(
        " " if c in _PUNCTUATION or unicodedata.category(c).startswith("P") else c
        for c in text.lower()
    )
    plain = re.sub(r"([\u3400-\u9fff])", r" \1 ", plain)
    return Counter(word for word in plain.split() if word not in _ARTICLES)


def _f1(a: Counter[str], b: Counter[str]) -> float:
    common = sum((a & b).values())
    if not common:
        return float(not a and not b)
    return 2 * common / (sum(a.values()) + sum(b.values()))
