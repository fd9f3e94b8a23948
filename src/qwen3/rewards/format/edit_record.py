"""Editing JSON: copy the records, change what was asked for, leave the rest as it was."""

import json
from random import Random
from typing import Any

from qwen3.rewards import structured_output
from qwen3.rewards.exact_answer import LANGUAGES, worked
from qwen3.rewards.structured_output import DOMAINS, parse_json, same_json
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

WORDINGS = {
    "en": (
        "{records}\n\nIn record {index}, set {field} to {value}. Output the changed JSON and "
        "nothing else.",
        "Change the JSON below: {field} of record {index} becomes {value}. No other text, no "
        "fence.\n{records}",
    ),
    "zh": (
        "{records}\n\n把第{index}条记录的{field}改成{value}。只输出改好的JSON。",
        "修改下面的JSON：第{index}条的{field}改为{value}。不要写别的，也不要代码框。\n{records}",
    ),
}


def make(rng: Random, difficulty: float, split: str) -> Problem:
    domain = rng.choice(list(DOMAINS[split]))
    fields = DOMAINS[split][domain][1]
    count = levels(difficulty, 1, 5)
    language = rng.choice(LANGUAGES)

    def draw() -> tuple[list[dict], int, str, Any]:
        rows = [{name: d(rng) for name, (_, d) in fields.items()} for _ in range(count)]
        index, name = rng.randrange(count), rng.choice(list(fields))
        value = rows[index][name]
        while value == rows[index][name]:
            value = fields[name][1](rng)
        return rows, index, name, value

    rows, index, name, value = draw_in_split(draw, repr, split)
    return problem(rows, index, name, value, language, split, difficulty)


def problem(
    rows: list[dict],
    index: int,
    name: str,
    value: Any,
    language: str = "en",
    split: str = "train",
    difficulty: float = 0.0,
) -> Problem:
    """The Problem of setting the field `name` of record `index` (from 0) to `value`."""
    changed = [dict(row) for row in rows]
    changed[index][name] = value
    text = WORDINGS[language][split == "heldout"].format(
        records=json.dumps(rows, ensure_ascii=False),
        index=index + 1,
        field=name,
        value=json.dumps(value, ensure_ascii=False),
    )
    return Problem("edit_record", ask(text), {"rows": rows, "gold": changed}, difficulty)


def grade(problem: Problem, answer: str) -> float:
    try:
        return same_json(parse_json(answer), problem.answer["gold"])
    except ValueError:
        return 0.0


def solve(problem: Problem) -> tuple[str, str]:
    return "One value changes.", json.dumps(problem.answer["gold"], ensure_ascii=False)


def guess(problem: Problem, rng: Random) -> str:
    """The records with a random field of a random record set to another record's value."""
    rows = [dict(row) for row in problem.answer["rows"]]
    name = rng.choice(list(rows[0]))
    domains = [fields for part in structured_output.DOMAINS.values() for _, fields in part.values()]
    fields = next(fields for fields in domains if name in fields)
    rng.choice(rows)[name] = fields[name][1](rng)
    return json.dumps(rows, ensure_ascii=False)


_P = problem([{"name": "Ana", "age": 7}, {"name": "Bo", "age": 9}], 1, "age", 10)
_GOOD = '[{"name": "Ana", "age": 7}, {"name": "Bo", "age": 10}]'

edit_record = Task(
    "edit_record",
    make,
    grade,
    solve,
    guess,
    examples=worked(
        _P,
        _GOOD,
        json.dumps(_P.answer["rows"]),
        _GOOD.replace("7", "10"),
        _GOOD.replace("10", '"10"'),
        _GOOD.replace("10}", '10, "age": 10}'),
        _GOOD.replace("10}", '10, "note": "changed"}'),
        f"```json\n{_GOOD}\n```",
        '{"name": "Bo", "age": 10}',
    ),
    group="format",
)
