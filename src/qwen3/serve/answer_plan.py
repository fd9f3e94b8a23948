"""What a checked body asks for: requests to the engine, and how their answers are shown."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import budget
from qwen3.infer.requests import Request
from qwen3.serve.answer_stream import ChatDeltas, TextDeltas


@dataclass(frozen=True)
class AnswerPlan:
    """One HTTP request, checked."""

    chat: bool  # of /v1/chat/completions
    requests: tuple[Request, ...]  # the answers, in the order of their index
    stream: bool = False
    include_usage: bool = False  # a stream ends with a chunk of usage
    logprobs: int | None = None  # most likely tokens shown beside each token; None: no logprobs
    tools: bool = False  # read tool calls
    most_calls: int | None = None  # tool calls of an answer; None for no limit
    return_token_ids: bool = False  # show the ids of prompt and answer

    def deltas(self, index: int, tokenizer: Tokenizer) -> ChatDeltas | TextDeltas:
        """The stream that turns the tokens of answer `index` into text."""
        request = self.requests[index]
        if not self.chat:
            stops = tokenizer.stop_ids if request.stop_ids is None else request.stop_ids
            return TextDeltas(tokenizer, stop=request.stop_strings, stop_ids=stops)
        start = budget.start(request.prompt, tokenizer)
        return ChatDeltas(
            tokenizer,
            thinking=start["phase"] == budget.THINK,
            stop=request.stop_strings,
            tools=self.tools,
            most_calls=self.most_calls,
        )


def with_samples(request: Request, values: Mapping[str, Any]) -> list[Request]:
    """`n` samples of a request with the body's seed. Without one the answers are new each time."""
    seed = secrets.randbits(32) if values["seed"] is None else values["seed"]
    return dataclasses.replace(request, seed=seed).samples(values["n"])
