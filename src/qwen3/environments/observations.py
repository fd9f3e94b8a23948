"""Messages of an environment as tokens behind a sampled turn: its tokens are never encoded again.

Whatever control tokens the text of a tool or user holds are text: they end no turn and open none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qwen3.data import chat
from qwen3.data.chat_render import generation_prompt
from qwen3.data.folder_template import template_text
from qwen3.data.tokenizer import Tokenizer

# An assistant's text that nothing else in a rendered conversation is taken for.
ANSWER = "the answer behind which the new messages stand"


def observation_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    enable_thinking: bool | None = None,
) -> list[int]:
    """Ids of all that stands between a turn's <|im_end|> and the next turn of the policy.

    The text is that of `chat.render_suffix`, or what the tokenizer's own chat template writes.
    Raises ValueError for an assistant's message, and for a template that refuses the messages.
    """
    if any(message.get("role") not in ("tool", "user", "system") for message in messages):
        raise ValueError(f"roles {[m.get('role') for m in messages]}: wanted tool, user or system")
    if tokenizer.chat_template is not None:
        text, literal = _by_template(tokenizer, messages, enable_thinking)
    else:
        text, literal = "\n", []
        for piece in chat.pieces([{"role": "assistant"}, *messages]):
            if piece.turn > 0:
                if piece.part == "content":
                    literal.append((len(text), len(text) + len(piece.text)))
                text += piece.text
        text += generation_prompt(enable_thinking)
    return tokenizer.encode_spans(text, literal=literal)[0]


def _by_template(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], enable_thinking: bool | None
) -> tuple[str, list[tuple[int, int]]]:
    """(text behind the answer's end token, spans in which control tokens are text)."""
    before = [{"role": "user", "content": "question"}, {"role": "assistant", "content": ANSWER}]
    text, literal = template_text(
        tokenizer,
        [*before, *messages],
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
    end = tokenizer.decode([tokenizer.im_end])
    at = text.find(end, text.find(ANSWER) + len(ANSWER)) + len(end)
    if ANSWER not in text or end not in text[text.find(ANSWER) :]:
        raise ValueError(f"this model's chat template writes no {end} behind an answer")
    return text[at:], [(a - at, b - at) for a, b in literal if a >= at]
