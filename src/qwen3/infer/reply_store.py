"""Replies of models on disk, by the content of the question: none is paid for twice."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from qwen3.data.atomic import write_atomically
from qwen3.data.unpacked import filesystem
from qwen3.infer.model_client import Model, Question, Reply

FEWEST = 8  # questions of a call that must all fail before the model itself counts as down


def key_of(name: str, question: Any) -> str:
    """A hash of the model's name and the whole question, a value that JSON can hold."""
    text = json.dumps([name, question], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ReplyStore:
    """A file of replies (SQLite), a row each. It may serve several threads and processes."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(self._open()) as store, store:
            store.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT)")

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """The replies that are there, by key."""
        with closing(self._open()) as store:
            rows = (
                store.execute("SELECT key, reply FROM replies WHERE key = ?", (key,)).fetchone()
                for key in set(keys)
            )
            return dict(row for row in rows if row is not None)

    def add(self, replies: Iterable[tuple[str, str]]) -> None:
        """Keep (key, reply) pairs; of a key that two processes asked for, the first one stays."""
        with closing(self._open()) as store, store:
            store.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", replies)

    @property
    def dead_letters(self) -> Path:
        """The file of `bury`, beside the store."""
        return self.path.with_suffix(".dead.jsonl")

    def bury(self, letter: dict[str, Any]) -> None:
        """Append what is known of a question without a reply to the dead letters."""
        line = json.dumps(letter, ensure_ascii=False) + "\n"
        # One write to a file opened for appending: lines of several processes do not mix.
        file = os.open(self.dead_letters, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=60)


class ReplyBucket:
    """Replies under a URL such as gs://BUCKET/replies, an object each, as the workers of a cluster
    share no disk. Of a question that two ask at the same moment, the later reply stays."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._system, self._path = filesystem(self.url)

    def known(self, keys: Iterable[str]) -> dict[str, str]:
        """The replies that are there, by key."""
        places = {f"{self._path}/{key}.json": key for key in keys}
        # Others write there: a listing kept from before would hide what they wrote.
        self._system.invalidate_cache()
        objects = self._system.cat(list(places), on_error="return") if places else {}
        replies = {}
        for place, content in objects.items():
            if isinstance(content, bytes):
                replies[places[place]] = content.decode()
            elif not isinstance(content, FileNotFoundError):
                raise content  # such as no permission, after which everything would be asked again
        return replies

    def add(self, replies: Iterable[tuple[str, str]]) -> None:
        """Keep (key, reply) pairs."""
        for key, reply in replies:
            write_atomically(f"{self.url}/{key}.json", reply)

    def bury(self, letter: dict[str, Any]) -> None:
        """Keep what is known of a question without a reply, under dead/."""
        text = json.dumps(letter, ensure_ascii=False)
        write_atomically(f"{self.url}/dead/{letter['key']}.json", text)


def reply_store(place: str | Path) -> ReplyStore | ReplyBucket:
    """The store at a local path or URL."""
    return ReplyBucket(str(place)) if "://" in str(place) else ReplyStore(place)


class StoredModel:
    """A model whose every reply is stored as it comes, before the next one is waited for.

    open_model is called at the first question without a stored reply, so a run whose answers are
    all there needs no model. name: whatever decides a reply besides the question. A question that
    gets no reply goes to the dead letters, beside the other replies, with the reason.
    """

    def __init__(self, open_model: Callable[[], Model], name: str, place: str | Path):
        self._open_model, self._name, self.store = open_model, name, reply_store(place)
        self._model: Model | None = None
        self._lock = threading.Lock()  # two threads do not ask the same question at once

    def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        """Replies in order. Raises ConnectionError where the server is not there, or no question of
        FEWEST and more got a reply: that is not the questions' fault."""
        keys = [key_of(self._name, dataclasses.asdict(question)) for question in questions]
        with self._lock:
            by_key = dict(zip(keys, questions, strict=True))
            stored = self.store.known(keys)
            known = {key: _unpacked(text, by_key[key]) for key, text in stored.items()}
            new = {key: question for key, question in by_key.items() if key not in known}
            if new:
                known |= self._ask(new)
        return [known[key] for key in keys]

    def _ask(self, new: dict[str, Question]) -> dict[str, Reply]:
        self._model = self._model or self._open_model()
        keys, result = list(new), {}
        for index, reply in self._model(list(new.values())):
            key = keys[index]
            result[key] = reply
            if reply.text is not None:  # one that was cut is paid for as well
                self.store.add([(key, json.dumps([reply.text, reply.tokens, reply.finish]))])
            if reply.fault is not None:
                if isinstance(reply.fault, ConnectionRefusedError):
                    raise reply.fault
                self._bury(key, new[key], reply.fault)
        faults = [reply.fault for reply in result.values() if reply.fault is not None]
        if len(faults) == len(new) >= FEWEST:
            raise ConnectionError(f"none of {len(new)} questions got a reply: {faults[0]}")
        return result

    def _bury(self, key: str, question: Question, fault: Exception) -> None:
        letter = {
            "key": key,
            "model": self._name,
            "reason": f"{type(fault).__name__}: {fault}",
            "question": dataclasses.asdict(question),
        }
        self.store.bury(letter)


def _unpacked(text: str, question: Question) -> Reply:
    content, tokens, finish = json.loads(text)
    return Reply(content, tokens, finish, question.fault_of(finish))
