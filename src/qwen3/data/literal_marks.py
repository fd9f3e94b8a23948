"""Control tokens in the texts of a conversation that a folder's own template renders stay text.

A template gives one text, in which a <|im_end|> of its own and one that a user typed look alike. So
before rendering a mark, a private-use character that occurs nowhere else, is put inside each
control token of the given texts, and taken out of the rendered text again: a token around such a
place is text. In texts of system, user and tools, and in schemas, that holds for all added tokens;
in an assistant's message the tags of thoughts and calls are tokens, as the model wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from qwen3.data.chat_render import is_tool_result
from qwen3.data.tokenizer import Tokenizer

PRIVATE = (*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE))  # code points of private use


class MarkedConversation(NamedTuple):
    """A copy of a conversation with marks in its control tokens."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    mark: str  # the character


def with_marks(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping],
    tools: Sequence[Mapping] | None,
    template: str,
) -> MarkedConversation:
    """The conversation with marks. Raises ValueError for one that uses every private character."""
    texts = json.dumps([messages, tools], ensure_ascii=False, default=str) + template
    mark = next((chr(code) for code in PRIVATE if chr(code) not in texts), None)
    if mark is None:
        raise ValueError("the conversation uses every private-use character of Unicode")

    def literal(text: str) -> str:
        return _insert(text, mark, _literal_places(tokenizer, text))

    def assistant(text: str) -> str:
        matches = tokenizer.control_pattern.finditer(text)
        return _insert(text, mark, {match.start() + 1 for match in matches})

    marked_messages = [
        {
            key: value
            if key == "role"
            else _map_texts(value, assistant if message.get("role") == "assistant" else literal)
            for key, value in message.items()
        }
        for message in messages
    ]
    marked_tools = None if tools is None else [_map_texts(tool, literal) for tool in tools]
    return MarkedConversation(marked_messages, marked_tools, mark)


def _literal_places(tokenizer: Tokenizer, text: str) -> set[int]:
    """Where marks go in a text that is text throughout: behind the first character of each added
    token, and where the text's ends could complete one that the template or a neighbour begins."""
    places = {match.start() + 1 for match in tokenizer.added_pattern.finditer(text)}
    if is_tool_result(text):
        # Templates look for these tags at the ends of a text, so the marks go beside them.
        opening, closing = len("<tool_response>"), len(text) - len("</tool_response>")
        places = (places - {1, closing + 1}) | {opening, closing}
    edges = token_edges(tuple(tokenizer.added))
    lengths = range(1, min(edges.longest, len(text) + 1))
    if any(text[:n] in edges.tails for n in lengths):
        places.add(1)
    if any(text[-n:] in edges.heads for n in lengths):
        places.add(len(text) - 1)
    return places


def _insert(text: str, mark: str, places: set[int]) -> str:
    bounds = [0, *sorted(places), len(text)]
    return mark.join(text[a:b] for a, b in pairwise(bounds))


def without_marks(text: str, mark: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and the two characters around each, as ascending spans."""
    pieces = text.split(mark)
    spans, at = [], 0
    for piece in pieces[:-1]:
        at += len(piece)
        spans.append((at - 1, at + 1))
    return "".join(pieces), spans


class TokenEdges(NamedTuple):
    """Parts of added tokens that a text may have at its ends."""

    heads: frozenset[str]  # what a token begins with
    tails: frozenset[str]  # what a token ends with
    longest: int


@lru_cache(maxsize=8)
def token_edges(tokens: tuple[str, ...]) -> TokenEdges:
    """The proper parts at the ends of all tokens."""
    return TokenEdges(
        frozenset(token[:n] for token in tokens for n in range(1, len(token))),
        frozenset(token[n:] for token in tokens for n in range(1, len(token))),
        max(map(len, tokens), default=0),
    )


def _map_texts(value: Any, function: Callable[[str], str]) -> Any:
    """A tree of mappings and lists with `function` of every text, keys included."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {
            function(key) if isinstance(key, str) else key: _map_texts(item, function)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_map_texts(item, function) for item in value]
    return value
