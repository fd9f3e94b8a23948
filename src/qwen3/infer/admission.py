"""The host arrays that tell the device which requests go into which slots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.infer import budget, requests, slots
from qwen3.infer.prefix_cache import Prefilled
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import MOST_STOP_IDS, Request
from qwen3.ops import sampling

_RULES = sampling.Rules._fields


def empty(rows: int, width: int) -> slots.Admission:
    """Arrays for `rows` arrivals with prompts of up to `width` + 1 tokens."""
    ints = np.zeros(rows, np.int32)
    thinking = {name: np.zeros(rows, dtype) for name, dtype in budget.DTYPES.items()}
    return slots.Admission(
        count=np.int32(0),
        slot=ints.copy(),
        source=ints.copy(),
        token=ints.copy(),
        length=ints.copy(),
        left=ints.copy(),
        seeds=np.zeros((rows, 3), np.uint32),
        rules=sampling.Rules(
            *(np.zeros(rows, np.int32 if n == "top_k_B" else np.float32) for n in _RULES)
        ),
        stops=np.full((rows, MOST_STOP_IDS), -1, np.int32),
        history=np.zeros((rows, width + 1), np.int32),
        kinds=np.zeros((rows, width + 1), np.int8),
        thinking=budget.Automaton(**thinking),
    )


def filled(
    batch: Sequence[tuple[RequestState, Prefilled, int]], rows: int, seed: int
) -> slots.Admission:
    """Of (ticket, its prompt, its slot), all of one prefilled batch. seed: of the run."""
    new = empty(rows, batch[0][1].width)
    for i, (ticket, prompt, slot) in enumerate(batch):
        request, sequence = ticket.request, ticket.sequence
        new.slot[i], new.source[i] = slot, prompt.row
        new.token[i], new.length[i] = sequence[-1], len(sequence) - 1
        new.left[i] = ticket.left
        new.seeds[i] = requests.seeds(request, seed)
        _set(new.rules, i, _rules(request))
        _set(new.thinking, i, ticket.state.values())
        new.stops[i, : len(ticket.stop_ids)] = ticket.stop_ids
        new.history[i, : len(sequence)] = sequence
        new.kinds[i, : len(request.prompt)] = slots.PROMPT
        forced = np.array(ticket.completion.forced, bool)
        made = np.where(forced, slots.FORCED, slots.SAMPLED)
        new.kinds[i, len(request.prompt) : len(sequence)] = made
    return new._replace(count=np.int32(len(batch)))


def _rules(request: Request) -> tuple[float, ...]:
    s = request.sampling
    return (
        s.temperature,
        s.top_k,
        s.top_p,
        s.min_p,
        s.presence_penalty,
        s.frequency_penalty,
        s.repetition_penalty,
    )


def _set(arrays: Any, i: int, values: Any) -> None:
    """Row i of each of a NamedTuple's arrays."""
    for array, value in zip(arrays, values, strict=True):
        array[i] = value
