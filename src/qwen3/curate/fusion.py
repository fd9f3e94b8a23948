"""Data of the thinking mode fusion (report 4.3, Table 9): flags, empty blocks, mixed dialogues.

Thinking answers come from rejection sampling with the stage-2 model on the cold start's queries,
answers without thinking from any source. The flag stands in the user's text or in a system message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from qwen3.curate.filters import FILTERS, Filter, sift
from qwen3.data import chat
from qwen3.rewards.answers import ScoredAnswer

Sample: TypeAlias = tuple[Mapping, bool]  # a conversation and whether its answer thinks


@dataclass(frozen=True)
class Shares:
    """How often flags and dialogues occur in the data."""

    default: float = 0.3  # share of thinking samples without a flag: thinking is the default
    system: float = 0.1  # share of flags that stand in a system message
    dialogues: float = 0.3  # share of samples that are joined to dialogues
    turns: int = 3  # most turns of a dialogue
    flag: float = 0.6  # chance of a flag on a dialogue's turn that could do without

    def __post_init__(self) -> None:
        for name in ("default", "system", "dialogues", "flag"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} {getattr(self, name)} is no share")
        if self.turns < 2:
            raise ValueError(f"turns {self.turns}: a dialogue has at least 2")


def rejection_sample(
    candidates: Sequence[Sequence[ScoredAnswer]],
    filters: Sequence[Filter] = FILTERS,
    *,
    per_problem: int = 1,
) -> list[dict]:
    """Conversations with up to `per_problem` different answers to each problem that all filters
    keep; the first ones are taken.
    """
    conversations: list[dict] = []
    for group in candidates:
        different = {answer.text: answer for answer in sift(group, filters)[0]}
        chosen = list(different.values())[:per_problem]
        conversations += [answer.conversation() for answer in chosen]
    return conversations


def fuse(
    thinking: Sequence[Mapping], plain: Sequence[Mapping], shares: Shares = Shares(), *, seed: int
) -> list[dict]:
    """Conversations of one question each -> those to train on, shuffled; every one is used once.

    thinking: with reasoning_content; plain: without. A conversation with tools or with more than
    one question keeps its form and gets its flag at the last question. Raises ValueError for a
    thinking conversation without reasoning, a plain one with it, and one that already has a flag.
    """
    for samples, thinks in ((thinking, True), (plain, False)):
        for number, sample in enumerate(samples):
            _check(sample, thinks, number)
    rng = Random(f"fusion/{seed}")
    pool = [(sample, True) for sample in thinking] + [(sample, False) for sample in plain]
    rng.shuffle(pool)
    apart: list[Sample] = []
    joined: list[Sample] = []
    for sample, thinks in pool:
        joinable = len(sample["messages"]) == 2 and not sample.get("tools")
        (joined if joinable and rng.random() < shares.dialogues else apart).append((sample, thinks))
    conversations = [_single(sample, thinks, shares, rng) for sample, thinks in apart]
    while joined:
        count = rng.randint(2, shares.turns)
        part, joined = joined[:count], joined[count:]
        conversations.append(_dialogue(part, shares, rng))
    rng.shuffle(conversations)
    return conversations


def _check(sample: Mapping, thinks: bool, number: int) -> None:
    chat.validate(sample["messages"])
    *before, last = sample["messages"]
    kind = "thinking" if thinks else "plain"
    if last["role"] != "assistant" or not before:
        raise ValueError(f"{kind} conversation {number} does not end with an answer")
    if bool(last.get("reasoning_content")) != thinks:
        raise ValueError(
            f"{kind} conversation {number} has reasoning {last.get('reasoning_content')!r:.60}"
        )
    if any(map(_flagged, before)):
        raise ValueError(f"{kind} conversation {number} already has a flag")


def _flagged(message: Mapping) -> bool:
    """True if the message changes one of the two modes that could hold before it."""
    after = [chat.mode_of([_user(flag), message]) for flag in chat.SWITCHES.values()]
    return after != list(chat.SWITCHES)


def _user(content: str) -> dict:
    return {"role": "user", "content": content}


def _single(sample: Mapping, thinks: bool, shares: Shares, rng: Random) -> dict:
    messages = [dict(message) for message in sample["messages"]]
    if not (thinks and rng.random() < shares.default):
        _put_flag(messages, thinks, rng.random() < shares.system)
    return {"messages": messages, "tools": sample.get("tools")}


def _put_flag(messages: list[dict], thinks: bool, in_system: bool) -> None:
    flag = chat.SWITCHES[thinks]
    if in_system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": flag})
    elif in_system:
        messages[0]["content"] += f" {flag}"
    else:
        questions = [m for m in messages if m["role"] == "user"]
        questions[-1]["content"] += f" {flag}"


def _dialogue(part: Sequence[Sample], shares: Shares, rng: Random) -> dict:
    """One conversation of several turns. Only a turn whose mode holds anyway, by the last flag or
    by default, may go without a flag.
    """
    messages: list[dict] = []
    for sample, thinks in part:
        question, reply = (dict(message) for message in sample["messages"])
        if not _holds(messages, thinks) or rng.random() < shares.flag:
            question["content"] += f" {chat.SWITCHES[thinks]}"
        messages += [question, reply]
    return {"messages": messages, "tools": None}


def _holds(messages: Sequence[Mapping], thinks: bool) -> bool:
    """True if an answer after `messages` is in this mode without a flag of its own."""
    return chat.mode_of(messages) == thinks
