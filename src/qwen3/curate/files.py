"""JSON lines of conversations and problems: what curation hands to the stages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from qwen3 import rewards
from qwen3.data import chat
from qwen3.rewards import Problem


def write_conversations(path: str | Path, samples: Iterable[Mapping]) -> None:
    """One {"messages": [...], "tools": [...] or None} a line, as `stages.sft` reads them."""
    _write(path, samples)


def numbered_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """(number from 1, line). Only newlines end a line: `splitlines` cuts texts at U+2028 too."""
    with Path(path).open(encoding="utf-8", newline="\n") as file:
        yield from enumerate(file, 1)


def read_problems(path: str | Path) -> list[Problem]:
    """From JSON lines, as `write_problems` makes them; "messages" alone is enough for a prompt
    without a scorer. Raises ValueError naming file and line.
    """
    found = []
    for number, line in numbered_lines(path):
        try:
            problem = Problem(**{"task": "", "answer": {}, **json.loads(line)})
            chat.validate(problem.messages, allow_control=True)
            if problem.task:
                rewards.get(problem.task)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        found.append(problem)
    if not found:
        raise ValueError(f"{path} holds no problem")
    return found


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    _write(path, map(dataclasses.asdict, problems))


def _write(path: str | Path, records: Iterable[Mapping]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    Path(path).write_text("".join(lines), encoding="utf-8")
