"""Messages -> the text that a model reads, equal to the official Qwen3 chat template (the later of
its two published texts).

A message is {"role": "system" | "user" | "assistant" | "tool", "content": str, ...}; an assistant's
may also have "reasoning_content" and "tool_calls" ([{"name", "arguments"}], the OpenAI wrapping
{"function": {...}} is opened). What the template does silently, `render` does too: unknown roles
vanish, content that is no string is empty, control tokens in a user's text are not escaped.
`chat_check.validate` reports such conversations, `chat_tokens.render_tokens` can escape.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qwen3.data.chat_template import EMPTY_THINK, TOOLS_INTRO, TOOLS_OUTRO

Message = Mapping[str, Any]


class RenderedPiece(NamedTuple):
    """A stretch of the rendered text."""

    text: str
    turn: int  # index of the message that it belongs to; -1: none
    part: str  # "frame" | "tools" | "content" | "think" | "empty_think" | "calls" | "end"


def render(
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping] | None = None,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
    keep_thinking: bool = False,
    continue_final_message: bool = False,
) -> str:
    """The conversation as text.

    add_generation_prompt opens an assistant turn; enable_thinking=False (the hard switch) also
    puts an empty thinking block there. keep_thinking shows a block in every assistant turn.
    continue_final_message leaves the last message open after its content, to be gone on with.
    ValueError where the template raises: no message, a first system prompt that is no string, a
    call without arguments.
    """
    return "".join(
        piece.text
        for piece in pieces(
            messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=enable_thinking,
            keep_thinking=keep_thinking,
            continue_final_message=continue_final_message,
        )
    )


def pieces(
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping] | None = None,
    add_generation_prompt: bool = False,
    enable_thinking: bool | None = None,
    keep_thinking: bool = False,
    continue_final_message: bool = False,
) -> list[RenderedPiece]:
    """The pieces of `render`; every message that is shown has exactly one "content" piece."""
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ValueError(f"message {i} is {message!r}, wanted a mapping with role and content")
    if not messages:
        raise ValueError("there are no messages to render")
    out = _opening(messages[0], tools)
    query = last_query(messages)
    final = len(messages) - 1
    for i, message in enumerate(messages):
        role, content = message.get("role"), _string(message.get("content"))
        if role == "user" or (role == "system" and i > 0):
            out += _turn(role, content, i)
        elif role == "assistant":
            thought, answer = split_thought(message)
            block = keep_thinking or (i > query and (i == final or bool(thought)))
            out += _assistant(message, thought, answer, i, block=block)
        elif role == "tool":
            opens = i == 0 or messages[i - 1].get("role") != "tool"
            closes = i == final or messages[i + 1].get("role") != "tool"
            out += _tool_result(content, i, opens=opens, closes=closes)
    if continue_final_message:
        if add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other")
        return _cut_after_content(out, final)
    if add_generation_prompt:
        out.append(RenderedPiece(generation_prompt(enable_thinking), -1, "frame"))
    return out


def last_query(messages: Sequence[Message]) -> int:
    """Index of the last user message that is a question, not a tool result typed as one; len - 1
    if there is none. Thinking before it is not shown."""
    for i in reversed(range(len(messages))):
        text = messages[i].get("content")
        if messages[i].get("role") == "user" and isinstance(text, str):
            if not is_tool_result(text):
                return i
    return len(messages) - 1


def is_tool_result(text: str) -> bool:
    """Whether a user's text is a tool result; the slightest thing around the tags makes it none."""
    return text.startswith("<tool_response>") and text.endswith("</tool_response>")


def split_thought(message: Message) -> tuple[str, str]:
    """(thought, answer) of an assistant message.

    The thought is the field "reasoning_content" if it is a string, "" included, else the first
    block in the content; text between the first and the last </think> is then lost, as in the
    template.
    """
    content, thought = _string(message.get("content")), message.get("reasoning_content")
    if isinstance(thought, str):
        return thought, content
    if "</think>" not in content:
        return "", content
    blocks = content.split("</think>")
    return blocks[0].rstrip("\n").split("<think>")[-1].lstrip("\n"), blocks[-1].lstrip("\n")


