"""Structured output: facts of a short text as JSON by a schema, CSV, Markdown table or tags.

The whole answer must be the document; JSON must fit the schema and hold the facts exactly, types
included.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeAlias

import jsonschema

from qwen3.rewards.task import Problem, Task, ask, levels

# field name -> (JSON type, draw of a value)
Fields: TypeAlias = Mapping[str, tuple[str, Callable[[Random], Any]]]
Cells: TypeAlias = list[list[str]]  # a table: rows of cells, header first

PEOPLE = ("Ana", "Bela", "Chen", "Dora", "Emil", "Faye", "Goran", "Hana")
# split -> domain -> (sentence, fields)
DOMAINS: dict[str, dict[str, tuple[str, Fields]]] = {
    "train": {
        "order": (
            "{customer} ordered {count} {item} for {price} euros; paid: {paid}.",
            {
                "customer": ("string", lambda r: r.choice(PEOPLE)),
                "count": ("integer", lambda r: r.randint(1, 40)),
                "item": ("string", lambda r: r.choice(("lamps", "chairs", "pens", "mugs", "bags"))),
                "price": ("number", lambda r: r.randint(100, 9999) / 100),
                "paid": ("boolean", lambda r: r.random() < 0.5),
            },
        ),
        "patient": (
            "{name}, aged {age}, in room {room}, weighs {weight} kilos; fever: {fever}.",
            {
                "name": ("string", lambda r: r.choice(PEOPLE)),
                "age": ("integer", lambda r: r.randint(1, 99)),
                "room": ("string", lambda r: f"{r.choice('ABC')}{r.randint(1, 30)}"),
                "weight": ("number", lambda r: r.randint(300, 1100) / 10),
                "fever": ("boolean", lambda r: r.random() < 0.5),
            },
        ),
    },
    "heldout": {
        "flight": (
            "Flight {code} to {city} leaves from gate {gate} after {delay} hours of delay; "
            "full: {full}.",
            {
                "code": ("string", lambda r: f"{r.choice('KLXZ')}{r.randint(100, 999)}"),
                "city": ("string", lambda r: r.choice(("Oslo", "Quito", "Lima", "Cairo", "Kyoto"))),
                "gate": ("integer", lambda r: r.randint(1, 60)),
                "delay": ("number", lambda r: r.randint(1, 60) / 4),
                "full": ("boolean", lambda r: r.random() < 0.5),
            },
        ),
    },
}
FORMS = {
    "json": {
        "train": "Write these facts as one JSON value that follows the schema below. "
        "Output nothing but the JSON.\n{schema}",
        "heldout": "Turn the notes into JSON for this schema; no other text, no fence.\n{schema}",
    },
    "csv": {
        "train": "Write these facts as CSV with the header {fields}; output nothing else.",
        "heldout": "Give a CSV file of the notes and nothing more. First line: {fields}",
    },
    "table": {
        "train": "Write these facts as a Markdown table with the columns {fields}; nothing else.",
        "heldout": "Answer with a Markdown table only. Its columns are {fields}",
    },
    "tags": {
        "train": "Write each record as one line of tags in the order {fields}, like "
        "<name>value</name>; nothing else.",
        "heldout": "Mark up the notes: a line for each, tags in the order {fields}, no more text.",
    },
}


def make(rng: Random, difficulty: float, split: str) -> Problem:
    form = rng.choice(list(FORMS))
    sentence, fields = DOMAINS[split][rng.choice(list(DOMAINS[split]))]
    rows = [
        {name: draw(rng) for name, (_, draw) in fields.items()}
        for _ in range(levels(difficulty, 1, 4))
    ]
    schema = schema_of(fields)
    notes = "\n".join(sentence.format(**{k: show(v) for k, v in row.items()}) for row in rows)
    ask_for = FORMS[form][split].format(schema=json.dumps(schema), fields=", ".join(fields))
    record = {"form": form, "schema": schema, "rows": rows}
    return Problem("format", ask(f"{notes}\n\n{ask_for}"), record, difficulty)


def schema_of(fields: Fields) -> dict:
    """The JSON schema of an array of records with exactly these fields."""
    properties = {name: {"type": kind} for name, (kind, _) in fields.items()}
    record = {
        "type": "object",
        "properties": properties,
        "required": list(fields),
        "additionalProperties": False,
    }
    return {"type": "array", "items": record}


def show(value: Any) -> str:
    """A value as text; booleans are "yes" and "no"."""
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _pairs(pairs: list[tuple[str, Any]]) -> dict:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def parse_json(answer: str) -> Any:
    """The JSON value of the whole text; ValueError for doubled keys, NaN or anything beside it."""
    try:
        return json.loads(answer, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def same_json(value: Any, expected: Any) -> bool:
    """Equality in which 1, 1.0 and true differ; but an expected 2.0 may be written 2."""
    if isinstance(expected, dict):
        return (
            isinstance(value, dict)
            and value.keys() == expected.keys()
            and all(same_json(value[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(value, list)
            and len(value) == len(expected)
            and all(map(same_json, value, expected))
        )
    if isinstance(expected, bool) or isinstance(value, bool):
        return value is expected
    if isinstance(expected, float) and isinstance(value, int | float):
        return value == expected
    return type(value) is type(expected) and value == expected


def read_table(answer: str) -> Cells:
    """The cells of a Markdown table, header first; ValueError if the text is anything else."""
    lines = [line.strip() for line in answer.strip().split("\n")]
    if len(lines) < 3 or not all(len(x) > 1 and x[0] == x[-1] == "|" for x in lines):
        raise ValueError("not a table")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    rule = [re.fullmatch(r":?-{3,}:?", cell) for cell in rows[1]]
    if not all(rule) or len(rule) != len(rows[0]):
        raise ValueError("no rule under the header")
    return [rows[0], *rows[2:]]


def read_csv(answer: str) -> Cells:
    """The cells of a CSV text, header first; ValueError if it is malformed."""
    try:
        rows = list(csv.reader(io.StringIO(answer), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return [[cell.strip() for cell in row] for row in rows]


_TAG = re.compile(r"<(\w+)>([^<>]*)</\1>")


def read_tags(answer: str) -> Cells:
    """The tagged lines as rows of cells; the tag names, the same in all lines, are the header."""
    rows = []
    for line in answer.strip().split("\n"):
        tags = _TAG.findall(line)
        if not tags or _TAG.sub("", line).strip():
            raise ValueError(f"not a line of tags: {line[:60]!r}")
        rows.append([[name for name, _ in tags], [body.strip() for _, body in tags]])
    if any(names != rows[0][0] for names, _ in rows):
        raise ValueError("the lines have different tags")
    return [rows[0][0], *(body for _, body in rows)]


READERS = {"csv": read_csv, "table": read_table, "tags": read_tags}


def grade(problem: Problem, answer: str) -> float:
    record = problem.answer
    try:
        if record["form"] == "json":
            value = parse_json(answer)
            jsonschema.validate(value, record["schema"])
            return same_json(value, record["rows"])
        return READERS[record["form"]](answer) == _cells(record["rows"])
    except (ValueError, jsonschema.ValidationError):
        return 0.0


def _cells(rows: list[dict]) -> Cells:
    return [list(rows[0]), *([show(value) for value in row.values()] for row in rows)]


def solve(problem: Problem) -> tuple[str, str]:
    form, rows = problem.answer["form"], problem.answer["rows"]
    return "One record after the other.", write(form, rows)


def write(form: str, rows: list[dict]) -> str:
    """The records in `form`: "json", "csv", "table" or "tags"."""
    if form == "json":
        return json.dumps(rows)
    header, *cells = _cells(rows)
    if form == "csv":
        return "\n".join(",".join(row) for row in [header, *cells])
    if form == "table":
        lines = [header, ["---"] * len(header), *cells]
        return "\n".join(f"| {' | '.join(row)} |" for row in lines)
    return "\n".join(
        "".join(f"<{k}>{v}</{k}>" for k, v in zip(header, row, strict=True)) for row in cells
    )


def guess(problem: Problem, rng: Random) -> str:
    """The right form with values drawn at random."""
    fields = next(
        f
        for part in DOMAINS.values()
        for _, f in part.values()
        if list(f) == list(problem.answer["rows"][0])
    )
    rows = [{name: draw(rng) for name, (_, draw) in fields.items()} for _ in problem.answer["rows"]]
    return write(problem.answer["form"], rows)


_FIELDS: Fields = {
    "name": ("string", lambda r: r.choice(PEOPLE)),
    "age": ("integer", lambda r: r.randint(1, 99)),
    "fever": ("boolean", lambda r: r.random() < 0.5),
}
_ROWS = [{"name": "Ana", "age": 7, "fever": True}]


def _case(form: str) -> Problem:
    record = {"form": form, "schema": schema_of(_FIELDS), "rows": _ROWS}
    return Problem("format", ask("Ana, aged 7; fever: yes."), record)


document = Task(
    "format",
    make,
    grade,
    solve,
    guess,
    group="format",
    examples=(
        (_case("json"), '[{"name": "Ana", "age": 7, "fever": true}]', 1.0),
        (_case("json"), '[{"age": 7, "fever": true, "name": "Ana"}]', 1.0),
        (_case("json"), '[{"name": "Ana", "age": "7", "fever": true}]', 0.0),
        (_case("json"), '[{"name": "Ana", "age": 7, "fever": 1}]', 0.0),
        (_case("json"), '[{"name": "Ana", "age": 6, "age": 7, "fever": true}]', 0.0),
        (_case("json"), '```json\n[{"name": "Ana", "age": 7, "fever": true}]\n```', 0.0),
        (_case("json"), "[" * 100_000, 0.0),
        (_case("csv"), "name,age,fever\nAna,7,yes", 1.0),
        (_case("csv"), "name,age,fever\nAna,7,yes\nAna,7,no", 0.0),
        (_case("table"), "| name | age | fever |\n|---|---|---|\n| Ana | 7 | yes |", 1.0),
        (_case("table"), "| name | age | fever |\n| Ana | 7 | yes |", 0.0),
        (_case("tags"), "<name>Ana</name><age>7</age><fever>yes</fever>", 1.0),
        (_case("tags"), "<name>Ana</name><age>7</age>", 0.0),
    ),
)
