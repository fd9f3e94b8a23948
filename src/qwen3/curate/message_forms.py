"""Conversations in the forms in which files of the field store them -> the form of `data.chat`.

    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}],
     "system": "Be brief.", "chat_template_kwargs": {"enable_thinking": false}}

Understood are other names of messages, roles, texts and thoughts, texts in parts, results of tools
as objects, a system text and settings of the template beside the messages, and weights of single
answers in the loss. What has no known meaning is refused by name: nothing is left out silently.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3.data import chat
from qwen3.data.chat_tools import read_tools

MESSAGES = ("messages", "conversations", "conversation")
ROW_FIELDS = (
    *MESSAGES,
    *("prompt", "completion", "system", "tools", "chat_template_kwargs", "enable_thinking"),
)
WANTED = "a sample has messages (or conversations, or prompt and completion) or ids"
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "developer": "system",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "environment": "tool",
    "function_call": "assistant",
}
# Field of a message -> its other names; the first that has a value counts, two must agree.
NAMES = {
    "role": ("from",),
    "content": ("value",),
    "reasoning_content": ("reasoning", "thinking", "thought"),
    "weight": ("train", "training", "loss"),
}
PARTS = {"text": "content", "thinking": "reasoning_content", "reasoning": "reasoning_content"}
TEMPLATE_SETTINGS = ("enable_thinking",)


@dataclass(frozen=True)
class Conversation:
    """A conversation as `data.chat` takes it, with what a file says beside its messages."""

    messages: list[dict[str, Any]]
    tools: list[dict] | None = None
    weights: dict[int, float] | None = None  # message -> weight in the loss; others have 1
    enable_thinking: bool | None = None  # the hard switch of the template


def read_conversation(row: Mapping[str, Any]) -> Conversation:
    """The conversation of a row of a file; its messages are not yet validated.

    Raises ValueError naming the message, field and value that have no meaning here.
    """
    if not any(row.get(name) is not None for name in ROW_FIELDS):
        raise ValueError(f"{WANTED}, this one has {', '.join(map(str, row)) or 'nothing'}")
    row = chat.known_fields(row, ROW_FIELDS, "sample")
    messages, weights, tools = _given(row)
    messages, shift = with_system(messages, row.get("system"))
    if row.get("tools") and tools:
        raise ValueError("tools both beside the messages and in the system message")
    return Conversation(
        messages,
        read_tools(row.get("tools") or tools),
        {i + shift: weight for i, weight in weights.items()} or None,
        _switch(row),
    )


def _given(row: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[int, float], Any]:
    """What `read_messages` gives, of a row's messages, or of its prompt and completion, of which
    the prompt's answers have no weight."""
    given = [name for name in MESSAGES if name in row]
    parted = {"prompt", "completion"} & set(row)
    if len(given) == 1 and not parted:
        return read_messages(row[given[0]])
    if given or len(parted) != 2:
        raise ValueError(f"{WANTED}, this one has {', '.join(row) or 'none of them'}")
    prompt, _, tools = read_messages(_turns(row["prompt"], "user"))
    completion, weights, _ = read_messages(_turns(row["completion"], "assistant"))
    answered = {i: 0.0 for i, message in enumerate(prompt) if message["role"] == "assistant"}
    later = {len(prompt) + i: weight for i, weight in weights.items()}
    return [*prompt, *completion], answered | later, tools


def read_messages(messages: Any) -> tuple[list[dict[str, Any]], dict[int, float], Any]:
    """(messages in the form of `data.chat`, weights that are written at them, tools in a system
    message). Raises ValueError naming the message and what is wrong with it."""
    if isinstance(messages, str) and messages.lstrip().startswith("["):
        messages = _loaded(messages, "messages")
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise ValueError(f"a conversation is a list of messages, not {str(messages)[:80]!r}")
    result, weights, tools = [], {}, None
    for i, message in enumerate(messages):
        try:
            message = _message(message)
            weight = message.pop("weight", None)
            if message.get("role") == "system":
                tools = message.pop("tools", None) or tools
            if weight is not None:
                weights[i] = _weight(weight, str(message.get("role")))
        except ValueError as error:
            raise ValueError(f"message {i}: {error}") from None
        result.append(message)
    return result, {i: w for i, w in weights.items() if result[i]["role"] == "assistant"}, tools


