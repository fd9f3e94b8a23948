"""A request on its way through an engine, and what is told of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import budget, requests
from qwen3.infer.decode import Record
from qwen3.infer.requests import Completion, Request
from qwen3.infer.stop_strings import StopStrings


class Delta(NamedTuple):
    """New tokens of the request at `index`; completion once it is finished."""

    index: int
    tokens: list[int]
    completion: Completion | None


class RequestState:
    """sequence: prompt and answer so far. left: tokens it may still get. state: the fields of its
    budget automaton when it last waited. slot: where it is worked on, None while it waits.
    """

    def __init__(self, request: Request, serial: int, max_length: int, tokenizer: Tokenizer | None):
        self.request, self.serial = request, serial
        self.completion = Completion(request)
        self.sequence = list(map(int, request.prompt))
        self.left = requests.limit(request, max_length)
        self.state = budget.start(
            request.prompt,
            tokenizer,
            thinking=request.thinking,
            budget=request.budget,
            stop_text=request.stop_text,
            reserve=requests.reserve(request, self.left),
        )
        self.stop_ids = request.stop_ids
        if self.stop_ids is None:
            self.stop_ids = () if tokenizer is None else tokenizer.stop_ids
        self.stops = None
        if request.stop_strings:
            self.stops = StopStrings(tokenizer, request.stop_strings)
        self.slot: int | None = None
        self.routes: list[np.ndarray] = []

    @property
    def done(self) -> bool:
        return self.completion.finish is not None

    @property
    def key(self) -> bytes:
        """Of what must be read before the next token can be made."""
        return requests.prompt_key(self.sequence[:-1])

    def take(
        self, record: Record, version: int, *, active: bool, stopped: bool
    ) -> tuple[int, tuple[str, str | None] | None]:
        """Note what its slot made: (how many tokens, (finish, error) once it is at its end).

        active: whether the device would go on with it; stopped: whether a budget ran out.
        """
        slot, error = self.slot, None
        count = int(record.made[:, slot].sum())
        if not np.isfinite(record.log_probs[:count, slot]).all():
            error = "the model's log-probabilities are not finite"
        hit = self.stops.feed(record.ids[:count, slot]) if self.stops else None
        count = count if hit is None else hit + 1
        made = self.completion
        tokens = record.ids[:count, slot].tolist()
        self.sequence += tokens
        self.left -= count
        made.tokens += tokens
        made.log_probs += record.log_probs[:count, slot].tolist()
        made.sampling_log_probs += record.sampling_log_probs[:count, slot].tolist()
        made.forced += record.forced[:count, slot].tolist()
        made.versions += [version] * count
        if record.experts is not None:
            self.routes.append(record.experts[:count, :, slot])
        if error is not None:
            return count, ("abort", error)
        if hit is None and active:
            return count, None
        by_id = made.tokens[-1] in self.stop_ids and not made.forced[-1]
        natural = "budget-then-stop" if stopped else "stop"
        return count, (natural if by_id or hit is not None else "length", None)

    def finish(self, reason: str, error: str | None) -> None:
        self.completion.finish, self.completion.error = reason, error
        if self.routes:
            self.completion.experts = np.concatenate(self.routes)