def _opening(first: Message, tools: Sequence[Mapping] | None) -> list[RenderedPiece]:
    """The system turn: the first message's prompt, the tools, both or nothing."""
    is_system = first.get("role") == "system"
    prompt = first.get("content") if is_system else ""
    if not isinstance(prompt, str):
        raise ValueError(f"the first system message has content {prompt!r}, wanted a string")
    if not tools:
        return _turn("system", prompt, 0) if is_system else []
    if isinstance(tools, str | Mapping) or not all(isinstance(tool, Mapping) for tool in tools):
        # The template would go through the characters of a text, the keys of one tool.
        raise ValueError(f"tools {str(tools)[:80]!r}: wanted a list of objects (`chat_tools`)")
    lines = "".join("\n" + _json(tool) for tool in tools)
    turn = 0 if is_system else -1
    lead = [RenderedPiece(prompt, 0, "content")] if is_system else []
    return [
        RenderedPiece("<|im_start|>system\n", turn, "frame"),
        *lead,
        RenderedPiece("\n\n" * is_system + TOOLS_INTRO, turn, "frame"),
        RenderedPiece(lines, turn, "tools"),
        RenderedPiece(f"{TOOLS_OUTRO}<|im_end|>\n", turn, "frame"),
    ]


def _turn(role: str, content: str, i: int) -> list[RenderedPiece]:
    return [
        RenderedPiece(f"<|im_start|>{role}\n", i, "frame"),
        RenderedPiece(content, i, "content"),
        RenderedPiece("<|im_end|>", i, "end"),
        RenderedPiece("\n", i, "frame"),
    ]


def _tool_result(content: str, i: int, *, opens: bool, closes: bool) -> list[RenderedPiece]:
    out = [RenderedPiece("<|im_start|>user", i, "frame")] if opens else []
    out += [
        RenderedPiece("\n<tool_response>\n", i, "frame"),
        RenderedPiece(content, i, "content"),
        RenderedPiece("\n</tool_response>", i, "frame"),
    ]
    return (
        out + [RenderedPiece("<|im_end|>", i, "end"), RenderedPiece("\n", i, "frame")]
        if closes
        else out
    )


def _assistant(
    message: Message, thought: str, answer: str, i: int, *, block: bool
) -> list[RenderedPiece]:
    out = _turn("assistant", answer.lstrip("\n") if block else answer, i)
    calls = _calls(message.get("tool_calls") or (), after_text=bool(answer))
    out.insert(2, RenderedPiece(calls, i, "calls"))
    if block:
        inner = thought.strip("\n")
        part = "think" if inner else "empty_think"
        out.insert(1, RenderedPiece(f"<think>\n{inner}\n</think>\n\n", i, part))
    return out


def _calls(calls: Sequence, *, after_text: bool) -> str:
    """Tool calls as the template writes them; the first is set off from a text before it."""
    lines = []
    for call in calls:
        call = (isinstance(call, Mapping) and call.get("function")) or call
        if not isinstance(call, Mapping) or "arguments" not in call:
            raise ValueError(f"tool call {call!r} has no arguments")
        arguments = call["arguments"]
        arguments = arguments if isinstance(arguments, str) else _json(arguments)
        name = call.get("name", "")
        lines.append(f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>')
    return "\n" * (after_text and bool(lines)) + "\n".join(lines)


def _cut_after_content(out: list[RenderedPiece], turn: int) -> list[RenderedPiece]:
    for i in reversed(range(len(out))):
        if out[i].turn == turn and out[i].part == "content":
            return out[: i + 1]
    raise ValueError("the final message is not shown, so it cannot be continued: unknown role")


def generation_prompt(enable_thinking: bool | None) -> str:
    """The opening of an assistant turn; the hard switch (False) adds an empty thinking block."""
    return "<|im_start|>assistant\n" + (EMPTY_THINK if enable_thinking is False else "")


def _json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(f"{value!r} does not go into JSON: {error}") from error


def _string(content: object) -> str:
    return content if isinstance(content, str) else ""
