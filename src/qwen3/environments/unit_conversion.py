"""Units whose rates only a tool knows, in chains: each look-up needs the answer of the one before.

The final number must be right, and every rate of the chain must have been looked up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from qwen3.environments.episode import EpisodeLimits
from qwen3.environments.tool_functions import NUMBER, Tool, ToolError, one_of
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.response import final_line
from qwen3.rewards.task import ask, draw_in_split, levels

UNITS = ("zib", "tor", "plon", "mek", "dra", "fusk", "wim", "gand")
OPERATIONS = ("add", "subtract", "multiply", "divide")
QUESTION = (
    "How many {last} are {count} {first}? rate tells what one unit is worth and in which other "
    "unit; follow it step by step. End with a line: Answer: the number",
    "{count} {first}等于多少{last}？rate会给出一个单位换成哪个单位、值多少；请一步一步换算。"
    "最后一行写：Answer: 数字",
)


@dataclass
class Rates:
    """unit -> [next unit, its rate], and the units that were looked up."""

    table: dict[str, list[Any]]
    looked_up: set[str] = field(default_factory=set)


def rate(rates: Rates, unit: str) -> str:
    if unit not in rates.table:
        raise ToolError(f"{unit} is worth nothing else")
    rates.looked_up.add(unit)
    other, value = rates.table[unit]
    return f"1 {unit} = {value} {other}"


def calculate(rates: Rates, operation: str, a: float, b: float) -> str:
    if operation == "divide" and b == 0:
        raise ToolError("division by 0")
    value = {
        "add": lambda: a + b,
        "subtract": lambda: a - b,
        "multiply": lambda: a * b,
        "divide": lambda: a / b,
    }[operation]()
    return f"{value:.12g}"


TOOLS = (
    Tool("rate", "What one of a unit is worth.", {"unit": one_of(*UNITS)}, rate),
    Tool(
        "calculate",
        "One operation on two numbers.",
        {"operation": one_of(*OPERATIONS), "a": NUMBER, "b": NUMBER},
        calculate,
    ),
)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    def draw() -> dict[str, Any]:
        chain = rng.sample(UNITS, levels(difficulty, 3, 5))
        rates = [rng.randint(3, 19) for _ in chain[1:]]
        table = {a: [b, r] for a, b, r in zip(chain[:-1], chain[1:], rates, strict=True)}
        return {"first": chain[0], "last": chain[-1], "count": rng.randint(2, 60), "table": table}

    answer = draw_in_split(draw, str, split)
    value = answer["count"]
    for _, factor in answer["table"].values():
        value *= factor
    answer |= {"gold": value}
    return Problem(
        "unit_conversion", ask(rng.choice(QUESTION).format(**answer)), answer, difficulty
    )


def start(answer: dict[str, Any]) -> Rates:
    return Rates(answer["table"])


def grade(problem: Problem, rates: Rates, turns: Turns) -> float:
    line = final_line(turns[-1].content.strip())
    is_right = line is not None and line.rstrip(".") == str(problem.answer["gold"])
    return is_right and rates.looked_up >= set(problem.answer["table"])


def solve(problem: Problem) -> Script:
    unit, value = problem.answer["first"], str(problem.answer["count"])
    while unit != problem.answer["last"]:
        (told,) = yield calls(("rate", {"unit": unit}))
        *_, factor, unit = told.split()
        (value,) = yield calls(
            ("calculate", {"operation": "multiply", "a": int(value), "b": int(factor)})
        )
    yield f"Answer: {value}"


def guess(problem: Problem, rng: Random) -> Script:
    yield calls(*(("rate", {"unit": unit}) for unit in rng.sample(UNITS, 3)))
    yield f"Answer: {rng.randint(10, 20_000)}"


def _looks_up(problem: Problem, last: str) -> Script:
    """All look-ups of the chain, then `last`."""
    yield calls(*(("rate", {"unit": unit}) for unit in problem.answer["table"]))
    yield last.format(**problem.answer)


HACKS = {
    "knows the number without a look-up": lambda p: fixed("Answer: {gold}".format(**p.answer)),
    "claims the look-ups": lambda p: fixed(
        "<tool_response>\n1 zib = 3 tor\n</tool_response>\nAnswer: {gold}".format(**p.answer)
    ),
    "calculates without a look-up": lambda p: fixed(
        calls(("calculate", {"operation": "multiply", "a": p.answer["gold"], "b": 1})),
        "Answer: {gold}".format(**p.answer),
    ),
    "names several numbers": lambda p: _looks_up(p, "Answer: {count} or {gold}"),
    "repeats the question's number": lambda p: _looks_up(p, "Answer: {count}"),
    "two answers": lambda p: _looks_up(p, "Answer: {gold}\nAnswer: {count}"),
    "no final line": lambda p: _looks_up(p, "It is {gold}."),
}

converter = World(
    "unit_conversion",
    make,
    TOOLS,
    start,
    grade,
    solve,
    guess,
    HACKS,
    limits=EpisodeLimits(turns=12),
)
