"""Several calls in one turn: one for each request, in any order, and nothing else."""

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

from qwen3.rewards.exact_answer import LANGUAGES, worked
from qwen3.rewards.structured_output import parse_json, same_json
from qwen3.rewards.task import Problem, Task, ask, levels
from qwen3.rewards.tool_call import TOOLS, draw_call, draw_request, listed, write_call

ORDERS = {
    "en": "{requests}\nMake one call for each of these and say nothing else.",
    "zh": "{requests}\n请为每件事各调用一次工具，不要写别的。",
}
# No body holds "<": there is one way to match an answer, and many calls take linear time.
_CALL = re.compile(r"<tool_call>([^<]*)</tool_call>")
_CALLS = re.compile(rf"(?:{_CALL.pattern}\s*)+")


def make(rng: Random, difficulty: float, split: str) -> Problem:
    tools, count = TOOLS[split], levels(difficulty, 2, 5)
    calls, texts = list[dict[str, Any]](), list[str]()
    while len(calls) < count:
        name, arguments, text = draw_request(rng, tools, split)
        if text not in texts:
            calls.append({"name": name, "arguments": arguments})
            texts.append(text)
    numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
    text = ORDERS[rng.choice(LANGUAGES)].format(requests=numbered)
    names = rng.sample(list(tools), len(tools))
    return Problem("parallel_calls", ask(text), {"calls": calls}, difficulty, listed(tools, names))


def same_calls(calls: Sequence[Any], expected: Sequence[dict]) -> bool:
    """The same calls in any order, values and types of all arguments alike."""
    left = list(expected)
    for call in calls:
        place = next((i for i, other in enumerate(left) if same_json(call, other)), None)
        if place is None:
            return False
        del left[place]
    return not left


def read_calls(answer: str) -> list[Any] | None:
    """The calls of an answer that holds nothing else, or None."""
    if len(answer) > 20_000 or not _CALLS.fullmatch(answer):
        return None
    try:
        return [parse_json(body) for body in _CALL.findall(answer)]
    except ValueError:
        return None


def grade(problem: Problem, answer: str) -> float:
    calls = read_calls(answer)
    return calls is not None and same_calls(calls, problem.answer["calls"])


def solve(problem: Problem) -> tuple[str, str]:
    calls = problem.answer["calls"]
    return f"{len(calls)} calls.", "\n".join(write_call(**call) for call in calls)


def guess(problem: Problem, rng: Random) -> str:
    """As many random calls as there are requests."""
    tool = (problem.tools or [])[0]["function"]["name"]
    tools = next(part for part in TOOLS.values() if tool in part)
    return "\n".join(write_call(*draw_call(rng, tools)) for _ in problem.answer["calls"])


_OSLO: dict[str, Any] = {"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}
_LIMA: dict[str, Any] = {"name": "get_weather", "arguments": {"city": "Lima", "days": 3}}
_P = Problem(
    "parallel_calls",
    ask("1. Weather in Oslo over 3 days?\n2. And in Lima?"),
    {"calls": [_OSLO, _LIMA]},
    tools=listed(TOOLS["train"], ["get_weather"]),
)
_FIRST, _SECOND = write_call(**_OSLO), write_call(**_LIMA)

several_calls = Task(
    "parallel_calls",
    make,
    grade,
    solve,
    guess,
    examples=(
        (_P, f"{_SECOND}\n{_FIRST}", 1.0),
        *worked(
            _P,
            f"{_FIRST}\n{_SECOND}",
            _FIRST,
            f"{_FIRST}\n{_FIRST}",
            f"{_FIRST}\n{_SECOND}\n{_SECOND}",
            f"Let me look.\n{_FIRST}\n{_SECOND}",
            f"{_FIRST}\n{_SECOND.replace('3', '3.0')}",
            f"[{json.dumps(_OSLO)}, {json.dumps(_LIMA)}]",
            f"<tool_call>\n[{json.dumps(_OSLO)}, {json.dumps(_LIMA)}]\n</tool_call>",
        ),
    ),
    group="agent",
)
