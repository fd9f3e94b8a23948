"""LiveBench, release 2024-11-25: its reader, and the tasks whose answer has a reference.

Scores are those of the benchmark's own rules for each task (arXiv 2406.19314). What needs more than
a reference is in `livebench_checks`, tables in another format in `livebench_tables`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qwen3.data.jsonl import place, read_rows
from qwen3.eval import live_code, livebench_checks, livebench_tables
from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.eval.suite_prompts import Messages, user
from qwen3.rewards import answer_equality
from qwen3.rewards.maths import boxed

FIELDS = ("question_id", "category", "task", "turns")
NUMBERS = dict(
    zip(
        "zero one two three four five six seven eight nine ten".split(),
        map(str, range(11)),
        strict=True,
    )
)
SHAPES = ("tetrahedra", "tetrahedron", "triangle", "square")  # bold words may say more of these
_SOLUTION = re.compile(r"</?solution>(.*?)</solution>", re.DOTALL)
_BOLD = re.compile(r"\*\*([^*]+)\*\*")

Rule = Callable[[str, str], tuple[float, str | None]]  # (reference, answer) -> score, what was read


def reader(files: Sequence[Path]) -> list[Item]:
    items = []
    for file in files:
        for number, row in read_rows(file, fields=FIELDS):
            needed = livebench_checks.NEEDED.get(row["task"], ("ground_truth",))
            lacking = [name for name in needed if name not in row]
            if lacking:
                raise ValueError(f"{place(file, number)}: {row['task']} without {lacking}")
            if row["task"] == "tablereformat":
                try:
                    livebench_tables.target(row["turns"][0])
                except ValueError as error:
                    raise ValueError(f"{place(file, number)}: {error}") from None
            if row["task"] in livebench_checks.PROGRAMS:
                try:
                    row = livebench_checks.with_tests(row)
                except live_code.FAULTS as error:
                    raise ValueError(f"{place(file, number)}: tests: {error!r}") from None
            items.append(Item(str(row["question_id"]), row))
    return items


def chat_messages(item: Item) -> Messages:
    return user(item["turns"][0])


def score(item: Item, answer: str) -> Verdict:
    """By the rule of the item's task; no verdict where there is none."""
    if item["task"] in livebench_checks.CHECKS:
        return livebench_checks.CHECKS[item["task"]](item, answer)
    rule = RULES.get(item["task"])
    if rule is None:
        return Verdict(None)
    value, extracted = rule(str(item["ground_truth"]), answer)
    return UNPARSED if extracted is None else Verdict(value, extracted)


def solution(answer: str, parts: int) -> list[str] | None:
    """The parts, by comma, of the answer's solution tags, else of its box or its last line."""
    texts = _SOLUTION.findall(answer)
    if not texts and (box := boxed(answer)):
        texts = [re.sub(r"\\text\{|[{}\\]", "", box)]
    lines = answer.strip().splitlines()
    if not texts and lines and lines[-1].count(",") == parts - 1:
        texts = [lines[-1]]
    if not texts:
        return None
    words = [word.replace("\n", " ").strip().lower() for text in texts for word in text.split(",")]
    return words[-parts:] if len(texts) > 1 else words


def zebra(reference: str, answer: str) -> tuple[float, str | None]:
    """Half for all right, half for the share that is right."""
    gold = [word.strip().lower().replace("-", " ") for word in reference.split(",")]
    words = solution(answer, len(gold))
    if words is None:
        return 0.0, None
    plain = [word.replace("-", " ").replace("position", "") for word in words]
    right = sum(a in b for a, b in zip(gold, plain, strict=False))
    return ((right == len(gold)) + right / len(gold)) / 2, ", ".join(words)


def lies(reference: str, answer: str) -> tuple[float, str | None]:
    """Three of yes, no and unknown, in the solution tags, in bold or written out."""
    words = solution(answer, 3)
    if words is None:
        text = " ".join(_BOLD.findall(answer)) or answer
        words = re.findall(r"\b(?:yes|no|unknown)\b", text.lower())[-3:]
    extracted = ", ".join(words) or None
    return float(extracted == reference.strip().lower()), extracted


