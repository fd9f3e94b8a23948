"""A model's answer -> thought, content, tool calls; and which mode a conversation asks for.

The text is hostile: it is whatever was sampled. `parse` never raises; what looks like a call but is
none stays in the content and is listed in `malformed`.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3.data.chat_render import is_tool_result

OPEN, CLOSE = "<think>", "</think>"
CALL, CALL_END = "<tool_call>", "</tool_call>"
TURN_ENDS = ("<|im_end|>", "<|endoftext|>")

SWITCHES = {True: "/think", False: "/no_think"}
# Also glued to a word ("briefly/no_think", as in the docs), but not a closing tag or a longer path.
_SWITCH = re.compile(r"(?<![</])/(no_)?think(?![\w/-])")


@dataclass(frozen=True)
class ToolCall:
    """A call of a function of the conversation's tools."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Parsed:
    """An assistant's turn in its parts."""

    reasoning: str  # the text of the thinking block, "" if there is none
    content: str  # the text behind it, without tool calls
    tool_calls: tuple[ToolCall, ...] = ()
    closed: bool = True  # the block has its closing tag, or there is no block
    malformed: tuple[str, ...] = ()  # texts that open like a call and are none

    def message(self) -> dict[str, Any]:
        """The turn as a message for the next `render`; thinking goes back in its own field."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"name": call.name, "arguments": call.arguments} for call in self.tool_calls
            ]
        return message


def parse(text: str, *, opened: bool = False) -> Parsed:
    """Parse the turn after its generation prompt, with or without its end token.

    opened: the prompt ends inside a thinking block, so that the text begins in the thought.
    The thought ends at the LAST </think>, as in Qwen3's documentation, so a thought may quote the
    tag; but tags inside the JSON of a tool call are text of its arguments. A block that is never
    closed (cut at the token limit) is all reasoning. Calls are read from the content only.
    """
    for end in TURN_ENDS:
        if text.endswith((end, end + "\n")):
            text = text.removesuffix("\n").removesuffix(end)
            break
    close = _last_close(text)
    if close >= 0:
        thought = text[:close].lstrip().removeprefix(OPEN).strip("\n")
        return _with_calls(thought, text[close + len(CLOSE) :].lstrip("\n"))
    if opened or text.lstrip().startswith(OPEN):
        return Parsed(text.lstrip().removeprefix(OPEN).strip("\n"), "", closed=False)
    return _with_calls("", text)


def _last_close(text: str) -> int:
    """Where the last </think> stands that no tool call quotes; -1 for none."""
    close, first_call = text.rfind(CLOSE), text.find(CALL)
    if first_call < 0 or close < first_call:
        return close
    for start, end, call in reversed(list(_calls(text))):
        if call is not None and start < close < end:
            close = text.rfind(CLOSE, 0, start)
    return close


def _with_calls(thought: str, answer: str) -> Parsed:
    content, calls, malformed, at = [], [], [], 0
    for start, end, call in _calls(answer):
        if call is None:
            malformed.append(answer[start:end])
            content.append(answer[at:end])
        else:
            calls.append(call)
            # The line break in front of a call belongs to the format.
            content.append(answer[at:start].removesuffix("\n"))
        at = end
    content.append(answer[at:])
    return Parsed(thought, "".join(content), tuple(calls), malformed=tuple(malformed))


def _calls(text: str) -> Iterator[tuple[int, int, ToolCall | None]]:
    """(start, end, call) of all that opens like a tool call; None for what is none, which reaches
    up to the next opening tag."""
    end = 0
    while (start := text.find(CALL, end)) >= 0:
        call, end = _call_at(text, start + len(CALL))
        if call is None:
            end = _find(text, CALL, start + len(CALL))
        yield start, end, call


_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"\s+")


def _call_at(text: str, at: int) -> tuple[ToolCall | None, int]:
    """(the call whose JSON starts at `at`, where its closing tag ends); (None, at) for no call.

    JSON is read first and the closing tag looked for behind it: an argument may quote the tags. It
    is read from the text up to the next opening tag, and further only if that cuts a string, so
    the time is linear in the text even if it is full of opening tags.
    """
    end = _find(text, CALL, at)
    while True:
        window = text[at:end]
        try:
            return read_call(window, at)
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Unterminated string") or end == len(text):
                return None, at
        except (ValueError, RecursionError):
            return None, at
        end = _find(text, CALL, at + 2 * (end - at))


def read_call(window: str, at: int) -> tuple[ToolCall, int]:
    """(the call whose JSON starts a window, the text's place where its closing tag ends).

    at: place of the window in the text. ValueError if it holds no call; a JSONDecodeError of an
    unterminated string if a closing tag that the arguments quote may have cut it.
    """
    value, end = _DECODER.raw_decode(window, _skip_blanks(window, 0))
    end = _skip_blanks(window, end)
    if not window.startswith(CALL_END, end) or not isinstance(value, dict):
        raise ValueError("not one JSON object between the tags")
    name, arguments = value.get("name"), value.get("arguments")
    if not (isinstance(name, str) and name and isinstance(arguments, dict)):
        raise ValueError("not a name with arguments")
    # "\ud800" and 1e999 are JSON, but could be neither encoded nor rendered again.
    json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    return ToolCall(name, arguments), at + end + len(CALL_END)


def _skip_blanks(text: str, start: int) -> int:
    blanks = _BLANKS.match(text, start)
    return blanks.end() if blanks else start


def _find(text: str, tag: str, start: int) -> int:
    """Where `tag` stands from `start` on; the end of the text if nowhere."""
    place = text.find(tag, start)
    return len(text) if place < 0 else place


def mode_of(messages: Sequence[Mapping], enable_thinking: bool | None = None) -> bool:
    """True if the next answer is to think.

    enable_thinking=False is final; otherwise the last /think or /no_think in a user or system
    message wins (not one in a tool result typed as a user message); without any the model thinks.
    """
    if enable_thinking is False:
        return False
    for message in reversed(messages):
        content = message.get("content")
        if message.get("role") not in ("user", "system") or not isinstance(content, str):
            continue
        if not is_tool_result(content):
            flags = [match.group(1) for match in _SWITCH.finditer(content)]
            if flags:
                return flags[-1] is None
    return True
