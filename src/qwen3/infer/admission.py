"""The host arrays that tell the device which requests go into which slots."""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3.infer import budget, slots
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import MOST_STOP_IDS
from qwen3.ops import sampling

# The device's rules in the order of sampling.Rules.
_RULES = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


def empty(count: int, width: int) -> slots.Admission:
    """Arrays for up to `count` requests, none so far, whose prefill batch is `width` long."""

    def ints(*shape: int, dtype: Any = np.int32) -> np.ndarray:
        return np.zeros((count, *shape), dtype)

    rules = (ints(dtype=np.int32 if name == "top_k" else np.float32) for name in _RULES)
    return slots.Admission(
        count=np.int32(0),
        slot=ints(),
        source=ints(),
        token=ints(),
        length=ints(),
        tokens_left=ints(),
        seeds=ints(3, dtype=np.uint32),
        rules=sampling.Rules._make(rules),
        stop_ids=ints(MOST_STOP_IDS) - 1,
        history=ints(width + 1),
        kinds=ints(width + 1, dtype=np.int8),
        automaton=budget.Automaton._make(ints(dtype=dtype) for dtype in budget.DTYPES.values()),
    )


def add(new: slots.Admission, state: RequestState, source: int, slot: int) -> slots.Admission:
    """`new` with one more request. source: its row of the prefilled batch.

    Rows are written whole and counted last, so a request that raises an exception leaves nothing
    behind.
    """
    i, request, sequence = int(new.count), state.request, state.sequence
    new.slot[i], new.source[i] = slot, source
    new.token[i], new.length[i] = sequence[-1], len(sequence) - 1
    new.tokens_left[i] = state.tokens_left
    new.seeds[i] = state.seeds
    for name, rule in zip(_RULES, new.rules, strict=True):
        rule[i] = getattr(request.sampling, name)
    for name, fields in new.automaton._asdict().items():
        fields[i] = state.automaton[name]
    new.stop_ids[i] = -1
    new.stop_ids[i, : len(state.stop_ids)] = state.stop_ids
    new.history[i], new.kinds[i] = 0, slots.PADDING
    new.history[i, : len(sequence)] = sequence
    new.kinds[i, : state.prompt_length] = slots.PROMPT
    forced = np.array(state.completion.forced, bool)
    answer_kinds = np.where(forced, slots.FORCED, slots.SAMPLED)
    new.kinds[i, state.prompt_length : len(sequence)] = answer_kinds
    return new._replace(count=np.int32(i + 1))
