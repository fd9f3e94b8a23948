"""From messages to a request and from tokens to text, for people: streaming, modes, tools."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jsonschema

from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import requests
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Completion, Request, SamplingParams
from qwen3.infer.stop_strings import texts

THINKING, CONTENT = "thinking", "content"


class ChatPiece(NamedTuple):
    """A stretch of streamed text: kind is "thinking" or "content"."""

    kind: str
    text: str


@dataclass(frozen=True)
class ChatAnswer:
    """text: all of it, tags included, without the end token. reasoning, content, tool_calls: its
    parts. completion: the tokens and all that is known of them.
    """

    text: str
    reasoning: str
    content: str
    tool_calls: tuple[chat.ToolCall, ...]
    completion: Completion

    @property
    def finish(self) -> str | None:
        return self.completion.finish

    def message(self) -> dict[str, Any]:
        """For the next `chat`."""
        return chat.parse(self.text).message()


def answer(tokenizer: Tokenizer, completion: Completion) -> ChatAnswer:
    ids = list(completion.tokens)
    if ids and ids[-1] in tokenizer.stop_ids:
        ids.pop()
    text = tokenizer.decode(ids)
    parsed = chat.parse(text)
    return ChatAnswer(text, parsed.reasoning, parsed.content, parsed.tool_calls, completion)


def check_tools(tools: Sequence[Mapping] | None) -> None:
    """ValueError for a tool that is no {"type": "function", "function": {"name", "parameters"}} or
    whose parameters are no JSON schema of an object.
    """
    for i, tool in enumerate(tools or ()):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ValueError(f"tool {i}: {tool!r:.80} has no function with a name")
        schema = function.get("parameters", {"type": "object"})
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except (jsonschema.SchemaError, TypeError) as error:
            reason = getattr(error, "message", error)
            raise ValueError(f"tool {i} ({function['name']}): no JSON schema: {reason}") from None
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            raise ValueError(f"tool {i} ({function['name']}): parameters must be of type object")


def chat_request(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    *,
    thinking: bool | None = None,
    thinking_budget: int | None = None,
    tools: Sequence[Mapping] | None = None,
    sampling: SamplingParams | str | None = None,
    **options: Any,
) -> Request:
    """The request for the next assistant turn.

    thinking: False is the hard switch, an empty block in the prompt; otherwise the last /think or
    /no_think in the messages decides, and without one the model thinks. thinking_budget 0 is the
    hard switch too. sampling: a Sampling, the name of a preset, or None for the report's preset
    of the mode. options: further fields of Request. Control tokens that people or tools wrote are
    encoded as plain text. Raises ValueError for a malformed conversation or tool.
    """
    chat.validate(messages, allow_control=True)
    check_tools(tools)
    if thinking_budget is not None and thinking_budget < 0:
        raise ValueError(f"thinking_budget {thinking_budget}: wanted at least 0, or None")
    hard = thinking is False or thinking_budget == 0
    prompt, _ = chat.render_tokens(
        tokenizer,
        messages,
        tools=tools,
        add_generation_prompt=True,
        enable_thinking=False if hard else None,
        literal_roles=("system", "user", "tool"),
    )
    if sampling is None:
        mode = chat.mode_of(messages, False if hard else None)
        sampling = "thinking" if mode else "non_thinking"
    return Request(
        prompt,
        sampling=as_sampling(sampling),
        thinking=False if hard else None,
        budget=None if hard else thinking_budget,
        **options,
    )


def as_sampling(sampling: SamplingParams | str | Mapping) -> SamplingParams:
    """A Sampling as it is, a preset by name, or fields."""
    if isinstance(sampling, SamplingParams):
        return sampling
    if isinstance(sampling, Mapping):
        return requests.sampling(**sampling)
    return requests.sampling(sampling)


class TextStream:
    """Tokens of one answer -> pieces of text; a character cut by a token waits for its rest."""

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool = False):
        self.tokenizer, self.texts = tokenizer, texts(tokenizer)
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.kind = THINKING if thinking else CONTENT

    def feed(self, tokens: Iterable[int]) -> Iterator[ChatPiece]:
        pending = ""
        for i in tokens:
            if i == self.tokenizer.think_open or i == self.tokenizer.think_close:
                yield from self._piece(pending + self.decoder.decode(b"", True))
                pending = ""
                self.decoder.reset()
                self.kind = THINKING if i == self.tokenizer.think_open else CONTENT
            elif i not in self.tokenizer.stop_ids:
                pending += self.decoder.decode(self.texts[i])
        yield from self._piece(pending)

    def close(self) -> Iterator[ChatPiece]:
        yield from self._piece(self.decoder.decode(b"", True))

    def _piece(self, text: str) -> Iterator[ChatPiece]:
        if text:
            yield ChatPiece(self.kind, text)


class ChatStream:
    """Iterate for the pieces of one answer; `answer` is there afterwards, and if the iteration was
    broken off, with what had come until then (finish "abort").
    """

    def __init__(self, engine: Engine, request: Request):
        self.engine, self.request = engine, request
        self.answer: ChatAnswer | None = None
        # Checked now, not when the first piece is asked for.
        (self.ticket,) = engine.submit([request])

    def __iter__(self) -> Iterator[ChatPiece]:
        tokenizer, made = self.engine.tokenizer, self.ticket.completion.tokens
        thinking = bool(self.ticket.state["phase"])
        text, sent = TextStream(tokenizer, thinking=thinking), 0
        try:
            while not self.ticket.done:
                self.engine.step()
                sent, new = len(made), made[sent:]
                yield from text.feed(new)
            yield from text.close()
        finally:
            self.engine.abort([self.ticket])
            self.answer = answer(tokenizer, self.ticket.completion)


@dataclass
class ChatSession:
    """A conversation with an engine. thinking, budget, sampling: see `chat_request`."""

    engine: Engine
    thinking: bool | None = None
    budget: int | None = None
    sampling: SamplingParams | str | None = None
    tools: Sequence[Mapping] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        check_tools(self.tools)

    def say(self, text: str) -> Iterator[ChatPiece]:
        """The answer to a user's message, in pieces. An interrupted answer stays as far as it
        came; a message that cannot be answered is taken back and the ValueError passed on.
        """
        return self._turn([{"role": "user", "content": text}])

    def give_results(self, results: Sequence[str]) -> Iterator[ChatPiece]:
        """The next turn after tool calls, given the result of each."""
        return self._turn([{"role": "tool", "content": result} for result in results])

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The tool calls of the last message, to be answered by `give_results`."""
        return self.messages[-1].get("tool_calls", []) if self.messages else []

    def _turn(self, new: list[dict[str, Any]]) -> Iterator[ChatPiece]:
        messages = [*self.messages, *new]
        request = chat_request(
            self.engine.tokenizer,
            messages,
            thinking=self.thinking,
            thinking_budget=self.budget,
            tools=self.tools,
            sampling=self.sampling,
            **self.options,
        )
        stream = ChatStream(self.engine, request)
        self.messages = messages
        return self._pieces(stream)

    def _pieces(self, stream: ChatStream) -> Iterator[ChatPiece]:
        try:
            yield from stream
        finally:
            if stream.answer is not None:
                self.messages.append(stream.answer.message())
