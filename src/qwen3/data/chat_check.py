"""Conversations that the template would render without a word, though something is wrong."""

import json
from collections.abc import Mapping, Sequence

from qwen3.data.special_tokens import CONTROL_TEXTS

ROLES = ("system", "user", "assistant", "tool")


def validate(messages: Sequence[Mapping], *, allow_control: bool = False) -> None:
    """ValueError naming the message and what is wrong with it, for

    an empty conversation, an unknown role (it would vanish), content that is no string (it would be
    empty; None is fine beside tool calls), a system message that is not first, a tool result
    without a call or more results than calls, a malformed call, reasoning or calls elsewhere than
    in an assistant message; and for control tokens written in a text, which could end the turn and
    open another, unless allow_control (then encode with `render_tokens(literal_roles=...)`).
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise ValueError(f"a conversation is a non-empty list of messages, not {messages!r}")
    open_calls = 0
    for i, message in enumerate(messages):
        try:
            _check_message(message, first=i == 0, open_calls=open_calls)
            if not allow_control:
                _check_control(message)
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
        if message["role"] == "tool":
            open_calls -= 1
        else:
            open_calls = len(message.get("tool_calls") or ())


def _check_message(message: Mapping, *, first: bool, open_calls: int) -> None:
    if not isinstance(message, Mapping):
        raise ValueError(f"{message!r} is no mapping with role and content")
    role, content, calls = (message.get(key) for key in ("role", "content", "tool_calls"))
    if role not in ROLES:
        raise ValueError(f"role {role!r} is not one of {ROLES}")
    if role == "system" and not first:
        raise ValueError("a system message that is not the first")
    if role == "tool" and not open_calls:
        raise ValueError("a tool result without an unanswered tool call before it")
    if not isinstance(content, str) and not (content is None and calls):
        raise ValueError(f"content {content!r} is no string")
    for key in ("reasoning_content", "tool_calls"):
        if message.get(key) is not None and role != "assistant":
            raise ValueError(f"{key} in a {role} message")
    if not isinstance(message.get("reasoning_content", ""), str | None):
        raise ValueError(f"reasoning_content {message['reasoning_content']!r} is no string")
    if not isinstance(calls, list | tuple | None):
        raise ValueError(f"tool_calls {calls!r} is no list")
    for call in calls or ():
        _check_call(call)


def _check_call(call: Mapping) -> None:
    inner = (isinstance(call, Mapping) and call.get("function")) or call
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ValueError(f"tool call {call!r} has no name")
    arguments = inner.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise ValueError(f"arguments {arguments!r} of {inner['name']} are not JSON") from None
    if not isinstance(arguments, Mapping):
        raise ValueError(f"arguments {arguments!r} of {inner['name']} are no JSON object")


def _check_control(message: Mapping) -> None:
    texts = [message.get("content"), message.get("reasoning_content")]
    texts.append(json.dumps(message.get("tool_calls"), ensure_ascii=False, default=str))
    for text in texts:
        for token in CONTROL_TEXTS:
            if isinstance(text, str) and token in text:
                raise ValueError(f"its text holds the control token {token}")
