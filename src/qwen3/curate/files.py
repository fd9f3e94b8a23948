"""Problems and conversations as files: what curation hands to the stages.

Files are JSON lines or Parquet, local or URLs (`data.jsonl`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qwen3 import environments
from qwen3.curate.message_forms import read_messages
from qwen3.data import chat
from qwen3.data.chat_tools import read_tools
from qwen3.data.jsonl import place, read_rows, write_rows
from qwen3.rewards import Problem
from qwen3.rewards.response import REQUIRED_MODES

NEVER_EMPTY = ("gold", "tests")  # without them nothing would be right, or everything
FIELDS = tuple(field.name for field in dataclasses.fields(Problem))


def write_conversations(path: str | Path, samples: Iterable[Mapping]) -> None:
    """Write one {"messages": [...], "tools": [...] or None} a line, as `stages.sft` reads them."""
    write_rows(path, samples)


def read_problems(path: str | Path) -> list[Problem]:
    """The problems of a file that `write_problems` wrote; "messages" alone is enough for a prompt
    without a scorer. Raises ValueError naming file, line and what is wrong.
    """
    problems = []
    for number, row in read_rows(path, fields=["messages"]):
        try:
            problems.append(read_problem(row))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{place(path, number)}: {error}") from None
    if not problems:
        raise ValueError(f"{path} holds no problem")
    return problems


def read_problem(row: Mapping) -> Problem:
    """The problem of a row, its messages in any form of `message_forms`.

    Raises ValueError for a field that a problem does not have, messages that are no question, a
    task that does not exist, and an answer that is not the record of its family.
    """
    known = {**{"task": "", "answer": {}}, **chat.known_fields(row, FIELDS, "problem")}
    messages, _, tools = read_messages(known.get("messages"))
    problem = Problem(
        **{**known, "messages": messages, "tools": read_tools(known.get("tools") or tools)}
    )
    check_problem(problem)
    return problem


def check_problem(problem: Problem) -> None:
    """Raise ValueError for a problem that could not be asked or scored as it stands."""
    check_question(problem.messages)
    if not isinstance(problem.answer, Mapping):
        raise ValueError(f"answer {problem.answer!r:.80} is no object, the record of a task")
    difficulty = problem.difficulty
    if isinstance(difficulty, bool) or not isinstance(difficulty, int | float):
        raise ValueError(f"difficulty {difficulty!r:.80} is no number")
    if problem.mode not in REQUIRED_MODES:
        raise ValueError(f"mode {problem.mode!r:.80} is none of {', '.join(REQUIRED_MODES)}")
    if problem.task:
        _check_record(problem.task, problem.answer)


def check_question(messages: Sequence[Mapping]) -> None:
    """Raise ValueError unless the messages end with a question that is not empty."""
    chat.validate(messages, allow_control=True)
    last = messages[-1]
    if last["role"] not in ("user", "tool"):
        raise ValueError(f"the last message is the {last['role']}'s; wanted the user's")
    if not str(last.get("content") or "").strip():
        raise ValueError("the prompt is empty")


def _check_record(task: str, answer: Mapping) -> None:
    """Raise ValueError for an answer that the task could not score by."""
    record = environments.get(task).record
    if lacking := [name for name in record if name not in answer]:
        raise ValueError(
            f"answer: a problem of {task!r} has {', '.join(record)}; this one lacks "
            f"{', '.join(lacking)}"
        )
    for name, kind in record.items():
        value = answer[name]
        if kind in (str, list, dict) and not isinstance(value, kind):
            raise ValueError(f"answer: {name} {value!r:.80} is no {kind.__name__}")
        if name in NEVER_EMPTY and not value:
            raise ValueError(f"answer: {name} is empty")


def write_problems(path: str | Path, problems: Iterable[Problem]) -> None:
    """Write one problem a line, with all its fields."""
    write_rows(path, map(dataclasses.asdict, problems))
