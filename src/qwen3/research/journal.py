"""The journal of a research: every question and every call with its answer, in order.

A run that was killed anywhere reads it again and asks only what has no answer there. What has been
spent, in tokens and seconds, is counted from the journal too, so that decisions by the budget are
the same again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from qwen3.config import differences
from qwen3.train import workdir_lock


@dataclass
class Spent:
    """What the entries used so far have cost."""

    tokens: int = 0  # of prompts and answers
    seconds: float = 0.0  # of waiting for the model; not for the user
    calls: int = 0  # of the model


class Journal:
    """`journal.jsonl` in a folder, locked while it is open.

    settings: what changes the answers. Raises ValueError where the folder holds another research,
    WorkdirError where another process has it open.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.spent = folder / "journal.jsonl", Spent()
        self._lock = workdir_lock.lock(epath.Path(folder))
        try:
            self._entries = {entry["name"]: entry for entry in self._read()}
            stored = self._entries.get("settings", {}).get("result")
            plain = json.loads(json.dumps(settings))
            if stored is None:
                self._append({"name": "settings", "result": plain})
            elif changes := differences(stored, plain):
                raise ValueError(
                    f"{folder} holds another research ({'; '.join(changes)}); choose another "
                    "--out, or the same settings to go on"
                )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other processes have the folder."""
        workdir_lock.unlock(self._lock)

    def once(self, name: str, request: Any, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored result of `name`, or that of `act()`, stored before it is returned.

        A result's "tokens" are added to what is spent, and the seconds of `act` where it has them.
        Raises ValueError where another request was stored under the name.
        """
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
        entry = self._entries.get(name)
        if entry is None:
            start = time.monotonic()
            result = act()
            seconds = round(time.monotonic() - start, 6)
            entry = {"name": name, "request": digest, "seconds": seconds, "result": result}
            self._append(entry)
        elif entry["request"] != digest:
            raise ValueError(
                f"{self.path}: {name} was asked otherwise there (by another version of the "
                "program?); choose another --out"
            )
        result = entry["result"]
        if "tokens" in result:
            self.spent.tokens += result["tokens"]
            self.spent.seconds += entry["seconds"]
            self.spent.calls += 1
        return result

    def _read(self) -> list[dict[str, Any]]:
        """The stored entries. A last line that was cut off by a kill is dropped."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(complete))
        try:
            return [json.loads(line) for line in complete.splitlines()]
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged ({error}); choose another --out") from None

    def _append(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries[entry["name"]] = entry
