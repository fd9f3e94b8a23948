"""Bodies of /v1/completions -> requests: plain continuations of texts or token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qwen3.infer.requests import MOST_ALTERNATIVES, Request, check_text
from qwen3.serve import body_fields as fields
from qwen3.serve.answer_plan import AnswerPlan, with_samples
from qwen3.serve.api_errors import invalid
from qwen3.serve.served_model import ServedModel

DEFAULT_TOKENS = 16  # of OpenAI's endpoint
MOST_PROMPTS = 128
MOST_STOPS = 64  # ids that end an answer

FIELDS = fields.COMMON | {
    "prompt": fields.BodyField(
        lambda x: isinstance(x, (str, list)), "text, ids, or a list of them"
    ),
    "max_tokens": fields.integer(1, 2**31 - 1, DEFAULT_TOKENS),
    "logprobs": fields.integer(0, MOST_ALTERNATIVES),
    "stop_token_ids": fields.BodyField(
        lambda x: isinstance(x, list) and len(x) <= MOST_STOPS and all(_is_id(i) for i in x),
        f"a list of up to {MOST_STOPS} ids",
    ),
    "echo": fields.BodyField(lambda x: x is False, "false: prompts are not echoed", False),
}


def completion_plan(body: Mapping[str, Any], model: ServedModel) -> AnswerPlan:
    """The plan of a body of /v1/completions; the answers of a prompt stand together."""
    values = fields.read_fields(body, FIELDS)
    model.check_name(values["model"])
    sampling = dataclasses.replace(model.text_sampling, **fields.sampling_changes(values))
    requests: list[Request] = []
    for prompt in _prompts(values["prompt"]):
        request = Request(
            _ids(prompt, model),
            sampling=sampling,
            max_tokens=values["max_tokens"],
            stop_strings=fields.stop_strings(values),
            stop_ids=None if values["stop_token_ids"] is None else tuple(values["stop_token_ids"]),
            alternatives=values["logprobs"] or 0,
        )
        requests += with_samples(request, values)
    model.check_requests(requests, "prompt")
    return AnswerPlan(
        chat=False,
        requests=tuple(requests),
        stream=values["stream"],
        include_usage=fields.include_usage(values),
        logprobs=values["logprobs"],
        return_token_ids=values["return_token_ids"],
    )


def _prompts(prompt: Any) -> list[Any]:
    """The prompts of a body: a text, a list of ids, or a list of either."""
    if prompt is None:
        raise invalid("prompt is missing", "prompt")
    if isinstance(prompt, str) or (prompt and all(_is_id(i) for i in prompt)):
        return [prompt]
    if not 1 <= len(prompt) <= MOST_PROMPTS:
        raise invalid(f"{len(prompt)} prompts: wanted 1 to {MOST_PROMPTS}", "prompt")
    return prompt


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(prompt: Any, model: ServedModel) -> list[int]:
    if isinstance(prompt, list) and prompt and all(_is_id(i) for i in prompt):
        if not all(0 <= i < model.vocab for i in prompt):
            raise invalid(f"prompt ids must be 0 to {model.vocab - 1}", "prompt")
        return prompt
    if not isinstance(prompt, str) or not prompt:
        raise invalid(f"prompt {fields.shown(prompt)}: wanted text or token ids", "prompt")
    try:
        check_text("prompt", prompt)
    except ValueError as error:
        raise invalid(str(error), "prompt") from None
    return model.tokenizer.encode(prompt)
