"""Problems and conversations as files: what curation hands to the stages.

Files are JSON lines or Parquet, local or URLs (`data.jsonl`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from qwen3 import rewards
from qwen3.data import chat
from qwen3.data.chat_tools import read_tools
from qwen3.data.jsonl import place, read_rows, write_rows
from qwen3.rewards import Problem


def write_conversations(path: str | Path, samples: Iterable[Mapping]) -> None:
    """Write one {"messages": [...], "tools": [...] or None} a line, as `stages.sft` reads them."""
    write_rows(path, samples)


def read_problems(path: str | Path) -> list[Problem]:
    """The problems of a file that `write_problems` wrote; "messages" alone is enough for a prompt
    without a scorer. Raises ValueError naming file, line and what is wrong.
    """
    problems = []
    known = [field.name for field in dataclasses.fields(Problem)]
    for number, row in read_rows(path, fields=["messages"]):
        try:
            row = chat.known_fields(row, known, "problem")
            tools = read_tools(row.get("tools"))
            problem = Problem(**{"task": "", "answer": {}, **row, "tools": tools})
            chat.validate(problem.messages, allow_control=True)
            if problem.task:
                rewards.get(problem.task)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{place(path, number)}: {error}") from None
        problems.append(problem)
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write one problem a line, with all its fields."""
    write_rows(path, map(dataclasses.asdict, problems))
