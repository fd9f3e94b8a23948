"""Retrieval by length: documents that end in a look-up whose value stands far above (RULER's
simplest task). Asked as plain continuation, greedily; right if the value comes next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qwen3.eval import intervals
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request, sampling


class Needle(NamedTuple):
    """prompt: text that ends where `value` must follow."""

    prompt: str
    value: str


def accuracy(engine: Engine, needles: Sequence[Needle]) -> intervals.Estimate:
    """Share of needles whose value the model writes next."""
    tokenizer = engine.tokenizer
    values = [tokenizer.encode(needle.value) for needle in needles]
    asked = [
        Request(tokenizer.encode(needle.prompt), sampling("greedy"), max_tokens=len(value))
        for needle, value in zip(needles, values, strict=True)
    ]
    made = engine.generate(asked)
    hits = sum(list(m.tokens) == value for m, value in zip(made, values, strict=True))
    return intervals.share(hits, len(needles))
