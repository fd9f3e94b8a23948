"""Steps that ask a model: what they have in common.

A step is a generator of one record: it yields lists of questions, is sent their replies, and
returns the changed record. `together` advances the generators of many records side by side, so that
a server or engine is asked many questions at once, while each step reads like straight text.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypeAlias

import xxhash

from qwen3.infer.model_client import (
    AnswerCut,
    ChatServer,
    EngineModel,
    Model,
    Question,
    Reply,
    after_thought,
)
from qwen3.infer.reply_store import StoredModel
from qwen3.pipeline.text_record import TextRecord

Talk: TypeAlias = Generator[list[Question], list[Reply], TextRecord]


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """The option `ask` of a step: which model it asks, and where the answers are kept."""

    model: str  # its name at the server; of our engine a folder, run or Hub name
    store: str  # of all answers: a local file (SQLite), or a URL under which each is an object
    url: str = ""  # of a server with OpenAI's interface, ".../v1"; "" for our engine
    thinking: bool = False  # whether our engine thinks before it answers
    slots: int = 32  # questions that are asked at once
    timeout: float = 300.0  # seconds until a call to a server is given up
    retries: int = 6  # of a call to a server, with pauses that double
    tokens_per_second: float = 1_000.0  # that the model writes, all slots together, for estimates

    def __post_init__(self) -> None:
        if not self.model or not self.store:
            raise ValueError(f"ask: model {self.model!r} and store {self.store!r} are needed")
        if self.tokens_per_second <= 0:
            raise ValueError(f"ask: tokens_per_second {self.tokens_per_second} is not above 0")
        if self.slots < 1 or self.timeout <= 0 or self.retries < 0:
            raise ValueError(f"ask: slots, timeout of {self} must be above 0, retries 0 or more")

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> ModelChoice:
        """From a recipe's object. Raises ValueError naming an unknown or missing field."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(fields) - known):
            raise ValueError(f"ask: unknown {unknown}; choose from {sorted(known)}")
        if missing := sorted({"model", "store"} - set(fields)):
            raise ValueError(f"ask: {missing} missing")
        return cls(**fields)

    def open(self) -> Model:
        """The model itself, loaded or connected to."""
        if self.url:
            return ChatServer(
                self.url,
                self.model,
                slots=self.slots,
                timeout=self.timeout,
                retries=self.retries,
            )
        from qwen3.infer.language_model import load  # which imports jax

        model = load(self.model)
        engine = model.engine(slots=self.slots)
        return EngineModel(engine, vocab=model.config.vocab, slots=self.slots)


@functools.lru_cache(4)
def opened(choice: ModelChoice) -> StoredModel:
    """The model with its store, one in a process; it is loaded at the first new question."""
    return StoredModel(choice.open, choice.model, choice.store)


def together(
    ask: Callable[[Sequence[Question]], list[Reply]], talks: Sequence[Talk]
) -> list[TextRecord | Exception]:
    """What each talk returns, or the exception that ended it.

    A model that is down ends all, by its error.
    """
    results: dict[int, TextRecord | Exception] = {}
    advance: dict[int, Callable[[], list[Question]]] = {i: t.__next__ for i, t in enumerate(talks)}
    while advance:
        pending: dict[int, list[Question]] = {}
        for i, step in advance.items():
            try:
                pending[i] = step()
            except StopIteration as end:
                results[i] = end.value
            except Exception as error:  # whatever a text or an answer does to a step
                results[i] = error
        replies = iter(ask([question for batch in pending.values() for question in batch]))
        advance = {
            i: functools.partial(talks[i].send, [next(replies) for _ in batch])
            for i, batch in pending.items()
        }
    return [results[i] for i in range(len(talks))]


def texts(answers: Sequence[Reply]) -> list[str]:
    """The texts of replies without the thoughts before them. Raises the first fault among them, and
    AnswerCut for a text that ended at max_tokens."""
    for answer in answers:
        if answer.fault is not None:
            raise answer.fault
        if answer.finish == "length":
            raise AnswerCut("the answer was cut at max_tokens")
    return [after_thought(answer.text or "") for answer in answers]


class ModelStep:
    """A step of the recipe that asks a model about many records at once."""

    def __init__(self, choice: ModelChoice, talk: Callable[[TextRecord], Talk]):
        self.choice, self.talk = choice, talk

    def many(self, records: Sequence[TextRecord]) -> list[TextRecord | Exception]:
        """The records after the step, in order; an exception for one that it failed at."""
        return together(opened(self.choice), [self.talk(record) for record in records])


def question(
    choice: ModelChoice,
    instruction: str,
    text: str,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    schema: Mapping[str, Any] | None = None,
) -> Question:
    """A question about a text, which stands apart from the instruction as data."""
    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": text}]
    return Question(
        messages,
        max_tokens,
        temperature=temperature,
        seed=seed,
        thinking=choice.thinking,
        schema=schema,
    )


def seed_of(record: TextRecord, *salt: Any) -> int:
    """31 bits that depend on the record and the salt alone, so a repeat asks the same."""
    text = "\x1f".join(map(str, (record.id, *salt)))
    return xxhash.xxh3_64_intdigest(text.encode()) % 2**31


def object_schema(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object with exactly these fields."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
