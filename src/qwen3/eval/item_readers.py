"""Reading the files of public suites, as their authors publish them, into items.

Each reader takes the files of a suite and raises ValueError naming the file, the row and the field
that is missing.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from qwen3.data.jsonl import place, read_rows
from qwen3.data.unpacked import Unpacked
from qwen3.eval.items import Item
from qwen3.rewards import Problem

log = logging.getLogger("qwen3")

Reader: TypeAlias = Callable[[Sequence[Path]], list[Item]]
PASSAGES = ("passage", "flores_passage", "context")  # fields of a text that comes first
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def rows(*fields: str, id: str | None = None) -> Reader:
    """A reader of JSON lines with `fields`; `id` names the field that is the item's name."""

    def read(files: Sequence[Path]) -> list[Item]:
        items = []
        for file in files:
            for number, row in read_rows(file, fields=fields):
                name = f"{stem(file)}/{number}" if id is None else str(row[id])
                items.append(Item(name, dict(row)))
        return items

    return read


def problems(read_file: Callable[[Path], list[Problem]]) -> Reader:
    """A reader of files that a family of `rewards` reads; the item holds its Problem."""

    def read(files: Sequence[Path]) -> list[Item]:
        return [
            Item(str(problem.answer.get("task_id", f"{stem(file)}/{number}")), {"problem": problem})
            for file in files
            for number, problem in enumerate(read_file(file))
        ]

    return read


def choices(
    question: str,
    options: Callable[[Mapping[str, Any]], list[str]],
    gold: Callable[[Mapping[str, Any]], int],
    *,
    id: str | None = None,
    keep: Callable[[Mapping[str, Any]], bool] = lambda row: True,
    subject: str | None = None,
) -> Reader:
    """A reader of multiple-choice questions in JSON lines.

    question: name of its field. options, gold: (row) -> the options without their letters, and the
    index of the right one. keep: which rows count. The item's fields are question, options, gold
    (a letter) and subject.
    """

    def read(files: Sequence[Path]) -> list[Item]:
        items = []
        for file in files:
            for number, row in read_rows(file, fields=(question,)):
                if not keep(row):
                    continue
                try:
                    texts, right = options(row), gold(row)
                    if not 0 <= right < len(texts) <= len(LETTERS):
                        raise ValueError(f"option {right} of {len(texts)} is right")
                except (KeyError, TypeError, ValueError, SyntaxError) as error:
                    raise ValueError(f"{place(file, number)}: {error}") from None
                fields = {
                    "question": row[question],
                    "passage": next((row[name] for name in PASSAGES if row.get(name)), ""),
                    "options": texts,
                    "gold": LETTERS[right],
                    "subject": str(row.get(subject, "")) if subject else stem(file),
                }
                name = f"{stem(file)}/{number}" if id is None else str(row[id])
                items.append(Item(name, fields))
        return items

    return read


def literal_list(value: Any) -> list[str]:
    """A list, or the text of a Python literal of one."""
    texts = ast.literal_eval(value) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)):
        raise ValueError(f"{str(value)[:60]!r} is no list of options")
    return [str(text) for text in texts]


def lettered(values: Sequence[str]) -> list[str]:
    """Options without the letters "(A)" that they begin with."""
    return [re.sub(r"^\([A-Z]\)\s*", "", value) for value in values]


def read_mgsm(files: Sequence[Path]) -> list[Item]:
    """MGSM: tab-separated (question, number), one file a language, `mgsm_LANGUAGE.tsv`."""
    items = []
    for file in files:
        language = stem(file).removeprefix("mgsm_")
        reader = csv.reader(io.StringIO(text_of(file)), delimiter="\t", quoting=csv.QUOTE_NONE)
        for number, row in enumerate(reader, 1):
            if len(row) != 2:
                raise ValueError(f"{place(file, number)}: {len(row)} columns; wanted are 2")
            fields = {"question": row[0], "gold": row[1], "language": language}
            items.append(Item(f"{language}/{number}", fields))
    return items


def read_bbh(files: Sequence[Path]) -> list[Item]:
    """BIG-Bench Hard: one JSON file a task, its exemplars in `cot-prompts/TASK.txt` beside it."""
    items = []
    for file in files:
        task = stem(file)
        exemplars = file.parent / "cot-prompts" / f"{task}.txt"
        if not exemplars.is_file():
            raise ValueError(f"{exemplars} is missing: it holds the exemplars of {task}")
        # The file begins with a canary and a line of dashes, which are no part of the prompt.
        prompt = text_of(exemplars).split("-----\n", 1)[-1].strip()
        for number, example in enumerate(_json(file, "examples")):
            fields = {"task": task, "exemplars": prompt, **example}
            items.append(Item(f"{task}/{number}", fields))
    return items


def read_programs(read_file: Callable[[Path], list[Problem]]) -> Reader:
    """A reader of coding files: the row's fields, and as `problem` the family's Problem of it."""

    def read(files: Sequence[Path]) -> list[Item]:
        items = []
        for file in files:
            by_id = {str(row["task_id"]): row for _, row in read_rows(file, fields=("task_id",))}
            for problem in read_file(file):
                name = str(problem.answer["task_id"])
                items.append(Item(name, {**by_id.pop(name), "problem": problem}))
            if by_id:
                log.warning("%s: %d left out: %s", file, len(by_id), ", ".join(by_id))
        return items

    return read


def read_squad(files: Sequence[Path]) -> list[Item]:
    """Extractive question answering in SQuAD's form (XQuAD, CMRC 2018)."""
    items = []
    for file in files:
        for article in _json(file, "data"):
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    fields = {
                        "context": paragraph["context"],
                        "question": question["question"],
                        "gold": [answer["text"] for answer in question["answers"]],
                        "language": stem(file).split(".")[-1],
                    }
                    items.append(Item(f"{stem(file)}/{question['id']}", fields))
    return items


def _json(file: Path, field: str) -> Any:
    try:
        content = json.loads(text_of(file))
        return content[field]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: no JSON with {field!r}: {error}") from None


def text_of(file: Path) -> str:
    """The text of a file, unpacked as its name ends."""
    plain = Unpacked(str(file))
    try:
        return bytes(plain.data).decode("utf-8-sig")
    finally:
        plain.close()


def stem(file: Path) -> str:
    """A file's name without the endings of its format and compression."""
    name = file.name
    for ending in (".gz", ".zst", ".jsonl", ".json", ".tsv", ".parquet"):
        name = name.removesuffix(ending)
    return name


def found(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files below `folder` that match one of the patterns, sorted; duplicates once."""

    def matches() -> Iterator[Path]:
        for pattern in patterns:
            for ending in ("", ".gz", ".zst"):
                yield from folder.glob(pattern + ending)

    return sorted(set(matches()))
