"""The interface of a generator as rollouts, evaluation and data work use it.

An external server can take the engine's place by having these members. Prompts and answers are
token ids throughout, because text that is decoded and encoded again need not give the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.request_state import RequestState, TokenChunk
from qwen3.infer.requests import Completion, Request


@runtime_checkable
class RolloutBackend(Protocol):
    """What `infer.engine.Engine` gives to those who only want answers."""

    @property
    def version(self) -> int:
        """Version of the weights that generate the next token, e.g. the optimizer step."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of prompts and answers; None for a backend that knows ids only."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """A completion for each request, in their order. ValueError for a request that cannot be
        served, before any is begun.
        """
        ...

    def stream(self, requests: Sequence[Request]) -> Iterator[TokenChunk]:
        """New tokens as they come; closing the iterator aborts what is unfinished."""
        ...

    def update(self, params: Any, version: int) -> None:
        """New weights, from the next token on."""
        ...


@runtime_checkable
class TurnBackend(RolloutBackend, Protocol):
    """A backend that takes new requests while others are worked on, as the engine does: turns of
    many conversations go on beside each other.
    """

    @property
    def max_length(self) -> int:
        """Tokens of a conversation, at most."""
        ...

    def submit(self, requests: Sequence[Request]) -> list[RequestState]:
        """Queue requests; `step` works on them. ValueError for one that cannot be served."""
        ...

    def step(self) -> None:
        """Work on the requests for a while; those that are done then say so."""
        ...

    def abort(self, states: Sequence[RequestState]) -> None:
        """Give requests up; those that are finished are no error."""
        ...


def completions(backend: TurnBackend, requests: Sequence[Request]) -> list[Completion]:
    """`RolloutBackend.generate` of a backend that takes requests on the way."""
    states = backend.submit(requests)
    try:
        while not all(state.done for state in states):
            backend.step()
    finally:
        backend.abort(states)
    return [state.completion for state in states]


def tokenizer_of(backend: RolloutBackend) -> Tokenizer:
    """The backend's tokenizer. ValueError where it has none to read and write text with."""
    if backend.tokenizer is None:
        raise ValueError("this needs an engine with a tokenizer to read and write text with")
    return backend.tokenizer
