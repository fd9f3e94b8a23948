"""The six response filters of the cold start (report 4.1), as pure functions with examples.

A filter says whether a candidate stays. The report names what goes (wrong answers, repetition,
guessing, thinking and summary that disagree, odd language mixing, closeness to validation items)
and no thresholds; these are ours. The examples of a filter are rows that the tests run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer
from qwen3.rewards.maths import boxed, number


@dataclass(frozen=True)
class Filter:
    """A rule that keeps or drops a candidate."""

    name: str
    keeps: Callable[[ScoredAnswer], bool]
    examples: tuple[tuple[str, str, float | None, bool], ...] = field(repr=False)
    # (question, text of the answer, score, whether it is kept)


def right_answer(candidate: ScoredAnswer) -> bool:
    """(1) The scorer gave full marks, or had no verdict only because there is no scorer."""
    if candidate.problem.task:
        return candidate.score == 1.0
    return candidate.turn is not None


def no_repetition(candidate: ScoredAnswer, *, size: int = 6, most: float = 0.3) -> bool:
    """(2) At most `most` of the runs of `size` units occurred before, and no unit run of up to 20
    stands five times in a row at the end (a loop that was cut).
    """
    units = _units(candidate.text)
    grams = [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]
    if grams and 1 - len(set(grams)) / len(grams) > most:
        return False
    for width in range(1, 21):
        tail = units[-5 * width :]
        if len(tail) == 5 * width and tail == tail[:width] * 5:
            return width == 1 and not tail[0].isalnum()
    return True


_GUESSES = re.compile(
    r"\b(?:i(?:'| wi)ll (?:just )?guess|(?:just|only|wild|lucky|random) guess(?:ing)?|my guess is|"
    r"i have no idea|pick (?:one )?at random)\b|随便猜|瞎猜|只能猜|猜一个",
    re.IGNORECASE,
)


def no_guess(candidate: ScoredAnswer, *, least: float = 0.2, floor: int = 3) -> bool:
    """(3) The thinking does not own up to a guess and is not a stub: at least `floor` units and
    `least` units for each unit of the question. Answers without thinking pass.
    """
    turn = candidate.turn
    if turn is None:
        return False
    thinking = turn.thinking or ""
    if not thinking.strip():
        return True
    question = _units(candidate.problem.messages[-1]["content"])
    enough = max(floor, least * len(question))
    return not _GUESSES.search(thinking) and len(_units(thinking)) >= enough


Result: TypeAlias = Hashable  # a number by value, anything else by its text

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*(?:/\d+)?")
_FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")


def agrees(candidate: ScoredAnswer) -> bool:
    """(4) What the answer ends with is what the thinking came to.

    The result is the last \\boxed{...}, else the last number; it must be the thinking's own last
    one or stand in its last quarter. Without a number in both nothing can be compared: kept.
    """
    turn = candidate.turn
    if turn is None:
        return False
    thinking, result = turn.thinking or "", _result(turn.answer)
    if result is None or _result(thinking) is None:
        return True
    tail = thinking[-max(len(thinking) // 4, 80) :]
    return result == _result(thinking) or result in _results(tail)


def one_language(candidate: ScoredAnswer, *, most: float = 0.1) -> bool:
    """(5) At most `most` of the letters are of a script that the question does not use, in the
    thinking and in the answer each; and the two do not differ in their main script.
    """
    turn = candidate.turn
    if turn is None:
        return False
    known = set(_scripts(" ".join(str(m["content"]) for m in candidate.problem.messages)))
    mains = set()
    for text in (turn.thinking or "", turn.answer):
        counts = _scripts(text)
        total = sum(counts.values())
        foreign = sum(n for script, n in counts.items() if script not in known)
        if total and foreign > most * total:
            return False
        if total >= 20:
            mains.add(counts.most_common(1)[0][0])
    return len(mains) < 2


def apart_from(validation: Iterable[str], *, size: int = 13, most: float = 0.2) -> Filter:
    """(6) The filter that drops candidates close to any of the `validation` texts: more than `most`
    of a candidate's (or its question's) runs of `size` units occur there. Texts shorter than
    `size` are compared as a whole.
    """
    known = {gram for text in validation for gram in _grams(text, size)}

    def keeps(candidate: ScoredAnswer) -> bool:
        texts = (candidate.problem.messages[-1]["content"], candidate.text)
        for text in texts:
            grams = _grams(text, size)
            if grams and sum(gram in known for gram in grams) > most * len(grams):
                return False
        return True

    return Filter("apart_from_validation", keeps, ())


def _grams(text: str, size: int) -> list[tuple[str, ...]]:
    units = _units(text.lower())
    if len(units) < size:
        return [tuple(units)] if units else []
    return [tuple(units[i : i + size]) for i in range(len(units) - size + 1)]


_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")


def _units(text: str) -> list[str]:
    """Words, signs, and single characters of scripts that put no blanks between words."""
    return _UNIT.findall(text)


def _result(text: str) -> Result | None:
    results = _results(text)
    return results[-1] if results else None


def _results(text: str) -> list[Result]:
    """The contents of all \\boxed{...} in `text`, braces within them included, else all numbers.

    Numbers are compared by value: 0.5, 1/2 and \\frac{1}{2} are one result.
    """
    text = _FRACTION.sub(r"\1/\2", text)
    boxes = [boxed("\\boxed" + rest) for rest in text.split("\\boxed")[1:]]
    results = [content for content in boxes if content is not None] or _NUMBER.findall(text)
    values = [(number(result), result) for result in results]
    return [result if value is None else value for value, result in values]


_SCRIPTS = {
    "latin": re.compile(r"[A-Za-z\u00c0-\u024f]"),
    "han": re.compile(r"[\u3400-\u9fff]"),
    "kana": re.compile(r"[\u3040-\u30ff]"),
    "hangul": re.compile(r"[\uac00-\ud7af]"),
    "cyrillic": re.compile(r"[\u0400-\u04ff]"),
    "arabic": re.compile(r"[\u0600-\u06ff]"),
    "devanagari": re.compile(r"[\u0900-\u097f]"),
    "thai": re.compile(r"[\u0e00-\u0e7f]"),
}


def _scripts(text: str) -> Counter[str]:
    counts = {script: len(pattern.findall(text)) for script, pattern in _SCRIPTS.items()}
    return Counter({script: count for script, count in counts.items() if count})


_ASK = "Tom has 3 apples and buys 4. How many has he?"
_CHINESE = "小明有3个苹果，又买了4个。他有几个？"
_GOOD = "<think>\nTom has 3 apples, buys 4, so 3 + 4 = 7.\n</think>\n\nHe has 7 apples."

FILTERS = (
    Filter(
        "right_answer",
        right_answer,
        (
            (_ASK, _GOOD, 1.0, True),
            (_ASK, "<think>\n3 + 4 = 8.\n</think>\n\nHe has 8 apples.", 0.0, False),
            (_ASK, _GOOD, None, False),
        ),
    ),
    Filter(
        "no_repetition",
        no_repetition,
        (
            (_ASK, _GOOD, 1.0, True),
            (
                _ASK,
                "<think>\n" + "wait, let me check this again. " * 9 + "\n</think>\n\n7",
                1.0,
                False,
            ),
            (_ASK, "<think>\nSo 3 + 4 = 7.\n</think>\n\n7 7 7 7 7 7 7", 1.0, False),
            (_ASK, "<think>\nSo 3 + 4 = 7.\n</think>\n\nHe has 7 apples.......", 1.0, True),
        ),
    ),
    Filter(
        "no_guess",
        no_guess,
        (
            (_ASK, _GOOD, 1.0, True),
            (
                _ASK,
                "<think>\nHard to say what is asked here, I'll just guess 7.\n</think>\n\n7",
                1.0,
                False,
            ),
            (_ASK, "<think>\n7\n</think>\n\n7", 1.0, False),
            (_ASK, "<think>\n\n</think>\n\n7", 1.0, True),
            (
                _CHINESE,
                "<think>\n想不出来，只能猜七个吧，没有别的办法。\n</think>\n\n7",
                1.0,
                False,
            ),
            (_ASK, "<think>\nnever closed", 1.0, False),
        ),
    ),
    Filter(
        "agrees",
        agrees,
        (
            (_ASK, _GOOD, 1.0, True),
            (
                _ASK,
                "<think>\nSo 3 + 4 = 8 apples in all.\n</think>\n\nHe has 7 apples.",
                1.0,
                False,
            ),
            (_ASK, "<think>\nSo \\boxed{8}.\n</think>\n\nIt is \\boxed{7}.", 1.0, False),
            (_ASK, "<think>\nAdd them up.\n</think>\n\nHe has 7 apples.", 1.0, True),
            (_ASK, "<think>\nIt is 1,000 apples.\n</think>\n\nHe has 1000 apples.", 1.0, True),
            (_ASK, "<think>\nSo 0.5.\n</think>\n\n\\boxed{\\frac{1}{2}}", 1.0, True),
            (
                _ASK,
                "<think>\nIt is 3/2.\n</think>\n\nIn all \\boxed{\\frac{1}{2}}",
                1.0,
                False,
            ),
            (
                _ASK,
                "<think>\nSo \\boxed{\\frac{1}{2}}.\n</think>\n\nIt is \\boxed{\\frac{1}{2}}.",
                1.0,
                True,
            ),
        ),
    ),
    Filter(
        "one_language",
        one_language,
        (
            (_ASK, _GOOD, 1.0, True),
            (_ASK, "<think>\nTom 先有三个苹果，又买了四个。\n</think>\n\nHe has 7.", 1.0, False),
            (_ASK, "<think>\nSo 3 + 4 = 7.\n</think>\n\nУ него семь яблок.", 1.0, False),
            (_CHINESE, "<think>\n三加四等于七。\n</think>\n\n他有7个苹果。", 1.0, True),
        ),
    ),
)


def cold_start_filters(validation: Iterable[str]) -> tuple[Filter, ...]:
    """All six filters; the last one drops what is close to the `validation` texts."""
    return (*FILTERS, apart_from(validation))


def example(question: str, text: str, score: float | None) -> ScoredAnswer:
    """The candidate of an example's first three columns."""
    messages = [{"role": "user", "content": question}]
    return ScoredAnswer.from_text(Problem("maths", messages, {}), text, score)


def sift(
    candidates: Sequence[ScoredAnswer], filters: Sequence[Filter] = FILTERS
) -> tuple[list[ScoredAnswer], Counter[str]]:
    """(candidates that all filters keep, {filter: how many it was the first to drop})."""
    survivors: list[ScoredAnswer] = []
    dropped: Counter[str] = Counter()
    for candidate in candidates:
        reason = next((f.name for f in filters if not f.keeps(candidate)), None)
        if reason is None:
            survivors.append(candidate)
        else:
            dropped[reason] += 1
    return survivors, dropped


def names(filters: Collection[Filter] = FILTERS) -> list[str]:
    return [entry.name for entry in filters]
