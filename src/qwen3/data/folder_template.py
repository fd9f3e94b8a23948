"""Conversations in the format of a folder's own chat template: the 2507 releases, a user's own.

The template is rendered as transformers renders it (`jinja_sandbox`). A prompt is the rendering
with the generation prompt. What an assistant's message adds to the prompt before it is what a model
is trained on, so that it learns to write what it is asked for at inference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from os.path import commonprefix

from qwen3.data.chat_render import split_thought
from qwen3.data.chat_tokens import inside
from qwen3.data.jinja_sandbox import render
from qwen3.data.literal_marks import with_marks, without_marks
from qwen3.data.tokenizer import Tokenizer

SWITCH = "enable_thinking"


def has_switch(template: str) -> bool:
    """Whether a template looks at enable_thinking."""
    return SWITCH in template


def template_text(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
) -> tuple[str, list[tuple[int, int]]]:
    """(the conversation in the tokenizer's template, spans in which control tokens are text).

    Raises ValueError where the template refuses the conversation or fails, for tools where it
    shows none, and for enable_thinking=False where it has no such switch.
    """
    template = tokenizer.chat_template
    assert template is not None, "the built-in template is rendered by chat_render"
    switch = {} if enable_thinking is None else {SWITCH: enable_thinking}
    if enable_thinking is False and not has_switch(template):
        raise ValueError(
            f"this model's chat template has no {SWITCH} switch, so thinking cannot be switched "
            "off; leave it at None"
        )
    if tools and "tools" not in template:
        raise ValueError("this model's chat template has no place for tools")
    marked = with_marks(tokenizer, messages, tools, template)
    special_texts = {name: text for name, text in tokenizer.special_texts.items() if text}
    variables = {
        **special_texts,
        **switch,
        "messages": marked.messages,
        "tools": marked.tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    return without_marks(render(template, variables), marked.mark)


def template_prompt_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    enable_thinking: bool | None = None,
) -> list[int]:
    """Ids of the conversation and of the opening of the assistant's turn."""
    text, literal = template_text(
        tokenizer,
        messages,
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
    return tokenizer.encode_spans(text, literal=literal)[0]


@dataclass
class _View:
    """A rendering that ends with an answer, and the answers that are trained on in it."""

    text: str
    literal: list[tuple[int, int]]  # spans in which control tokens are text
    answers: list[int] = field(default_factory=list)  # indices of messages
    trained: list[tuple[int, int]] = field(default_factory=list)  # spans of the answers


def training_tokens(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    empty_think: str = "target",
    weights: Mapping[int, float] | None = None,
) -> list[tuple[list[int], list[float], int]]:
    """The samples [(ids, loss mask, index of the last answer)] of a dialogue.

    Every assistant message is trained on exactly once, in the rendering that ends with it, from
    where the prompt before it ends to its end token. Neighbours share a sample as long as one
    rendering is a prefix of the next. empty_think: see `chat_tokens.render_tokens`. weights:
    message -> its value in the mask, 1 for those not named. Raises ValueError naming the message
    before which the prompt is no prefix of the rendering with it, whose thought the template leaves
    out, or behind which it writes no end token.
    """
    views: list[_View] = []
    for i, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        try:
            view, span = _answer(tokenizer, messages[: i + 1], tools, empty_think)
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
        if views and view.text.startswith(views[-1].text):
            earlier = views.pop()
            view.answers, view.trained = earlier.answers, earlier.trained
        view.answers.append(i)
        view.trained.append(span)
        views.append(view)
    return [(*_tokens(tokenizer, view, weights or {}), view.answers[-1]) for view in views]


def _tokens(
    tokenizer: Tokenizer, view: _View, weights: Mapping[int, float]
) -> tuple[list[int], list[float]]:
    """(ids, loss mask). No token reaches across the start of an answer, as at inference: else the
    first word of an answer after a prompt that ends in a blank would belong to the prompt."""
    ids: list[int] = []
    starts: list[int] = []
    for a, b in pairwise([0, *(start for start, _ in view.trained), len(view.text)]):
        literal = [(start - a, end - a) for start, end in view.literal if a < end and start < b]
        more, places = tokenizer.encode_spans(view.text[a:b], literal=literal)
        ids += more
        starts += [a + place for place in places]
    mask = [0.0] * len(ids)
    for answer, span in zip(view.answers, view.trained, strict=True):
        weight = weights.get(answer, 1.0)
        mask = [a + weight * b for a, b in zip(mask, inside(starts, [span]), strict=True)]
    return ids, mask


def _answer(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    tools: Sequence[Mapping] | None,
    empty_think: str,
) -> tuple[_View, tuple[int, int]]:
    """The rendering of messages that end with an answer, and the span of what the model writes."""
    template = tokenizer.chat_template or ""
    thought = split_thought(messages[-1])[0].strip()
    is_given = empty_think == "prompt" and not thought and has_switch(template)
    prompt, _ = template_text(
        tokenizer,
        messages[:-1],
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=False if is_given else None,
    )
    text, literal = template_text(tokenizer, messages, tools=tools)
    if not text.startswith(prompt):
        at = len(commonprefix([prompt, text]))
        raise ValueError(
            "with this model's chat template the prompt of the answer is no prefix of the "
            f"conversation with it: {prompt[at : at + 40]!r} against {text[at : at + 40]!r}"
        )
    answer = text[len(prompt) :]
    names = [
        (call.get("function") or call)["name"] for call in messages[-1].get("tool_calls") or ()
    ]
    if thought not in answer or any(name not in answer for name in names):
        raise ValueError(
            "this model's chat template leaves out the thought or a tool call of the answer; take "
            "it out of the data, or use another template"
        )
    stops = "|".join(re.escape(tokenizer.decode([i])) for i in tokenizer.stop_ids)
    end = re.search(stops, answer)
    if end is None:
        raise ValueError(
            "this model's chat template writes no end token behind the answer, so the model would "
            f"not learn to stop: wanted one of {stops.replace(chr(92), '')}"
        )
    return _View(text, literal), (len(prompt), len(prompt) + end.end())
