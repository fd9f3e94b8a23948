"""One answer's tokens -> reasoning, content and tool calls, as they come.

Streamed and unstreamed responses are both made by these streams, so that the pieces of the one join
to the other. Held back is what the next tokens may still change: the start of a character, of a
stop string or of a tool call, and line breaks at the end of a thought.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from qwen3.data import chat
from qwen3.data.chat_parse import CALL, CALL_END, read_call
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.chat_session import THINKING, TextStream
from qwen3.infer.stop_strings import StopCut

REASONING, CONTENT, TOOL_CALL = "reasoning_content", "content", "tool_calls"


class Delta(NamedTuple):
    """What some tokens add to an answer."""

    kind: str  # REASONING, CONTENT or TOOL_CALL
    text: str = ""
    call: chat.ToolCall | None = None  # of TOOL_CALL, whole


class Calls:
    """Content -> content without tool calls, and the calls. What looks like a call but is none
    stays in the content (`chat.parse`).
    """

    def __init__(self, most: int | None = None):
        self.most = most  # calls, after which further ones are left out; None for no limit
        self.buffer = ""
        self.seen = 0  # calls so far
        self.retry = 0  # length of the buffer from which on it is read again

    def feed(self, text: str, *, last: bool = False) -> Iterator[Delta]:
        """The deltas of more content; with `last` nothing is held back."""
        self.buffer += text
        while self.buffer:
            at = self.buffer.find(CALL)
            if at < 0:
                yield from self._content(0 if last else _overlap(self.buffer, "\n" + CALL))
                return
            yield from self._content(len(self.buffer) - at)
            call = self._call(last)
            if call is None:
                return
            yield from call

    def _content(self, keep: int) -> Iterator[Delta]:
        """Pass on all but the last `keep` characters."""
        text = self.buffer[: len(self.buffer) - keep]
        self.buffer = self.buffer[len(text) :]
        if self.buffer.startswith(CALL):
            text = text.removesuffix("\n")  # a line break in front of a call is the format's
        if text:
            yield Delta(CONTENT, text)

    def _call(self, last: bool) -> list[Delta] | None:
        """The deltas of the buffer, which starts with the tag of a call; None if more must come."""
        size = len(self.buffer)
        is_closed = CALL_END in self.buffer[len(CALL) :]
        if not last and not (is_closed and size >= self.retry):
            return None
        try:
            call, end = read_call(self.buffer[len(CALL) :], len(CALL))
        except (ValueError, RecursionError) as error:
            is_cut = isinstance(error, json.JSONDecodeError) and "Unterminated" in error.msg
            if is_cut and not last:
                self.retry = 2 * size  # reading again at each tag would be quadratic
                return None
            self.buffer, self.retry = self.buffer[len(CALL) :], 0
            return [Delta(CONTENT, CALL)]
        self.buffer, self.retry = self.buffer[end:], 0
        self.seen += 1
        is_left_out = self.most is not None and self.seen > self.most
        return [] if is_left_out else [Delta(TOOL_CALL, call=call)]


def _overlap(text: str, tag: str) -> int:
    """Characters at the end of the text that begin the tag."""
    return next((n for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), 0)


class ChatDeltas:
    """The deltas of a chat answer.

    Args:
        tokenizer: of the answer.
        thinking: the prompt ends inside a thinking block.
        stop: stop strings; they and what follows are left out.
        tools: read tool calls; without, their text is content.
        most_calls: calls that are passed on, None for all.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        thinking: bool = False,
        stop: Sequence[str] = (),
        tools: bool = False,
        most_calls: int | None = None,
    ):
        self.text = TextStream(tokenizer, thinking=thinking)
        self.cut = StopCut(tokenizer.token_bytes, stop)
        self.calls = Calls(most_calls) if tools else None
        self.reasoning_tokens = 0
        self.breaks = ""  # line breaks held back at the end of a thought
        self.blank: set[str] = {REASONING}  # kinds whose next line breaks are left out

    def feed(self, tokens: Iterable[int]) -> list[Delta]:
        """What these tokens add."""
        deltas: list[Delta] = []
        for token in tokens:
            released, part = self.cut.feed(token)
            for i in released:
                deltas += self._token(i)
            if part:
                deltas += self._pieces(self.text.feed_bytes(part))
        return deltas

    def close(self) -> list[Delta]:
        """What was held back, at the end of the answer."""
        deltas = [delta for i in self.cut.close() for delta in self._token(i)]
        deltas += self._pieces(self.text.close())
        return deltas + list(self.calls.feed("", last=True) if self.calls else ())

    def _token(self, i: int) -> list[Delta]:
        was_thinking = self.text.kind == THINKING
        deltas = self._pieces(self.text.feed([i]))
        is_thinking = self.text.kind == THINKING
        self.reasoning_tokens += was_thinking and is_thinking
        if was_thinking and not is_thinking:
            # The line breaks around a thought belong to the format.
            self.breaks, self.blank = "", {REASONING, CONTENT}
        return deltas

    def _pieces(self, pieces: Iterable[tuple[str, str]]) -> list[Delta]:
        deltas: list[Delta] = []
        for kind, text in pieces:
            name = REASONING if kind == THINKING else CONTENT
            if name in self.blank:
                text = text.lstrip("\n")
                self.blank -= {name} if text else set()
            if name == REASONING:
                text, self.breaks = _held_breaks(self.breaks + text)
            if text and name == CONTENT and self.calls:
                deltas += self.calls.feed(text)
            elif text:
                deltas.append(Delta(name, text))
        return deltas


def _held_breaks(text: str) -> tuple[str, str]:
    """(the text without line breaks at its end, these)."""
    kept = text.rstrip("\n")
    return kept, text[len(kept) :]


class TextDeltas:
    """The deltas of a plain completion: all text is content, tags included."""

    reasoning_tokens = 0

    def __init__(self, tokenizer: Tokenizer, *, stop: Sequence[str] = (), stop_ids: Sequence[int]):
        self.token_bytes, self.stop_ids = tokenizer.token_bytes, stop_ids
        self.cut = StopCut(tokenizer.token_bytes, stop)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, tokens: Iterable[int]) -> list[Delta]:
        """What these tokens add."""
        data = b""
        for token in tokens:
            released, part = self.cut.feed(token)
            data += self._bytes(released) + part
        return _content_delta(self.decoder.decode(data))

    def close(self) -> list[Delta]:
        """What was held back, at the end of the answer."""
        return _content_delta(self.decoder.decode(self._bytes(self.cut.close()), True))

    def _bytes(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self.token_bytes[i] for i in tokens if i not in self.stop_ids)


def _content_delta(text: str) -> list[Delta]:
    return [Delta(CONTENT, text)] if text else []
