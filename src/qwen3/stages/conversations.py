"""Conversations -> sequences with token-exact loss masks -> packed batches that are f(seed, step).

A row of a file (JSON lines or Parquet) is {"messages": [...], "tools": [...]}, or the same in
another form of the field (`curate.message_forms`), or tokens that were made elsewhere, {"ids":
[...], "mask": [0, 1, ...], "think": true}.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qwen3.curate.message_forms import Conversation, read_conversation
from qwen3.data import chat, rows
from qwen3.data.chat_prompt import LITERAL_ROLES
from qwen3.data.chat_render import split_thought
from qwen3.data.folder_template import training_tokens
from qwen3.data.jsonl import place, read_rows
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.forward import MODES

log = logging.getLogger("qwen3")

TOO_LONG = ("error", "drop")
IDS_FIELDS = ("ids", "mask", "think")


def read(
    path: str | Path, tokenizer: Tokenizer, *, empty_think: str = "target"
) -> list[TokenSequence]:
    """All sequences of a file. Raises ValueError naming the file, the line and what is wrong."""
    collected: list[TokenSequence] = []
    for number, sample in read_rows(path):
        try:
            collected += sequences(sample, tokenizer, empty_think=empty_think)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{place(path, number)}: {error}") from None
    if not collected:
        raise ValueError(f"{path} holds no conversation")
    return collected


def sequences(
    sample: Mapping, tokenizer: Tokenizer, *, empty_think: str = "target"
) -> list[TokenSequence]:
    """One sample of a file; a dialogue gives one sequence per rendering that its answers need.

    Every answer is trained exactly once, in the rendering in which it is written at inference
    (`data.chat.training_views`; with a folder's own chat template
    `data.folder_template.training_tokens`), with the weight that the file gives it. empty_think:
    see `data.chat.render_tokens`; a sample with enable_thinking false is given the empty block.
    """
    if not isinstance(sample, Mapping):
        raise ValueError(f"a sample is an object, not {str(sample)[:80]}")
    if sample.get("ids") is not None:
        return [_from_ids(chat.known_fields(sample, IDS_FIELDS, "sample"), tokenizer)]
    conversation = read_conversation(sample)
    _check(conversation)
    empty_think = "prompt" if conversation.enable_thinking is False else empty_think
    if tokenizer.chat_template is None:
        views = _built_in_views(tokenizer, conversation, empty_think)
    else:
        views = training_tokens(
            tokenizer,
            conversation.messages,
            tools=conversation.tools,
            empty_think=empty_think,
            weights=conversation.weights,
        )
    if not any(any(mask) for _, mask, _ in views):
        raise ValueError("no assistant message to train on")
    return [
        _sequence(ids, mask, bool(split_thought(conversation.messages[last])[0].strip()))
        for ids, mask, last in views
    ]


def _check(conversation: Conversation) -> None:
    """Raise ValueError for a conversation that cannot be trained on as it is meant."""
    messages = conversation.messages
    # Escaped when rendered for everybody but the assistant, whose text must be free of them.
    chat.validate(messages, allow_control=True)
    answers = [message for message in messages if message["role"] == "assistant"]
    chat.validate(answers or messages)
    if conversation.enable_thinking is False and any(split_thought(m)[0].strip() for m in answers):
        raise ValueError("enable_thinking is false, but an answer has a thought")


def _built_in_views(
    tokenizer: Tokenizer, conversation: Conversation, empty_think: str
) -> list[tuple[list[int], list[float], int]]:
    """(ids, loss mask, index of the last answer) in Qwen3's first format."""
    messages, tools = conversation.messages, conversation.tools
    weights = conversation.weights or {}
    views = []
    for count, answers in chat.training_views(messages, tools=tools):
        ids: list[int] = []
        mask: list[float] = []
        for weight in sorted({weights.get(i, 1.0) for i in answers}):
            ids, part = chat.render_tokens(
                tokenizer,
                messages[:count],
                tools=tools,
                train_on=[i for i in answers if weights.get(i, 1.0) == weight],
                empty_think=empty_think,
                literal_roles=LITERAL_ROLES,
            )
            mask = [weight * b + a for a, b in zip(mask or [0.0] * len(ids), part, strict=True)]
        views.append((ids, mask, answers[-1]))
    return views


