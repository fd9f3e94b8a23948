"""The prompt of the next assistant turn as token ids: one way for serving, RL, evaluation and data.

A prompt that differs between training and evaluation by one token measures another model, so that
nothing else renders a prompt. The format is the tokenizer's: Qwen3's first release, or the chat
template of the folder that it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qwen3.data import chat
from qwen3.data.folder_template import template_prompt_ids
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
    Raises ValueError for a conversation that the template refuses, and for enable_thinking=False
    where a folder's template has no such switch.
    """
    if tokenizer.chat_template is not None:
        return template_prompt_ids(
            tokenizer, messages, tools=tools, enable_thinking=enable_thinking
        )
    ids, _ = chat.render_tokens(
        tokenizer,
        messages,
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
        literal_roles=LITERAL_ROLES,
    )
    return ids


def turn_opening(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    """The thinking block that a prompt opens for the assistant's turn, as text; "" for none.

    "<think>" and a line break where the template opens it (Thinking-2507), the empty block of the
    hard switch, or as much of a thought as the prompt holds.
    """
    turn = list(prompt)
    if tokenizer.im_start in turn:
        turn = turn[len(turn) - turn[::-1].index(tokenizer.im_start) :]
    if tokenizer.think_open not in turn:
        return ""
    block = turn[len(turn) - 1 - turn[::-1].index(tokenizer.think_open) :]
    text = tokenizer.decode(block)
    if tokenizer.think_close in block and not text.rstrip().endswith("</think>"):
        return ""  # the block of an earlier turn, in a format without <|im_start|>
    return text