def spatial(reference: str, answer: str) -> tuple[float, str | None]:
    """One of the last three bold phrases is the reference."""
    phrases = [phrase.strip().lower() for phrase in _BOLD.findall(answer)][-3:]
    gold = reference.strip().lower()
    is_right = any(
        gold in (phrase, NUMBERS.get(phrase))
        or (gold in SHAPES and gold in phrase and len(phrase) < 2 * len(gold) + 5)
        for phrase in phrases
    )
    return float(is_right), " | ".join(phrases) or None


def connections(reference: str, answer: str) -> tuple[float, str | None]:
    """Share of the groups of four that the solution has."""
    gold = [word.strip().lower() for word in reference.split(",")]
    words = solution(answer, len(gold))
    if words is None:
        return 0.0, None
    wanted = _groups(gold)
    right = sum(group in wanted for group in _groups(words))
    return right / len(wanted), ", ".join(words)


def _groups(words: Sequence[str]) -> list[set[str]]:
    return [set(words[i : i + 4]) for i in range(0, len(words), 4)]


def plot(reference: str, answer: str) -> tuple[float, str | None]:
    """1 - edit distance of the sentences' order over their number."""
    text = answer.split("<PLOT_SUMMARY>", 1)[-1]
    gold, given = ([s.strip() for s in t.split(".") if s.strip()] for t in (reference, text))
    if not given:
        return 0.0, None
    nearest = (difflib.get_close_matches(s, given, n=1, cutoff=0.0)[0] for s in gold)
    order = [given.index(sentence) for sentence in nearest]
    return 1 - _distance(list(range(len(gold))), order) / len(gold), text


def _distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            last, row[j] = row[j], last if x == y else 1 + min(last, row[j], row[j - 1])
    return row[-1]


def typos(reference: str, answer: str) -> tuple[float, str | None]:
    """The corrected text stands in the answer."""
    text = " ".join(line for line in answer.split("\n") if line)
    return float(reference in text), text or None


def contest(reference: str, answer: str) -> tuple[float, str | None]:
    """A letter, repeated as asked or in a box, or a number near the end (AIME)."""
    tagged = [text.strip() for text in _SOLUTION.findall(answer)]
    if reference.isdigit():
        return float(reference in answer[-50:]), answer[-50:] or None
    box = re.sub(r"\\text\{|[{}\\]", "", boxed(answer) or "").strip()
    is_tagged = bool(tagged) and set(tagged[-1].upper()) == {reference}
    is_right = is_tagged or reference * 4 in answer or box.upper() == reference
    return float(is_right), (tagged[-1] if tagged else box) or answer[-50:] or None


def olympiad(reference: str, answer: str) -> tuple[float, str | None]:
    """Share of the numbers after "Answer:" that stand where the reference has them."""
    gold = [int(n) for n in reference.split(",")]
    text = re.split(r"(?i)answer:", answer)[-1].strip().strip("*").split("\n")[0]
    text = text if re.search(r"\d", text) else boxed(answer) or ""
    given = [int(n) for n in re.findall(r"\d+", text)]
    if not given:
        return 0.0, None
    right = sum(a == b for a, b in zip(given, gold, strict=False))
    return right / len(given), ", ".join(map(str, given))


def column_type(reference: str, answer: str) -> tuple[float, str | None]:
    """The answer, or what is in its box, is the reference, letters and digits alone."""
    text = boxed(answer) or answer
    plain = [re.sub(r"\W", "", value.lower()) for value in (reference, text)]
    return float(plain[0] == plain[1]), text or None


def amps(reference: str, answer: str) -> tuple[float, str | None]:
    """The boxed expression equals the reference."""
    final = boxed(answer)
    return (float(answer_equality.same(reference, final)), final) if final else (0.0, None)


RULES: Mapping[str, Rule] = {
    "zebra_puzzle": zebra,
    "web_of_lies_v2": lies,
    "spatial": spatial,
    "connections": connections,
    "plot_unscrambling": plot,
    "typos": typos,
    "math_comp": contest,
    "olympiad": olympiad,
    "cta": column_type,
    "AMPS_Hard": amps,
}
