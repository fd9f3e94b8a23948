"""What a judge asks: the own engine in process, or a server with OpenAI's interface.

Replies are kept on disk by the content of the question, so that a run that goes on, and an answer
that comes again, ask nothing twice.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from qwen3.data.chat_prompt import chat_prompt_ids
from qwen3.infer.backend import RolloutBackend, tokenizer_of
from qwen3.infer.requests import PRESETS, Request
from qwen3.rewards.judge import Ask, Messages

log = logging.getLogger("qwen3")

KEYS = ("QWEN3_API_KEY", "OPENAI_API_KEY")  # environment variables of a server's key


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
    """Asks a model in process, greedily."""
    tokenizer = tokenizer_of(backend)

    def ask(conversations: Sequence[Messages]) -> list[str | None]:
        requests = [
            Request(
                chat_prompt_ids(tokenizer, messages, enable_thinking=settings.thinking),
                sampling=PRESETS["greedy"],
                max_tokens=settings.max_tokens,
                prompt_id=number,
            )
            for number, messages in enumerate(conversations)
        ]
        completions = backend.generate(requests)
        ends = tokenizer.stop_ids
        return [
            None
            if c.error or c.finish == "length"
            else tokenizer.decode([token for token in c.tokens if token not in ends])
            for c in completions
        ]

    return ask


def of_url(settings: JudgeSettings) -> Ask:
    """Asks a server, by OpenAI's client. A call that fails after its retries has no reply.

    The first failure of a batch is logged with its reason. Raises ValueError where the client is
    not installed.
    """
    if importlib.util.find_spec("openai") is None:
        raise ValueError("a judge behind a URL needs openai: pip install 'qwen3[judge]'")
    import openai

    key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "none")
    client = openai.OpenAI(
        base_url=settings.url,
        api_key=key,
        timeout=settings.timeout,
        max_retries=settings.retries,
    )

    def reply(messages: Messages) -> tuple[str | None, str]:
        try:
            result = client.chat.completions.create(
                model=settings.model,
                messages=cast(Any, messages),
                max_tokens=settings.max_tokens,
                temperature=0.0,
            )
            return result.choices[0].message.content, ""
        except (openai.OpenAIError, ValueError, LookupError, TypeError, AttributeError) as error:
            return None, f"{type(error).__name__}: {error}"  # the last four: no answer of that form

    def ask(conversations: Sequence[Messages]) -> list[str | None]:
        with ThreadPoolExecutor(settings.slots) as pool:
            replies = list(pool.map(reply, conversations))
        faults = [fault for text, fault in replies if text is None]
        if faults:
            log.error(
                "judge %s gave no reply to %d of %d questions: %s",
                *(settings.url, len(faults), len(replies), faults[0] or "an empty message"),
            )
        return [text for text, _ in replies]

    return ask


class ReplyStore:
    """Replies on disk, a row each, by a hash of the model's name and the whole question.

    One file may serve several runs and threads. What got no reply is not kept.
    """

    def __init__(self, path: str | Path, ask: Ask, name: str):
        self._path, self._ask, self._name = Path(path), ask, name
        self._lock = threading.Lock()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as store, store:
            store.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")

    def __call__(self, conversations: Sequence[Messages]) -> list[str | None]:
        keys = [self._key(messages) for messages in conversations]
        with self._lock, closing(self._open()) as store:
            known = self._known(store, keys)
            new = {k: m for k, m in zip(keys, conversations, strict=True) if k not in known}
            replies = dict(zip(new, self._ask(list(new.values())), strict=True)) if new else {}
            with store:
                rows = [(key, reply) for key, reply in replies.items() if reply is not None]
                store.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?)", rows)
        return [known.get(key, replies.get(key)) for key in keys]

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=60)

    def _key(self, messages: Messages) -> str:
        text = json.dumps([self._name, messages], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _known(self, store: sqlite3.Connection, keys: Sequence[str]) -> dict[str, str]:
        found = (
            store.execute("SELECT key, reply FROM replies WHERE key = ?", (key,)).fetchone()
            for key in set(keys)
        )
        return dict(row for row in found if row is not None)
