"""What a judge asks: the own engine in process, or a server with OpenAI's interface.

Replies are kept on disk by the content of the question, so that a run that goes on, and an answer
that comes again, ask nothing twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3.infer.backend import RolloutBackend
from qwen3.infer.model_client import ChatServer, EngineModel, Model, Question, Reply, replies
from qwen3.infer.reply_store import ReplyStore, key_of
from qwen3.rewards.judge import Ask, Messages

log = logging.getLogger("qwen3")


@dataclass(frozen=True)
class JudgeSettings:
    """The model that judges. Off without a url and a model."""

    url: str = ""  # of a server with OpenAI's interface, ".../v1"; "" for the own engine
    model: str = ""  # its name at the server; for the own engine a folder or run
    thinking: bool = False  # whether the own engine thinks before it judges
    max_tokens: int = 512  # of a reply
    slots: int = 32  # questions that are asked at once
    timeout: float = 60.0  # seconds until a call to a server is given up
    retries: int = 3  # of a call to a server, with growing pauses
    store: str = ""  # file of all replies so far; "" for one in the run's workdir

    def __post_init__(self) -> None:
        if self.url and not self.model:
            raise ValueError(f"judge.url {self.url} without judge.model: which of its models?")
        if min(self.max_tokens, self.slots) < 1 or self.timeout <= 0 or self.retries < 0:
            raise ValueError(
                f"max_tokens, slots, timeout of {self} must be above 0, retries 0 or more"
            )

    @property
    def off(self) -> bool:
        return not self.model


def of_engine(backend: RolloutBackend, settings: JudgeSettings) -> Ask:
    """Asks a model in process, greedily. What it cannot finish has no reply."""
    ask = _asking(EngineModel(backend, slots=settings.slots), settings)
    return lambda conversations: [
        None if reply.fault or reply.finish == "length" else reply.text
        for reply in ask(conversations)
    ]


def of_url(settings: JudgeSettings) -> Ask:
    """Asks a server. A call that fails after its retries has no reply.

    The first failure of a batch is logged with its reason. Raises ValueError where the client is
    not installed.
    """
    server = ChatServer(
        settings.url,
        settings.model,
        slots=settings.slots,
        timeout=settings.timeout,
        retries=settings.retries,
    )
    ask = _asking(server, settings)

    def texts(conversations: Sequence[Messages]) -> list[str | None]:
        results = ask(conversations)
        lost = [reply for reply in results if not reply.text]
        if lost:
            log.error(
                "judge %s gave no reply to %d of %d questions: %s",
                *(settings.url, len(lost), len(results), lost[0].fault or "an empty message"),
            )
        return [reply.text or None for reply in results]

    return texts


def _asking(model: Model, settings: JudgeSettings) -> Callable[[Sequence[Messages]], list[Reply]]:
    def ask(conversations: Sequence[Messages]) -> list[Reply]:
        return replies(
            model,
            [
                Question(messages, settings.max_tokens, thinking=settings.thinking)
                for messages in conversations
            ],
        )

    return ask


def remembered(ask: Ask, path: str | Path, name: str) -> Ask:
    """`ask` with its replies on disk; what got none is asked again. name: of the model."""
    store, lock = ReplyStore(path), threading.Lock()

    def stored(conversations: Sequence[Messages]) -> list[str | None]:
        keys = [key_of(name, messages) for messages in conversations]
        with lock:
            known: dict[str, str | None] = dict(store.known(keys))
            new = {k: m for k, m in zip(keys, conversations, strict=True) if k not in known}
            fresh = dict(zip(new, ask(list(new.values())), strict=True)) if new else {}
            store.add((key, reply) for key, reply in fresh.items() if reply is not None)
        return [(known | fresh)[key] for key in keys]

    return stored
