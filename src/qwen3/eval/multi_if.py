"""Multi-IF: dialogues of three turns whose instructions add up (arXiv 2410.15553).

Departure: judged by lm-eval's copy of the IFEval checkers, the paper's own fork of them leaves
emoji out of words and letters.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from qwen3.data.jsonl import place
from qwen3.eval import ifeval_official
from qwen3.eval.item_readers import stem, text_of
from qwen3.eval.items import Item, Verdict
from qwen3.eval.suite_prompts import Messages

TURNS = (1, 2, 3)


def reader(files: Sequence[Path]) -> list[Item]:
    """Items of the published CSV, whose cells hold JSON; kwargs are JSON texts in a JSON list."""
    items = []
    for file in files:
        for number, row in enumerate(csv.DictReader(io.StringIO(text_of(file))), 2):
            try:
                turns = [_turn(row, turn) for turn in TURNS]
            except (KeyError, ValueError, TypeError) as error:
                raise ValueError(f"{place(file, number)}: {error!r}") from None
            name = row.get("key") or f"{stem(file)}/{number}"
            items.append(Item(name, {"turns": turns, "language": row.get("language", "")}))
    return items


def _turn(row: dict[str, str], turn: int) -> dict[str, Any]:
    message = json.loads(row[f"turn_{turn}_prompt"])
    kwargs = [json.loads(text) for text in json.loads(row[f"turn_{turn}_kwargs"])]
    names = json.loads(row[f"turn_{turn}_instruction_id_list"])
    if len(names) != len(kwargs):
        raise ValueError(f"turn {turn}: {len(names)} instructions with {len(kwargs)} kwargs")
    return {
        "key": row.get("key", ""),
        "prompt": message["content"],
        "instruction_id_list": names,
        "kwargs": kwargs,
    }


def first(item: Item) -> Messages:
    return [{"role": "user", "content": item["turns"][0]["prompt"]}]


def follow(item: Item, messages: Messages) -> Messages | None:
    """The user's next message, None after the third answer."""
    done = sum(message["role"] == "assistant" for message in messages)
    if done == len(TURNS):
        return None
    return [{"role": "user", "content": item["turns"][done]["prompt"]}]


def score(item: Item, messages: Messages) -> Verdict:
    """Mean over the turns of the mean of four: strict and loose, by prompt and by instruction."""
    answers = [m["content"] for m in messages if m["role"] == "assistant"]
    scores = []
    for turn, answer in zip(item["turns"], answers, strict=True):
        for loose in (False, True):
            followed = ifeval_official.follows(Item(item.id, turn), answer, loose=loose)
            if followed is None:
                return Verdict(None)
            scores += [float(all(followed)), mean(followed)]
    return Verdict(mean(scores), " | ".join(answers) or None)
