"""The prompt of the next assistant turn as token ids: one way for serving, RL, evaluation and data.

A prompt that differs between training and evaluation by one token measures another model, so that
nothing else renders a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer

# Whose text is never read as control tokens: a user who types <|im_end|> means the characters.
LITERAL_ROLES = ("system", "user", "tool")


def chat_prompt_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    *,
    tools: Sequence[Mapping] | None = None,
    enable_thinking: bool | None = None,
) -> list[int]:
    """Ids of the rendered `messages` and of the opening of the assistant's turn.

    enable_thinking False is the template's hard switch: the prompt then ends with an empty block.
    """
    ids, _ = chat.render_tokens(
        tokenizer,
        messages,
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
        literal_roles=LITERAL_ROLES,
    )
    return ids
