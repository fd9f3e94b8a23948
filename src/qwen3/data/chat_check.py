"""Conversations that the template would render without a word, though something is wrong."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from qwen3.data.special_tokens import CONTROL_TEXTS

ROLES = ("system", "user", "assistant", "tool")
# Those of an OpenAI message that the template renders, and two that it need not.
MESSAGE_FIELDS = ("role", "content", "reasoning_content", "tool_calls", "name", "tool_call_id")
CALL_FIELDS = ("name", "arguments", "function", "id", "type", "index")
NOTES = ("id", "source", "metadata")  # fields that any row of a file may have, for people alone
DEEPEST = 100  # levels of lists and mappings in each other


def known_fields(
    row: Mapping[str, Any], known: Collection[str], what: str, *, notes: Collection[str] = NOTES
) -> dict[str, Any]:
    """The `known` fields of a row that have a value; those of `notes` are left out.

    Raises ValueError naming a field that is not `known`: a misspelt one would be left out without a
    word. Empty ones are let pass, since columns of Arrow and SDKs fill in what a row does not have.
    """
    unknown = [
        name
        for name, value in row.items()
        if name not in known and name not in notes and not _is_empty(value)
    ]
    if unknown:
        raise ValueError(f"a {what} has no field {unknown}; it may have {', '.join(known)}")
    return {name: row[name] for name in known if row.get(name) is not None}


def check_depth(value: Any, what: str) -> None:
    """ValueError for lists and mappings nested deeper than DEEPEST: rendering them is recursive."""
    level = [value]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                inner += item.values()
            elif isinstance(item, list | tuple):
                inner += item
        if not inner:
            return
        level = inner
    raise ValueError(f"{what}: nested deeper than {DEEPEST} levels")


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | Sequence | Mapping) and not value)


def validate(messages: Sequence[Mapping], *, allow_control: bool = False) -> None:
    """Raise ValueError naming the message and what is wrong with it.

    Wrong are an empty conversation, an unknown role (it would vanish) or field (misspelt, it
    would), content that is no string (it would be empty; None is fine beside tool calls), a system
    message that is not first, a tool result without a call or more results than calls, a malformed
    call, values nested deeper than DEEPEST, reasoning or calls elsewhere than in an assistant
    message; and control tokens written in a text, which could end the turn and open another, unless
    allow_control (then encode with `render_tokens(literal_roles=...)`).
    """
    check_depth(messages, "a conversation")
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
    known_fields(message, MESSAGE_FIELDS, "message", notes=())
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
    for level in (call, inner):
        known_fields(level, CALL_FIELDS, "tool call", notes=())
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
