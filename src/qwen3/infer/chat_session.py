"""Conversations with an engine: messages to a request, generated tokens to streamed text.

`chat_request` renders messages, modes and tools to a Request; `TextStream` turns tokens into pieces
of text; `ChatSession` keeps a conversation of several turns.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jsonschema

from qwen3.data import chat
from qwen3.data.chat_prompt import chat_prompt_ids, turn_opening
from qwen3.data.chat_tools import read_tools
from qwen3.data.folder_template import has_switch
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import budget, requests
from qwen3.infer.auto_budget import ChooseBudget
from qwen3.infer.backend import tokenizer_of
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Completion, Request, SamplingParams
from qwen3.infer.stop_strings import StopCut, text_before
from qwen3.infer.thinking_head import quality_of

THINKING, CONTENT = "thinking", "content"


class ChatPiece(NamedTuple):
    """A stretch of streamed text."""

    kind: str  # THINKING or CONTENT
    text: str


@dataclass(frozen=True)
class ChatAnswer:
    """An assistant's turn, as text and in its parts."""

    text: str  # all that was generated, tags included, without the end token or stop string
    reasoning: str  # inside the <think> block
    content: str  # after it, without tool calls
    tool_calls: tuple[chat.ToolCall, ...]
    completion: Completion  # the tokens, their log-probabilities and the finish reason

    @property
    def finish(self) -> str | None:
        """Why the answer ended, one of `requests.FINISH`."""
        return self.completion.finish

    def message(self) -> dict[str, Any]:
        """The assistant's message, to be appended to the conversation."""
        return chat.Parsed(self.reasoning, self.content, self.tool_calls).message()


def answer(tokenizer: Tokenizer, completion: Completion) -> ChatAnswer:
    """A completion as text, parsed into reasoning, content and tool calls.

    Where the prompt ends inside a thinking block the answer begins in the thought.
    """
    ids = list(completion.tokens)
    if ids and ids[-1] in tokenizer.stop_ids:
        ids.pop()
    text = text_before(tokenizer, ids, completion.request.stop_strings)
    start = budget.start(completion.request.prompt, tokenizer)
    parsed = chat.parse(text, opened=start["phase"] == budget.THINK)
    return ChatAnswer(text, parsed.reasoning, parsed.content, parsed.tool_calls, completion)


def check_tools(tools: Sequence[Mapping] | None) -> None:
    """ValueError for a tool that is not {"type": "function", "function": {"name", "parameters"}} or
    whose parameters are not the JSON schema of an object.
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
    thinking_budget: int | str | None = None,
    choose_budget: ChooseBudget | None = None,
    tools: Sequence[Mapping] | str | None = None,
    sampling: SamplingParams | str | Mapping | None = None,
    **options: Any,
) -> Request:
    """The request for the next assistant turn.

    thinking: False is the hard switch, an empty block in the prompt; otherwise the last /think or
    /no_think in the messages decides, and without one the model thinks. thinking_budget 0 is the
    hard switch too; "auto" and "auto:Q" (`infer.thinking_head`) leave it to `choose_budget`, the
    model's `auto_budget`, where the model thinks at all. A folder's own chat template is told
    `thinking` as enable_thinking; where it does not know that switch, False is refused, and a
    budget of 0 closes the thought at once.
    tools: function schemas, or JSON text of them. sampling: SamplingParams, the name of a preset,
    fields, or None for the report's preset of the mode. options: further fields of Request. Control
    tokens that people or tools wrote are encoded as plain text. Raises ValueError for a malformed
    conversation or tool.
    """
    chat.validate(messages, allow_control=True)
    values = (sampling, thinking, thinking_budget, *options.values())
    chat.check_depth(values, "the options")
    tools = read_tools(tools)
    check_tools(tools)
    for i, message in enumerate(messages):
        for text in _strings(message):
            requests.check_text(f"message {i}:", text)
    for text in _strings(tools or ()):
        requests.check_text("tools:", text)
    if (quality := quality_of(thinking_budget)) is not None:
        thinking_budget = _automatic(tokenizer, messages, tools, thinking, quality, choose_budget)
    if thinking_budget is not None:
        requests.check_integer("thinking_budget", thinking_budget, 0, "at least 0, or None")
        assert not isinstance(thinking_budget, str)
    template = tokenizer.chat_template
    is_known = template is None or has_switch(template)  # the switch, by the template
    is_hard = thinking is False or (thinking_budget == 0 and is_known)
    switch = False if is_hard else None
    prompt = chat_prompt_ids(
        tokenizer,
        messages,
        tools=tools,
        enable_thinking=thinking if is_known and not is_hard else switch,
    )
    if sampling is None:
        opens = bool(turn_opening(tokenizer, prompt))
        thinks = chat.mode_of(messages, switch) if is_known else opens
        sampling = "thinking" if thinks else "non_thinking"
    return Request(
        prompt,
        sampling=as_sampling(sampling),
        thinking=switch,
        budget=None if is_hard else thinking_budget,
        **options,
    )


def _automatic(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    tools: Sequence[Mapping] | None,
    thinking: bool | None,
    quality: float,
    choose: ChooseBudget | None,
) -> int | None:
    """The budget that the model's head chooses; None in the non-thinking mode."""
    if choose is None:
        raise ValueError("thinking_budget 'auto': there is no model here that chooses")
    known = tokenizer.chat_template is None or has_switch(tokenizer.chat_template)
    if thinking is False or (known and not chat.mode_of(messages, None)):
        return None
    prompt = chat_prompt_ids(
        tokenizer, messages, tools=tools, enable_thinking=thinking if known else None
    )
    return choose(prompt, quality)


