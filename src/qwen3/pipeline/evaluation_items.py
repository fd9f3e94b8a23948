"""The questions of evaluation suites as JSON lines, for the step `decontaminate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwen3.eval import suites
from qwen3.eval.items import Item

# Fields that hold what is asked, the first that an item has.
QUESTIONS = ("question", "prompt", "problem", "query", "text", "input", "code", "premise", "turns")


def evaluation_items(names: Sequence[str], data: Path) -> Iterator[dict[str, str]]:
    """{suite, id, text} of all items of the named suites or groups whose files are below `data`.

    Suites that are made by a generator have no items that could leak, and are passed over.
    """
    present, _ = suites.present(suites.chosen(names), data)
    for suite in present:
        if suite.generate is None:
            for item in suite.items(data):
                if text := question_of(item):
                    yield {"suite": suite.name, "id": item.id, "text": text}


def question_of(item: Item) -> str:
    """The text that a model is asked, without instructions that all items share."""
    problem: Any = item.fields.get("problem")
    if problem is not None and not isinstance(problem, str):
        return str(problem.messages[-1]["content"])
    for name in QUESTIONS:
        value = item.fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], str):
            return "\n".join(map(str, value))
    return ""
