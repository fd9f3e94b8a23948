"""A user's problems: JSON lines, Parquet or a Hub data set, with column names of their choice.

    {"question": "2 + 2?", "answer": "4"}

is a problem as it stands; `columns={"prompt": "q", "reference": "info.gold"}` maps other names, and
a dot leads into an object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3.curate.files import check_problem, check_question, read_problem
from qwen3.curate.message_forms import MESSAGES, read_messages, with_system
from qwen3.data.chat_tools import read_tools
from qwen3.data.jsonl import place, read_rows
from qwen3.rewards import Problem, maths

# What a problem is made of, and the names that are understood without being told.
COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "question", "problem", "instruction", "query", "input"),
    "reference": (
        *("reference", "answer", "ground_truth", "reward_model.ground_truth", "solution"),
        *("gold", "target", "output", "label"),
    ),
    "system": ("system",),
    "messages": MESSAGES,
    "tools": ("tools",),
}
MISSING = object()
FILES = (".jsonl", ".json", ".parquet", ".gz", ".zst")


def read(
    source: str | Path | Iterable[Mapping[str, Any]],
    task: str,
    *,
    columns: Mapping[str, str] | None = None,
) -> list[Problem]:
    """Problems of `task` from a file, a Hub data set ("org/name" or "org/name:split") or rows.

    Raises ValueError naming file, line, field and the known names; FileNotFoundError saying what
    would be downloaded where the Hub cannot be reached.
    """
    _check_columns(columns or {})
    if not isinstance(source, str | Path):
        rows = [(f"row {i}", dict(row)) for i, row in enumerate(source)]
    else:
        rows = [(place(path, i), row) for path in _files(source) for i, row in read_rows(path)]
    problems = []
    for where, row in rows:
        try:
            problems.append(_problem(row, task, columns or {}))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{where}: {error}") from None
    if not problems:
        raise ValueError(f"{source} holds no problem")
    return problems


def held_out(problems: Sequence[Problem], share: float) -> tuple[list[Problem], list[Problem]]:
    """(training problems, held-out ones): `share` of them by a hash of the prompt, at least one.

    The same prompt is always on the same side, whatever else the file holds.
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out {share}: wanted a share of the problems, 0 to below 1")
    if share == 0:
        return list(problems), []
    ranked = sorted(problems, key=_key)
    count = max(1, round(share * len(problems)))
    cut = _key(ranked[count - 1])
    train = [problem for problem in problems if _key(problem) > cut]
    if not train:
        raise ValueError(f"held_out {share} of {len(problems)} problems leaves none to train on")
    return train, [problem for problem in problems if _key(problem) <= cut]


def _key(problem: Problem) -> str:
    text = json.dumps(problem.messages, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _problem(row: dict[str, Any], task: str, columns: Mapping[str, str]) -> Problem:
    if row.get("task") == task and isinstance(row.get("answer"), Mapping):
        return read_problem(row)  # the project's own form, as `curate.files` writes it
    messages, tools = _messages(row, columns)
    tools = read_tools(_value(row, "tools", columns) or tools)
    reference = _value(row, "reference", columns)
    check_question(messages)
    if task == "maths":
        messages, answer = _maths(messages, reference, row)
    else:
        answer = {"reference": reference, "row": row}
    problem = Problem(task, messages, answer, tools=tools)
    check_problem(problem)
    return problem


def _maths(messages: list[dict], reference: Any, row: dict[str, Any]) -> tuple[list[dict], dict]:
    """(the question with the form of its answer, the final answer out of a worked reference)."""
    if reference is None:
        raise ValueError(f"no reference answer; {_known('reference', row)}")
    if isinstance(reference, bool) or not isinstance(reference, str | int | float):
        raise ValueError(f"reference answer {reference!r:.80} is neither text nor a number")
    gold = str(reference).rpartition("####")[2].strip()
    gold = maths.boxed(gold) or gold
    if not gold:
        raise ValueError(f"the reference answer {reference!r:.80} is empty")
    *before, question = messages
    text = f"{question['content']} {maths.FORM}"
    return [*before, {**question, "content": text}], maths.problem(text, gold).answer


def _messages(row: dict[str, Any], columns: Mapping[str, str]) -> tuple[list[dict], Any]:
    """(messages of the prompt, tools that stand in its system message)."""
    messages = _value(row, "messages", columns)
    if messages is None:
        messages = _value(row, "prompt", columns)
    if messages is None:
        raise ValueError(f"no prompt; {_known('prompt', row)}")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    messages, _, tools = read_messages(messages)
    return with_system(messages, _value(row, "system", columns))[0], tools


def _value(row: dict[str, Any], kind: str, columns: Mapping[str, str]) -> Any:
    """The row's value of a kind of column; None where it has none of the understood names."""
    if kind in columns:
        value = _at(row, columns[kind])
        if value is MISSING:
            raise ValueError(f"no column {columns[kind]!r} (for {kind}); it has {sorted(row)}")
        return value
    values = (_at(row, name) for name in COLUMNS[kind])
    return next((value for value in values if value is not MISSING and value is not None), None)


def _at(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, "a.b" for field b of the object a; MISSING where there is none."""
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    inner = row.get(head)
    return _at(inner, rest) if dot and isinstance(inner, Mapping) else MISSING


def _known(kind: str, row: dict[str, Any]) -> str:
    return (
        f"understood are {', '.join(COLUMNS[kind])}, the row has {', '.join(sorted(row))}: "
        f"say columns={{'{kind}': ...}}"
    )


def _check_columns(columns: Mapping[str, str]) -> None:
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise ValueError(f"columns {unknown}: choose from {', '.join(COLUMNS)}")


def _files(source: str | Path) -> list[str]:
    """The files of a source: a path as it is, or those of a Hub data set's split."""
    text = str(source)
    if text.endswith(FILES) or Path(text).exists() or "://" in text:
        return [text]
    name, _, split = text.partition(":")
    if name.count("/") != 1 or name[0] in "./~":
        raise ValueError(
            f"{text!r}: there is no such file; give JSON lines, Parquet or a Hub data set such as "
            '"openai/gsm8k:train"'
        )
    return _download(name, split or "train")


def _download(name: str, split: str) -> list[str]:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            name, repo_type="dataset", allow_patterns=["*.parquet", "*.jsonl", "*.jsonl.gz"]
        )
    except (OSError, ValueError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise FileNotFoundError(
            f"{name!r} is no file here; as a data set of the Hub its split {split!r} would be "
            f"downloaded, which failed ({type(error).__name__}: "
            f"{str(error).strip().splitlines()[0]}). Without a network, run "
            f"`hf download --repo-type dataset {name}` where there is one, and give the files"
        ) from error
    paths = sorted(str(path) for path in Path(folder).rglob("*") if path.name.endswith(FILES))
    chosen = [path for path in paths if split in path.removeprefix(str(folder))]
    if not chosen:
        raise ValueError(f"{name}: no file of a split {split!r} among {paths}")
    return chosen
