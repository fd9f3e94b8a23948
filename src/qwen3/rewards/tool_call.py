"""One tool call in Hermes form: the right tool, every argument with the right name, type and value.

The answer may say something first; it must hold exactly one <tool_call> block and end with it.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeAlias

from qwen3.rewards.structured_output import parse_json, same_json
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

# tool -> (description, requests with {arguments}, {argument: (JSON type, draw of a value)})
Tools: TypeAlias = Mapping[
    str, tuple[str, tuple[str, ...], Mapping[str, tuple[str, Callable[[Random], Any]]]]
]

CITIES = ("Oslo", "Quito", "Lima", "Cairo", "Kyoto", "Perth")
TOOLS: dict[str, Tools] = {
    "train": {
        "get_weather": (
            "Weather forecast for a city.",
            (
                "What will the weather be in {city} over the next {days} days?",
                "I am off to {city} for {days} days: how is the weather going to be?",
            ),
            {
                "city": ("string", lambda r: r.choice(CITIES)),
                "days": ("integer", lambda r: r.randint(2, 10)),
            },
        ),
        "convert_money": (
            "Converts an amount between two currencies.",
            (
                "How much is {amount} {source} in {target}?",
                "I have {amount} {source}; what is that in {target}?",
            ),
            {
                "amount": ("number", lambda r: r.randint(100, 9999) / 4),
                "source": ("string", lambda r: r.choice(("EUR", "USD"))),
                "target": ("string", lambda r: r.choice(("JPY", "CNY", "BRL"))),
            },
        ),
        "set_alarm": (
            "Sets an alarm on the phone.",
            (
                "Wake me at {hour}:{minute}; should it repeat daily: {daily}.",
                "Please set an alarm for {hour}:{minute}. Every day: {daily}.",
            ),
            {
                "hour": ("integer", lambda r: r.randint(5, 23)),
                "minute": ("integer", lambda r: r.randint(10, 59)),
                "daily": ("boolean", lambda r: r.random() < 0.5),
            },
        ),
        "send_message": (
            "Sends a text message to a person.",
            ("Tell {person} this: {text}", "Send the message '{text}' to {person}."),
            {
                "person": ("string", lambda r: r.choice(("Ana", "Bo", "Dora"))),
                "text": ("string", lambda r: f"See you at {r.randint(1, 12)} o'clock"),
            },
        ),
        "search_flights": (
            "Finds flights on a route.",
            (
                "Find flights from {origin} to {goal} under {limit} euros.",
                "Which flights from {origin} to {goal} cost less than {limit} euros?",
            ),
            {
                "origin": ("string", lambda r: r.choice(CITIES[:3])),
                "goal": ("string", lambda r: r.choice(CITIES[3:])),
                "limit": ("integer", lambda r: r.randint(100, 999)),
            },
        ),
    },
    "heldout": {
        "book_table": (
            "Books a table in a restaurant.",
            ("Book a table for {guests} at {place}, outdoors: {outdoors}.",),
            {
                "place": ("string", lambda r: r.choice(("Luigi's", "Golden Duck", "Cafe Blue"))),
                "guests": ("integer", lambda r: r.randint(2, 19)),
                "outdoors": ("boolean", lambda r: r.random() < 0.5),
            },
        ),
        "mix_paint": (
            "Mixes two colours in given shares.",
            ("I need {litres} litres of paint from {first} and {second}.",),
            {
                "litres": ("number", lambda r: r.randint(2, 90) / 4),
                "first": ("string", lambda r: r.choice(("red", "blue"))),
                "second": ("string", lambda r: r.choice(("white", "yellow", "black"))),
            },
        ),
        "move_robot": (
            "Moves the robot on the floor.",
            ("Drive the robot {steps} steps {direction}.",),
            {
                "steps": ("integer", lambda r: r.randint(2, 99)),
                "direction": ("string", lambda r: r.choice(("north", "south", "east", "west"))),
            },
        ),
        "play_song": (
            "Plays a song from the library.",
            ("Put on {title} at volume {volume}, shuffle {shuffle}.",),
            {
                "title": ("string", lambda r: f"Study No. {r.randint(1, 40)}"),
                "volume": ("integer", lambda r: r.randint(1, 100)),
                "shuffle": ("boolean", lambda r: r.random() < 0.5),
            },
        ),
    },
}
_CALL = re.compile(r"<tool_call>\n?(.*?)\n?</tool_call>", re.DOTALL)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    tools = TOOLS[split]
    problem = request(rng, tools, levels(difficulty, 2, len(tools)), split)
    return replace(problem, difficulty=difficulty)


def request(rng: Random, tools: Tools, offered: int, split: str) -> Problem:
    """A request for one of `tools`, a table like a split of TOOLS; `offered` of them are listed."""
    name, arguments, text = draw_request(rng, tools, split)
    names = [name, *rng.sample([other for other in tools if other != name], offered - 1)]
    rng.shuffle(names)
    record = {"name": name, "arguments": arguments}
    return Problem("tool_call", ask(text), record, tools=listed(tools, names))


def draw_call(rng: Random, tools: Tools) -> tuple[str, dict[str, Any]]:
    """(a tool of the table, its arguments)."""
    name = rng.choice(list(tools))
    return name, {field: draw(rng) for field, (_, draw) in tools[name][2].items()}


def draw_request(rng: Random, tools: Tools, split: str) -> tuple[str, dict[str, Any], str]:
    """(tool, arguments, the request for them in words). The splits never share a request's text."""

    def draw() -> tuple[str, dict[str, Any], str]:
        name, arguments = draw_call(rng, tools)
        shown = {k: ("no", "yes")[v] if isinstance(v, bool) else v for k, v in arguments.items()}
        return name, arguments, rng.choice(tools[name][1]).format(**shown)

    return draw_in_split(draw, lambda drawn: drawn[2], split)


