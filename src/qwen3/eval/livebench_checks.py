"""LiveBench's tasks that need more than a reference: programs, instructions, tables.

By the benchmark's own rules (arXiv 2406.19314), but for what runs: programs are those of
LiveCodeBench and run in the sandbox as there; instructions are judged by IFEval's checkers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from statistics import mean
from typing import Any

from qwen3.eval import ifeval_official, live_code, livebench_tables
from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.rewards import code_blocks
from qwen3.rewards.maths import boxed

PROGRAMS = ("LCB_generation", "coding_completion")
INSTRUCTIONS = ("paraphrase", "simplify", "story_generation", "summarize")


def with_tests(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a program's task with its tests, as `live_code.score` takes them.

    Raises what `live_code.tested` does.
    """
    return live_code.tested(row, row["original_json"]["metadata"])


def program(item: Item, answer: str) -> Verdict:
    """1 where every test passes; an answer may leave the given beginning of the program out."""
    code = code_blocks.program(answer, item["method"] or "main")
    if code is None:
        return UNPARSED
    beginning = item.fields.get("partial_solution") or ""
    if not code.startswith(beginning):
        code = f"{beginning}\n{code}"
    return live_code.score_program(item, code)


def instructions(item: Item, answer: str) -> Verdict:
    """Mean of whether all instructions are followed, strictly, and of the share that is."""
    fields = {name: item[name] for name in ("instruction_id_list", "kwargs")}
    whole = Item(item.id, {"key": item.id, "prompt": item["turns"][0], **fields})
    followed = ifeval_official.follows(whole, answer)
    if followed is None:
        return Verdict(None)
    return Verdict(mean([float(all(followed)), mean(followed)]), answer or None)


def joined_table(item: Item, answer: str) -> Verdict:
    """F1 over pairs of columns, which the answer maps onto each other in a Python dict."""
    gold = item["ground_truth"]
    gold = ast.literal_eval(gold) if isinstance(gold, str) else gold
    given = _dict(answer)
    if not given:
        return UNPARSED
    right = sum(gold.get(column) == other for column, other in given.items())
    # A column that is mapped wrongly counts against precision and against recall.
    return Verdict(round(2 * right / (len(given) + len(gold)), 2), str(given))


def _dict(answer: str) -> dict[Any, Any] | None:
    """The dict in the last block of code, else in the box, else that is the answer; or None."""
    contents = [content for _, content in code_blocks.blocks(answer)]
    text = contents[-1] if contents else boxed(answer) or answer
    text = re.sub(r"\\text\{(.*?)\}", r"\1", text).replace("\\", "").replace("\n", "")
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None
    return value if isinstance(value, dict) else None


CHECKS: Mapping[str, Callable[[Item, str], Verdict]] = {
    **dict.fromkeys(PROGRAMS, program),
    **dict.fromkeys(INSTRUCTIONS, instructions),
    "tablejoin": joined_table,
    "tablereformat": livebench_tables.reformatted,
}
NEEDED = {  # fields of a task's rows
    **dict.fromkeys(PROGRAMS, ("public_test_cases", "private_test_cases", "original_json")),
    **dict.fromkeys(INSTRUCTIONS, ("instruction_id_list", "kwargs")),
}