def _turns(text: Any, role: str) -> Any:
    """A prompt or completion as messages: a text is one of `role`."""
    return [{"role": role, "content": text}] if isinstance(text, str) else text


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"{message!r} is no mapping with role and content")
    message = dict(message)
    for name, others in NAMES.items():
        _rename(message, name, others)
    role = message.get("role")
    if role == "function_call":
        call, message["content"] = _loaded(message.get("content"), "a function call"), None
        message["tool_calls"] = call if isinstance(call, list) else [call]
    message["role"] = ROLES.get(role, role) if isinstance(role, str) else role
    if call := message.pop("function_call", None):
        message["tool_calls"] = [*(message.get("tool_calls") or ()), call]
    if isinstance(message.get("tool_calls"), str):
        message["tool_calls"] = _loaded(message["tool_calls"], "tool_calls")
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_with_arguments(call) for call in message["tool_calls"]]
    content = message.get("content")
    if message["role"] == "tool" and isinstance(content, Mapping | list):
        if _kinds(content) != {"text"}:
            message["content"] = json.dumps(content, ensure_ascii=False)
            return message
    if _kinds(content):
        message |= _joined(content, message.get("reasoning_content"))
    return message


def _with_arguments(call: Any) -> Any:
    """A tool call whose arguments are null, as one without any."""
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _with_arguments(call["function"])}
    return {**call, "arguments": {}} if call.get("arguments", 0) is None else call


def _rename(message: dict[str, Any], name: str, others: Sequence[str]) -> None:
    """Give the field its one name. ValueError where two names hold different values."""
    values = {
        key: message.pop(key) for key in (name, *others) if message.get(key) not in (None, "")
    }
    for key in others:
        message.pop(key, None)
    if len({json.dumps(value, sort_keys=True, default=str) for value in values.values()}) > 1:
        raise ValueError(f"{' and '.join(values)} say different things")
    if values:
        message[name] = next(iter(values.values()))


def _kinds(content: Any) -> set[str]:
    """The types of the parts of a content, as in OpenAI's messages; none for another content."""
    parts = content if isinstance(content, list) else []
    typed = [part for part in parts if isinstance(part, Mapping) and part.get("type")]
    return {str(part["type"]) for part in typed} if len(typed) == len(parts) else set()


def _joined(parts: Sequence[Mapping], thought: str | None) -> dict[str, str]:
    """The texts of content parts, and their thoughts. ValueError for parts that are no text."""
    texts: dict[str, list[str]] = {"content": [], "reasoning_content": [thought] if thought else []}
    for part in parts:
        kind = part["type"]
        text = next((part[key] for key in (kind, "text") if isinstance(part.get(key), str)), None)
        if kind not in PARTS or text is None:
            raise ValueError(
                f"content part {str(dict(part))[:80]} is no text; known are {', '.join(PARTS)}"
            )
        texts[PARTS[kind]].append(text)
    return {name: "".join(part) for name, part in texts.items() if part or name == "content"}


def _weight(value: Any, role: str) -> float:
    """A weight in the loss: a flag, or a number of at least 0."""
    number = isinstance(value, bool | int | float) and math.isfinite(value) and value >= 0
    if not number:
        raise ValueError(f"weight {value!r}: wanted true, false or a number of at least 0")
    if value and role != "assistant":
        raise ValueError(f"weight {value!r} of a {role} message: only answers are trained on")
    return float(value)


def with_system(messages: list[dict[str, Any]], system: Any) -> tuple[list[dict[str, Any]], int]:
    """(messages with the system text in front, by how many places they moved)."""
    if system is None or system == "":
        return messages, 0
    if not isinstance(system, str):
        raise ValueError(f"system {system!r:.80} is no text")
    if messages and messages[0].get("role") == "system":
        if messages[0].get("content") != system:
            raise ValueError("system beside the messages, and another one in them")
        return messages, 0
    return [{"role": "system", "content": system}, *messages], 1


def _switch(row: Mapping[str, Any]) -> bool | None:
    """What the row sets enable_thinking to, itself or in chat_template_kwargs."""
    settings = _loaded(row.get("chat_template_kwargs", {}), "chat_template_kwargs")
    if not isinstance(settings, Mapping):
        raise ValueError(f"chat_template_kwargs {settings!r:.80} is no object")
    settings = chat.known_fields(settings, TEMPLATE_SETTINGS, "setting of the template", notes=())
    values = {
        value for value in (row.get("enable_thinking"), *settings.values()) if value is not None
    }
    if len(values) > 1 or not all(isinstance(value, bool) for value in values):
        raise ValueError(
            f"enable_thinking {sorted(map(str, values))}: wanted one of true and false"
        )
    return values.pop() if values else None


def _loaded(value: Any, what: str) -> Any:
    """A value that may be written as a JSON text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError(f"{what}: a text that is not JSON: {value[:80]!r}") from None