def _from_ids(sample: Mapping, tokenizer: Tokenizer) -> TokenSequence:
    ids, mask = sample["ids"], sample.get("mask", [])
    if len(ids) != len(mask) or len(ids) < 2 or set(mask) - {0, 1}:
        raise ValueError(f"{len(ids)} ids and a mask of {len(mask)}; one of 0 or 1 per id wanted")
    if not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        raise ValueError(f"ids run from {min(ids)} to {max(ids)}, not 0 to {tokenizer.vocab_size}")
    return _sequence(
        ids, mask, tokenizer.think_open in ids if "think" not in sample else bool(sample["think"])
    )


def _sequence(ids: Sequence[int], mask: Sequence[float], thinks: bool) -> TokenSequence:
    mode = MODES.index("think" if thinks else "no_think")
    return TokenSequence(np.array(ids, np.int32), np.array(mask, np.float32), mode)


def fitting(candidates: Sequence[TokenSequence], length: int, too_long: str) -> list[TokenSequence]:
    """The sequences that fit into a row of `length` and have something to learn.

    too_long "error": ValueError for one that does not fit; "drop": it is left out, with a warning
    that says how many. Raises ValueError when nothing is left.
    """
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long {too_long!r} is none of {', '.join(TOO_LONG)}")
    trained = [sequence for sequence in candidates if sequence.weights[1:].any()]
    longest = max(map(len, trained), default=0)
    if longest > length and too_long == "error":
        raise ValueError(
            f"a sequence takes {longest} slots, a row has {length}: raise the length, or drop "
            'those that are too long with too_long="drop"'
        )
    fit = [sequence for sequence in trained if len(sequence) <= length]
    if not fit:
        raise ValueError(
            f"no sequence of {len(trained)} has a trained token and fits into {length}"
        )
    if len(fit) < len(trained):
        log.warning("%d of %d sequences dropped: too long", len(trained) - len(fit), len(trained))
    return fit


def _hash(sequences: Sequence[TokenSequence]) -> str:
    hasher = hashlib.sha256()
    for sequence in sequences:
        values = (sequence.tokens, sequence.weights, sequence.mode, *sequence.fields.values())
        for value in values:
            hasher.update(np.ascontiguousarray(value).tobytes())
    return hasher.hexdigest()[:16]


class Packed:
    """`source[step]`: `batch` rows of `length`; every epoch has all rows once, in its own order.

    together: so many sequences, one after the other, are never parted (2: pairs of answers). hash:
    of the data, for checkpoints. rows: of an epoch.
    """

    def __init__(
        self,
        sequences: Sequence[TokenSequence],
        *,
        batch: int,
        length: int,
        seed: int,
        pad: int,
        together: int = 1,
    ):
        self.sequences, self.batch, self.length = sequences, batch, length
        self.seed, self.pad = seed, pad
        self._orders: dict[int, np.ndarray] = {}
        self.hash = _hash(sequences)
        # Sequences of equal length would else always meet in the order of the file.
        units = [range(i, i + together) for i in range(0, len(sequences), together)]
        order = np.random.default_rng([seed, 0]).permutation(len(units))
        where = rows.layout([sum(len(sequences[i]) for i in units[u]) for u in order], length)
        self.rows = where.rows
        self._members: list[list[int]] = [[] for _ in range(where.rows)]
        for unit, row in zip(order.tolist(), where.row.tolist(), strict=True):
            self._members[row] += units[unit]

    def __getitem__(self, step: int) -> dict:
        numbers = [self._row_number(step * self.batch + i) for i in range(self.batch)]
        members = [index for number in numbers for index in self._members[number]]
        row = np.repeat(np.arange(self.batch), [len(self._members[n]) for n in numbers])
        start, used = np.zeros(len(members), np.int64), np.zeros(self.batch, np.int64)
        for i, index in enumerate(members):
            start[i], used[row[i]] = used[row[i]], used[row[i]] + len(self.sequences[index])
        where = rows.RowLayout(row, start, self.batch)
        chosen = [self.sequences[index] for index in members]
        return rows.fill(chosen, where, self.length, pad=self.pad, rows=self.batch)

    def _row_number(self, position: int) -> int:
        """Which row is the one at `position`, counted over all epochs."""
        epoch, position = divmod(position, self.rows)
        if epoch not in self._orders:
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(self.rows)
            before = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders = {**before, epoch: order}
        return int(self._orders[epoch][position])
