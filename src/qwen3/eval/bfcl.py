"""BFCL v3, single turns in Python: calls compared with the benchmark's possible answers.

The rules are those of its abstract-syntax-tree checker: strings lose case, spaces and the signs
`,./-_*^`; an integer may stand for a float; an optional argument may be left out; a value of the
type that the possible answers have, where the schema says another one, is a variable's name and is
compared as it is. Calls are compared as data; nothing is executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from qwen3.data import chat
from qwen3.data.jsonl import read_rows
from qwen3.eval.item_readers import Reader, found, stem
from qwen3.eval.items import Item, Verdict

Call: TypeAlias = tuple[str, Mapping[str, Any]]  # a function's name and its arguments

TYPES: Mapping[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
NESTED = ("array", "tuple")  # types whose items are checked too
SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


# --- items


def reader(category: str) -> Reader:
    """A reader of BFCL_v3_<category>.json, with the possible answers of the folder beside it."""

    def read(files: Sequence[Path]) -> list[Item]:
        items = []
        for file in files:
            answers = {}
            for path in found(file.parent / "possible_answer", (f"{stem(file)}.json",)):
                rows = read_rows(path, fields=("id", "ground_truth"))
                answers = {row["id"]: row["ground_truth"] for _, row in rows}
            for _, row in read_rows(file, fields=("id", "question", "function")):
                if category not in UNANSWERED and row["id"] not in answers:
                    raise ValueError(f"{file}: no possible answer of {row['id']!r} is beside it")
                fields = {
                    "messages": row["question"][0],
                    "functions": row["function"],
                    "tools": [as_tool(function) for function in row["function"]],
                    "gold": answers.get(row["id"], []),
                    "category": category,
                }
                items.append(Item(row["id"], fields))
        return items

    return read


# Categories in which it counts only whether anything is called: no, or yes.
UNANSWERED = {"irrelevance": False, "live_irrelevance": False, "live_relevance": True}


def as_tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function of the benchmark as a tool with a JSON schema."""

    def schema(node: Any) -> Any:
        if isinstance(node, Mapping):
            plain = {key: schema(value) for key, value in node.items()}
            if isinstance(node.get("type"), str):
                plain["type"] = SCHEMA_TYPES.get(node["type"], node["type"])
            return plain
        return [schema(value) for value in node] if isinstance(node, list) else node

    return {"type": "function", "function": schema(function)}


# --- verdicts


def score(item: Item, answer: str) -> Verdict:
    """1 where the calls of the answer are among the possible ones."""
    calls = [(call.name, call.arguments) for call in chat.parse(answer).tool_calls]
    text = repr(calls) if calls else None
    if item["category"] in UNANSWERED:
        return Verdict(float(bool(calls) == UNANSWERED[item["category"]]), text or "no call")
    return Verdict(float(calls_fit(item["functions"], calls, item["gold"])), text)


def calls_fit(
    functions: Sequence[Mapping], calls: Sequence[Call], gold: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether each possible answer is met by another call, in any order, and none is left over."""
    if len(calls) != len(gold):
        return False
    left = list(calls)
    for possible in gold:
        [(name, arguments)] = possible.items()
        function = next((f for f in functions if f["name"] == name), None)
        fitting = (c for c in left if function is not None and call_fits(function, c, arguments))
        call = next(fitting, None)
        if call is None:
            return False
        left.remove(call)
    return True


def call_fits(function: Mapping, call: Call, possible: Mapping[str, Sequence]) -> bool:
    """Whether a call names the function, and its arguments are among the possible ones."""
    name, arguments = call
    schema = function["parameters"]
    if name != function["name"] or not isinstance(arguments, Mapping):
        return False
    if any(required not in arguments for required in schema.get("required", ())):
        return False
    for key, value in arguments.items():
        if key not in schema["properties"] or key not in possible:
            return False
        if not _value_fits(schema["properties"][key], value, possible[key]):
            return False
    # "" among the possible values says that the argument may be left out.
    return all(key in arguments or "" in values for key, values in possible.items())


def _value_fits(schema: Mapping, value: Any, possible: Sequence) -> bool:
    expected: Any = TYPES[schema["type"]]
    nested = TYPES[schema["items"]["type"]] if schema["type"] in NESTED else None
    if expected is float and type(value) is int:
        value = float(value)
    fits, is_variable = _type_fits(value, possible, expected, nested)
    if not fits:
        return False
    if is_variable:
        return value in possible
    if expected is dict:
        return _dict_fits(value, possible)
    if expected is list and nested is dict:
        return any(_dicts_fit(value, answer) for answer in possible)
    if expected is list:
        return [_plain(v) for v in value] in [[_plain(v) for v in answer] for answer in possible]
    if expected is str:
        return _plain(value) in [_plain(answer) for answer in possible if type(answer) is str]
    return value in possible


def _type_fits(value: Any, possible: Sequence, expected: Any, nested: Any) -> tuple[bool, bool]:
    """(whether the type is right, whether the value is a variable's name)."""
    answered = next((type(answer) for answer in possible if answer != ""), None)
    if type(value) is expected:
        is_variable = answered is not None and answered is not expected
        if nested is None:
            return True, is_variable
        fits = any(
            not isinstance(answer, list)
            or all(_type_fits(v, answer, nested, None)[0] for v in value)
            for answer in possible
        )
        return fits, is_variable
    return answered is not None and type(value) is answered, True


def _dict_fits(value: Mapping, possible: Sequence) -> bool:
    def fits(answer: Mapping[str, Sequence]) -> bool:
        if any(key not in answer for key in value):
            return False
        known = all(_plain(v) in [_plain(a) for a in answer[key]] for key, v in value.items())
        return known and all(key in value or "" in values for key, values in answer.items())

    return any(fits(answer) for answer in possible if answer != "")


def _dicts_fit(values: Sequence, answer: Sequence) -> bool:
    if len(values) != len(answer):
        return False
    return all(_dict_fits(value, [one]) for value, one in zip(values, answer, strict=True))


def _plain(value: Any) -> Any:
    """A string without case and the signs that do not count; anything else as it is."""
    if not isinstance(value, str):
        return value
    return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
