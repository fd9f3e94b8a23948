"""The one way in which research asks a model: our engine, or an OpenAI-compatible URL."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from qwen3.research.journal import Journal

if TYPE_CHECKING:  # which imports jax; a URL does without
    from qwen3.infer.language_model import LanguageModel

Messages: TypeAlias = list[dict[str, str]]
KEYS = ("QWEN3_API_KEY", "OPENAI_API_KEY")  # environment variables of the URL's key
RETRIES = 3  # of a call to a URL, with growing pauses
SECONDS = 600.0  # longest call to a URL
AGAIN = "That was not the JSON that was asked for. Reply with the JSON alone."


class Reply(NamedTuple):
    """What a model answered: the text after its thought."""

    text: str
    tokens: int  # of prompt and answer together, thinking included


Ask: TypeAlias = Callable[[Messages, int], Reply]  # (messages, longest answer in tokens)


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
    """Asks a server, by OpenAI's client. name: of the model; None: the first one it has.

    Raises ValueError for a server that refuses a request, ConnectionError for one that cannot be
    reached or fails, after RETRIES.
    """
    if importlib.util.find_spec("openai") is None:
        raise ValueError("openai missing: pip install 'qwen3[research]'")
    import openai

    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "none")
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=RETRIES, timeout=SECONDS)

    def called(send: Callable[[], Any]) -> Any:
        try:
            return send()
        except (openai.APIConnectionError, openai.InternalServerError) as error:
            raise ConnectionError(f"no answer from {url}: {error}") from None
        except (openai.OpenAIError, ValueError) as error:  # ValueError: no JSON came back
            raise ValueError(f"{url} refused the request: {error}") from None

    chosen: list[str] = [] if name is None else [name]

    def ask(messages: Messages, max_tokens: int) -> Reply:
        if not chosen:
            models = called(lambda: list(client.models.list()))
            if not models:
                raise ValueError(f"{url} names no model: give --url-model")
            chosen.append(models[0].id)
        result = called(
            lambda: client.chat.completions.create(
                model=chosen[0],
                messages=cast(Any, messages),
                max_tokens=max_tokens,
                seed=seed,
            )
        )
        if not getattr(result, "choices", None):
            raise ValueError(f"{url} sent an answer without choices")
        text = result.choices[0].message.content or ""
        tokens = result.usage.total_tokens if result.usage else _estimate(messages, text)
        return Reply(text.rpartition("</think>")[2], tokens)

    return ask


def _estimate(messages: Messages, text: str) -> int:
    """Tokens of a call whose server does not count them: a quarter of the characters."""
    return (sum(len(message["content"]) for message in messages) + len(text)) // 4


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
            return self._ask(messages, longest)._asdict()

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
