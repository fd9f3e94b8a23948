"""ZebraLogic (arXiv 2502.01100), whose puzzles have one solution, and AutoLogi (arXiv 2502.16906),
whose puzzles have many.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3 import sandbox
from qwen3.data.jsonl import place, read_rows
from qwen3.eval.eval_sandbox import AMPLE, sandbox_with
from qwen3.eval.item_readers import stem
from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.eval.suite_prompts import Messages, user
from qwen3.rewards import code_blocks

MASK = "___"  # cell of a solution that the public files of ZebraLogic hide
MOST_OBJECTS = 1000  # braces of an answer at which an object is looked for
FORM = 'Reason first. End with a JSON object of this form:\n{"solution": %s}'
# The checks of a puzzle are code of the data set, and so run in the sandbox.
CHECK = """
def satisfies(check, constraints, inputs):
    scope = {}
    exec(check, scope)
    exec(constraints, scope)
    return bool(scope["inputs_check"](inputs)) and all(f(inputs) for f in scope["constraint_list"])
"""


def objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The JSON objects in a text, outermost ones, in order."""
    decoder, start = json.JSONDecoder(), 0
    for _ in range(MOST_OBJECTS):
        start = text.find("{", start)
        if start < 0:
            return
        try:
            value, start = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start += 1
            continue
        if isinstance(value, dict):
            yield value


# --- ZebraLogic


def read_zebra(files: Sequence[Path]) -> list[Item]:
    """Rows {id, puzzle, solution: {header, rows}}. ValueError where the solutions are hidden."""
    items = []
    for file in files:
        for number, row in read_rows(file, fields=("id", "puzzle", "solution")):
            header, rows = row["solution"]["header"], row["solution"]["rows"]
            if any(cell == MASK for cells in rows for cell in cells):
                raise ValueError(
                    f"{place(file, number)}: the solution is hidden; the gated files have it"
                )
            gold = {
                f"House {house}": dict(zip(header[1:], cells[1:], strict=True))
                for house, cells in enumerate(rows, 1)
            }
            items.append(Item(str(row["id"]), {"puzzle": row["puzzle"], "gold": gold}))
    return items


def zebra_messages(item: Item) -> Messages:
    blank = {house: dict.fromkeys(cells, "...") for house, cells in item["gold"].items()}
    return user(f"{item['puzzle']}\n\n{FORM % json.dumps(blank)}")


def zebra_score(item: Item, answer: str) -> Verdict:
    """1 where every cell of the last solution is right, without regard to case and spaces."""
    solutions = [
        one["solution"] for one in objects(answer) if isinstance(one.get("solution"), dict)
    ]
    if not solutions:
        return UNPARSED
    solution = solutions[-1]
    right = all(
        _cell(solution.get(house), name) == str(value).strip().lower()
        for house, cells in item["gold"].items()
        for name, value in cells.items()
    )
    return Verdict(float(right), json.dumps(solution, ensure_ascii=False))


def _cell(row: Any, name: str) -> str | None:
    value = row.get(name) if isinstance(row, dict) else None
    value = value[0] if isinstance(value, list) and value else value
    return value.strip().lower() if isinstance(value, str) else None


# --- AutoLogi


def read_autologi(files: Sequence[Path]) -> list[Item]:
    """Rows {prompt, code: {Inputs_Check_code, Constraint_List_code}}."""
    items = []
    for file in files:
        for number, row in read_rows(file, fields=("prompt", "code")):
            lacking = {"Inputs_Check_code", "Constraint_List_code"} - set(row["code"])
            if lacking:
                raise ValueError(f"{place(file, number)}: code lacks {', '.join(sorted(lacking))}")
            items.append(Item(f"{stem(file)}/{row.get('idx', number)}", row))
    return items


def autologi_score(item: Item, answer: str) -> Verdict:
    """1 where the arrangement that the answer ends on passes the puzzle's checks."""
    value = _literal(answer)
    if value is None:
        return UNPARSED
    code = item["code"]
    inputs = (code["Inputs_Check_code"], code["Constraint_List_code"], value)
    try:
        run = sandbox_with(AMPLE).run(CHECK, "satisfies", [inputs])
    except sandbox.SandboxError:
        return Verdict(None, repr(value))
    # Checks that raise refuse the arrangement.
    return Verdict(float(run.calls == (("value", True),)), repr(value))


def _literal(answer: str) -> Any:
    """The value of the last block of code, or the last object; None without any."""
    blocks = [content for _, content in code_blocks.blocks(answer)]
    for text in [*reversed(blocks), answer.strip()]:
        text = text.split("=", 1)[-1].strip()
        for read in (ast.literal_eval, json.loads):
            try:
                value = read(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
                continue
            if isinstance(value, (dict, list, tuple)):
                return value
    found = list(objects(answer))
    return found[-1] if found else None
