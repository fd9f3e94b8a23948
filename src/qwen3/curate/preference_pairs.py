"""Pairs of a better and a worse answer, in the forms in which files of the field store them.

    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    {"chosen": [{"role": "user", ...}, {"role": "assistant", ...}], "rejected": [...]}
    {"conversations": [...], "chosen": {"from": "gpt", "value": "4"}, "rejected": {...}}
    {"chosen": "\\n\\nHuman: 2 + 2?\\n\\nAssistant: 4", "rejected": ...}
    {"input": "2 + 2?", "output_1": "4", "output_2": "5", "label": 1}

"source" of a row names where it comes from (default: its file), "margin" by how much the chosen
answer is better. Messages may have any form of `message_forms`.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.curate.files import check_question
from qwen3.curate.message_forms import MESSAGES, read_messages, with_system
from qwen3.data import chat
from qwen3.data.chat_tools import read_tools
from qwen3.data.jsonl import place, read_rows

log = logging.getLogger("qwen3")

Messages = list[dict[str, Any]]
PROMPTS = ("prompt", *MESSAGES, "question", "query")
INSTRUCTION = ("instruction", "input")  # two columns of one question
# Names of two answers of which a label says the better: 1 or 2.
ANSWERS = (("output_1", "output_2"), ("response1", "response2"), ("answer_1", "answer_2"))
LABELS = ("label", "preference", "annotator1", "annotator2", "annotator3")
_TURNS = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
WANTED = (
    "a pair has chosen and rejected, with a prompt or as whole conversations, or two answers "
    f"({' or '.join(' and '.join(names) for names in ANSWERS)}) and a label 1 or 2"
)


@dataclass(frozen=True)
class Pair:
    """A question with two answers, the first of which is preferred."""

    question: Messages  # ends with a user's or a tool's message
    chosen: Messages  # what follows it; ends with an assistant's message
    rejected: Messages
    tools: list[dict] | None = None
    source: str = ""  # for accuracies by source
    margin: float = 0.0  # by how much the chosen answer's score must be higher


def read_pairs(path: str | Path) -> list[Pair]:
    """All pairs of a file; those without a winner, or of equal answers, are left out and counted.

    Raises ValueError naming the file, the line and what is wrong.
    """
    pairs: list[Pair] = []
    without_winner = 0
    for number, row in read_rows(path):
        try:
            pair = read_pair(row, source=_stem(path))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{place(path, number)}: {error}") from None
        if pair is None or pair.chosen == pair.rejected:
            without_winner += 1
        else:
            pairs.append(pair)
    if without_winner:
        log.warning("%s: %d pairs left out: no winner, or equal answers", path, without_winner)
    if not pairs:
        raise ValueError(f"{path} holds no pair of different answers; {WANTED}")
    return pairs


def read_pair(row: Mapping[str, Any], *, source: str = "") -> Pair | None:
    """The pair of a row; None where neither answer wins. Raises ValueError for what is no pair."""
    chosen, rejected = _answers(row)
    prompt, tools = _prompt(row)
    question, first, second = _parted(prompt, _messages(chosen), _messages(rejected))
    question, _ = with_system(question, row.get("system"))
    check_question(question)
    for name, answer in (("chosen", first), ("rejected", second)):
        chat.validate([*question, *answer], allow_control=True)
        if not answer or answer[-1]["role"] != "assistant":
            raise ValueError(f"the {name} answer does not end with the assistant's message")
    winner = _winner(row)
    if winner == 0:
        return None
    if winner == 2:
        first, second = second, first
    return Pair(
        question,
        first,
        second,
        read_tools(row.get("tools") or tools),
        str(row.get("source") or source),
        _margin(row.get("margin", 0.0)),
    )


def _answers(row: Mapping[str, Any]) -> tuple[Any, Any]:
    for names in (("chosen", "rejected"), *ANSWERS):
        if all(row.get(name) is not None for name in names):
            return row[names[0]], row[names[1]]
    raise ValueError(f"{WANTED}; this row has {', '.join(map(str, row)) or 'nothing'}")


def _winner(row: Mapping[str, Any]) -> int:
    """1 or 2 for the first or the second answer, 0 for neither: by the majority of the labels."""
    if row.get("chosen") is not None:
        return 1
    labels = [row[name] for name in LABELS if row.get(name) is not None]
    if not labels or not all(label in (0, 1, 2) for label in labels):
        raise ValueError(f"label {labels or 'missing'}: wanted 1 or 2 for the better, 0 for a tie")
    (winner, count), *_ = Counter(labels).most_common()
    return int(winner) if 2 * count > len(labels) else 0


def _prompt(row: Mapping[str, Any]) -> tuple[Messages | None, Any]:
    """(messages of the prompt, tools in its system message); None where the answers hold it."""
    given = [row[name] for name in PROMPTS if row.get(name) not in (None, "")]
    parts = [str(row[name]) for name in INSTRUCTION if row.get(name) not in (None, "")]
    if given and not isinstance(given[0], str):
        messages, _, tools = read_messages(given[0])
        return messages, tools
    text = given[0] if given else "\n\n".join(parts)
    return ([{"role": "user", "content": text}] if text else None), None


def _messages(answer: Any) -> Messages:
    """An answer as messages: of a text, one message's mapping, or a list of them."""
    if isinstance(answer, str) and _TURNS.match(answer):
        _, *parts = _TURNS.split(answer)
        return [
            {"role": _ROLES[name], "content": text.strip()}
            for name, text in zip(parts[::2], parts[1::2], strict=True)
        ]
    if isinstance(
        answer, str | bool | int | float
    ):  # a table's reader may have made a number of it
        return [{"role": "assistant", "content": str(answer)}]
    return read_messages([answer] if isinstance(answer, Mapping) else answer)[0]


def _parted(
    prompt: Messages | None, chosen: Messages, rejected: Messages
) -> tuple[Messages, Messages, Messages]:
    """(question, what follows it in the one, in the other); the question may stand in both."""
    is_whole = all(answer and answer[0].get("role") != "assistant" for answer in (chosen, rejected))
    if not is_whole:
        if prompt is None:
            raise ValueError(f"no prompt, and the answers hold none; {WANTED}")
        return prompt, chosen, rejected
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    # The question ends before the first message of the assistant that differs.
    while same and (same == len(chosen) or chosen[same].get("role") != "assistant"):
        same -= 1
    return chosen[:same], chosen[same:], rejected[same:]


def _margin(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"margin {value!r:.80} is no number")
    return float(value)


def _stem(path: str | Path) -> str:
    return Path(str(path)).name.split(".")[0]


def of_source(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    """The places of the pairs of each source, in the order of the sources' names."""
    places: dict[str, list[int]] = {}
    for i, pair in enumerate(pairs):
        places.setdefault(pair.source, []).append(i)
    return dict(sorted(places.items()))