def listed(tools: Tools, names: Sequence[str]) -> list[dict]:
    """The tools of these names as the chat template lists them."""
    return [describe(tools, name) for name in names]


def describe(tools: Tools, name: str) -> dict:
    """The tool `name` of a table as the JSON that the chat template lists."""
    description, _, fields = tools[name]
    properties = {field: {"type": kind} for field, (kind, _) in fields.items()}
    parameters = {"type": "object", "properties": properties, "required": list(fields)}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


def read_call(answer: str) -> dict | None:
    """The only call {"name", "arguments"} of an answer that ends with it, or None."""
    tags = answer.count("<tool_call>"), answer.count("</tool_call>")
    if tags != (1, 1) or not answer.endswith("</tool_call>"):
        return None
    blocks = _CALL.findall(answer)
    try:
        call = parse_json(blocks[0])
    except (ValueError, IndexError):
        return None
    return call if isinstance(call, dict) and set(call) == {"name", "arguments"} else None


def grade(problem: Problem, answer: str) -> float:
    call = read_call(answer)
    return call is not None and same_json(call, problem.answer)


def write_call(name: str, arguments: dict) -> str:
    """A call as the chat template writes it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{body}\n</tool_call>"


def solve(problem: Problem) -> tuple[str, str]:
    return f"{problem.answer['name']} fits.", write_call(**problem.answer)


def guess(problem: Problem, rng: Random) -> str:
    """A random tool of those offered, with random arguments of the right types."""
    name = rng.choice(problem.tools or [])["function"]["name"]
    fields = next(part[name][2] for part in TOOLS.values() if name in part)
    return write_call(name, {field: draw(rng) for field, (_, draw) in fields.items()})


_P = Problem(
    "tool_call",
    ask("What will the weather be in Oslo over the next 3 days?"),
    {"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}},
    tools=[describe(TOOLS["train"], "get_weather")],
)
_GOOD = write_call("get_weather", {"city": "Oslo", "days": 3})

single_call = Task(
    "tool_call",
    make,
    grade,
    solve,
    guess,
    group="agent",
    examples=(
        (_P, f"<think>\nweather\n</think>\n\n{_GOOD}", 1.0),
        (_P, f"Let me look.\n{_GOOD}<|im_end|>", 1.0),
        (_P, _GOOD.replace("3}", '"3"}'), 0.0),
        (_P, _GOOD.replace("3}", "3.0}"), 0.0),
        (_P, _GOOD.replace("3}", '3, "unit": "C"}'), 0.0),
        (_P, f"{_GOOD}\n{_GOOD}", 0.0),
        (_P, f"{_GOOD} and 4 days, perhaps", 0.0),
        (_P, f"<think>\n{_GOOD}\n</think>\n\nIt will rain.", 0.0),
        (_P, _GOOD.replace("</tool_call>", ""), 0.0),
    ),
)
