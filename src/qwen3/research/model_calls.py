"""The one way in which research asks a model: our engine, or an OpenAI-compatible URL."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from qwen3.infer.model_client import ChatServer, Messages, Question, Reply, after_thought
from qwen3.research.journal import Journal

if TYPE_CHECKING:  # which imports jax; a URL does without
    from qwen3.infer.language_model import LanguageModel

RETRIES = 3  # of a call to a URL, with growing pauses
SECONDS = 600.0  # longest call to a URL
AGAIN = "That was not the JSON that was asked for. Reply with the JSON alone."


# (messages, longest answer in tokens) -> the text after the thought
Ask: TypeAlias = Callable[[Messages, int], Reply]


def of_engine(model: LanguageModel, *, thinking: bool | None = None, seed: int = 0) -> Ask:
    """Asks a loaded model. Raises ValueError for a prompt that its context does not hold."""

    def ask(messages: Messages, max_tokens: int) -> Reply:
        answer: Any = model.chat(messages, thinking=thinking, max_tokens=max_tokens, seed=seed)
        if answer.completion.error:
            raise ValueError(f"the model cannot answer: {answer.completion.error}")
        tokens = len(answer.completion.request.prompt) + len(answer.completion.tokens)
        return Reply(answer.content, tokens)

    return ask


def of_url(url: str, name: str | None = None, *, seed: int = 0) -> Ask:
    """Asks a server. name: of the model; None: the first one it has.

    Raises ValueError for a server that refuses a request, ConnectionError for one that cannot be
    reached or fails, after RETRIES.
    """
    server = ChatServer(url, name or "", timeout=SECONDS, retries=RETRIES)

    def ask(messages: Messages, max_tokens: int) -> Reply:
        reply = server.reply(Question(messages, max_tokens, temperature=None, seed=seed))
        if reply.fault is not None:
            raise reply.fault
        return reply._replace(text=after_thought(reply.text or ""))

    return ask


class ModelCalls:
    """Calls by name, each made once (`Journal`), within the budget, and read as JSON.

    max_tokens: longest answer. budget: tokens and seconds of all calls, None for no limit.
    """

    def __init__(
        self,
        journal: Journal,
        ask: Ask,
        *,
        max_tokens: int,
        tokens: int | None = None,
        seconds: float | None = None,
    ):
        self.journal, self._ask, self._max_tokens = journal, ask, max_tokens
        self._tokens, self._seconds = tokens, seconds
        self.faults: Counter[str] = Counter()  # what was left out of the report, and why

    def is_spent(self, share: float = 1.0) -> bool:
        """Whether this share of the budget is used up."""
        spent = self.journal.spent
        return (self._tokens is not None and spent.tokens >= share * self._tokens) or (
            self._seconds is not None and spent.seconds >= share * self._seconds
        )

    def items(self, name: str, messages: Messages, fields: Sequence[str]) -> list[dict[str, Any]]:
        """The objects with all `fields` in the JSON list that the model replies with.

        A reply without a list is asked for again once; the second one counts as a fault, as do
        objects that lack a field. [] where nothing could be used.
        """
        objects = None
        for attempt in (name, f"{name}/again"):
            text = self._text(attempt, messages)
            objects = json_list(text)
            if objects is not None or self.is_spent():
                break
            reply = {"role": "assistant", "content": text}
            messages = [*messages, reply, {"role": "user", "content": AGAIN}]
        if objects is None:
            self.faults["replies without the JSON that was asked for"] += 1
            return []
        usable = [item for item in objects if isinstance(item, dict) and set(fields) <= set(item)]
        if len(usable) < len(objects):
            self.faults["objects in replies that lack a field"] += len(objects) - len(usable)
        return usable

    def _text(self, name: str, messages: Messages) -> str:
        longest = self._max_tokens
        if self._tokens is not None:  # a call may not take much more than what is left
            longest = min(longest, max(64, self._tokens - self.journal.spent.tokens))

        def act() -> dict[str, Any]:
            reply = self._ask(messages, longest)
            return {"text": reply.text, "tokens": reply.tokens}

        return self.journal.once(name, [messages, longest], act)["text"]


def json_list(text: str) -> list[Any] | None:
    """The first list of objects that a text holds as JSON, [] for an empty one; None for none."""
    decoder = json.JSONDecoder()
    empty: list[Any] | None = None
    for start in re.finditer(r"\[\s*(?=[{\]])", text):
        try:
            value, _ = decoder.raw_decode(text, start.start())
        except ValueError:
            continue
        except RecursionError:  # thousands of brackets: what follows is nested as deep
            break
        if value:
            return value
        empty = []
    return empty