def _strings(value: Any) -> Iterator[str]:
    """All texts in a tree of mappings and lists, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def as_sampling(sampling: SamplingParams | str | Mapping) -> SamplingParams:
    """SamplingParams as they are, a preset by name, or fields."""
    if isinstance(sampling, SamplingParams):
        return sampling
    if isinstance(sampling, Mapping):
        return requests.sampling(**sampling)
    return requests.sampling(sampling)


class TextStream:
    """Tokens of one answer -> pieces of text; a character cut by a token waits for its rest.

    The tags of a block are left out of the text. A </think> outside of a block is text, and so is a
    <think> inside one or inside a tool call, whose arguments may quote it.
    """

    def __init__(self, tokenizer: Tokenizer, *, thinking: bool = False):
        self.tokenizer, self.token_bytes = tokenizer, tokenizer.token_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.kind = THINKING if thinking else CONTENT
        self.in_call = False

    def feed(self, tokens: Iterable[int]) -> Iterator[ChatPiece]:
        """The text that these tokens add, in pieces of one kind."""
        text = ""
        for i in tokens:
            if self._is_tag(i):
                yield from self._piece(text + self.decoder.decode(b"", True))
                text = ""
                self.decoder.reset()
                self.kind = CONTENT if self.kind == THINKING else THINKING
            elif i not in self.tokenizer.stop_ids:
                text += self.decoder.decode(self.token_bytes[i])
        yield from self._piece(text)

    def feed_bytes(self, data: bytes) -> Iterator[ChatPiece]:
        """The text of a part of a token, e.g. of one that a stop string cuts."""
        yield from self._piece(self.decoder.decode(data))

    def close(self) -> Iterator[ChatPiece]:
        """What is left of a character that the answer's end cut."""
        yield from self._piece(self.decoder.decode(b"", True))

    def _is_tag(self, i: int) -> bool:
        """Whether a token opens or closes a <think> block."""
        if self.kind == THINKING:
            return i == self.tokenizer.think_close
        if i in (self.tokenizer.tool_call_open, self.tokenizer.tool_call_close):
            self.in_call = i == self.tokenizer.tool_call_open
        return i == self.tokenizer.think_open and not self.in_call

    def _piece(self, text: str) -> Iterator[ChatPiece]:
        if text:
            yield ChatPiece(self.kind, text)


class ChatStream:
    """Iterate for the pieces of one answer. `answer` is set afterwards, also if the iteration was
    broken off: then to what was generated until then (finish "abort").
    """

    def __init__(self, engine: Engine, request: Request):
        self.engine, self.request = engine, request
        self.tokenizer = tokenizer_of(engine)
        self.answer: ChatAnswer | None = None
        # Checked now, not when the first piece is asked for.
        (self.state,) = engine.submit([request])

    def __iter__(self) -> Iterator[ChatPiece]:
        tokens = self.state.completion.tokens
        is_thinking = self.state.automaton["phase"] == budget.THINK
        text, sent = TextStream(self.tokenizer, thinking=is_thinking), 0
        cut = StopCut(self.tokenizer.token_bytes, self.request.stop_strings)
        try:
            while not self.state.done:
                self.engine.step()
                sent, new = len(tokens), tokens[sent:]
                released, part = cut.feed_all(new)
                yield from text.feed(released)
                yield from text.feed_bytes(part)
            yield from text.feed(cut.close())
            yield from text.close()
        finally:
            self.engine.abort([self.state])
            self.answer = answer(self.tokenizer, self.state.completion)


@dataclass
class ChatSession:
    """A conversation of several turns with an engine."""

    engine: Engine
    thinking: bool | None = None  # see `chat_request`, as for the next two
    budget: int | str | None = None
    sampling: SamplingParams | str | Mapping | None = None
    tools: Sequence[Mapping] | None = None  # function schemas
    options: dict[str, Any] = field(default_factory=dict)  # further fields of every Request
    choose_budget: ChooseBudget | None = None  # of the model, for automatic budgets
    messages: list[dict[str, Any]] = field(default_factory=list)  # the conversation so far

    def __post_init__(self) -> None:
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
            tokenizer_of(self.engine),
            messages,
            thinking=self.thinking,
            thinking_budget=self.budget,
            choose_budget=self.choose_budget,
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
