"""To call or not to call: no tool that fits, and an argument that nobody gave, each as a pair.

Twins ask alike; one can be served by a call and the other cannot. Calling always, with an invented
value if need be, and never calling are both right half of the time, and never on a whole pair.
"""

from random import Random
from typing import Any

from qwen3.rewards.exact_answer import LANGUAGES, worked
from qwen3.rewards.structured_output import same_json, show
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels
from qwen3.rewards.tool_call import TOOLS, draw_call, draw_request, listed, read_call, write_call

NO_TOOL = {
    "en": ("No tool fits.", "If no tool fits, answer only: No tool fits."),
    "zh": ("没有合适的工具。", "如果没有合适的工具，只回答：没有合适的工具。"),
}
MISSING = {
    "en": (
        "Missing: {name}",
        "Please: {description} {details}. If a required argument was not given, do not call; "
        "answer only `Missing: <argument>`.",
    ),
    "zh": (
        "缺少：{name}",
        "请办这件事：{description} {details}。如果缺少必需的参数，不要调用，只回答`缺少：<参数>`。",
    ),
}


def irrelevant(rng: Random, difficulty: float, split: str) -> tuple[Problem, Problem]:
    """A request with its tool on offer, and the same without it."""
    tools, language = TOOLS[split], rng.choice(LANGUAGES)
    name, arguments, text = draw_request(rng, tools, split)
    others = [tool for tool in tools if tool != name]
    offered = rng.sample(others, levels(difficulty, 1, len(others)))
    decline, rule = NO_TOOL[language]
    place, other = rng.randrange(len(offered)), offered[:-1]
    with_tool = [*other[:place], name, *other[place:]]
    records = (
        {"call": {"name": name, "arguments": arguments}, "decline": decline, "request": text},
        {"call": {}, "decline": decline, "request": text},
    )
    messages = ask(f"{text} {rule}")
    return tuple(  # type: ignore[return-value]  # two of them
        Problem("irrelevant_tool", messages, record, difficulty, listed(tools, names))
        for record, names in zip(records, (with_tool, offered), strict=True)
    )


def missing(rng: Random, difficulty: float, split: str) -> tuple[Problem, Problem]:
    """A request with all of its arguments, and the same with one of them left out."""
    tools, language = TOOLS[split], rng.choice(LANGUAGES)
    name, arguments = draw_in_split(lambda: draw_call(rng, tools), repr, split)
    absent = rng.choice(list(arguments))
    others = [tool for tool in tools if tool != name]
    names = [name, *rng.sample(others, levels(difficulty, 0, len(others)))]
    rng.shuffle(names)
    pattern, wording = MISSING[language]
    problems = []
    for given in (arguments, {k: v for k, v in arguments.items() if k != absent}):
        details = "; ".join(f"{field}: {show(value)}" for field, value in given.items())
        text = wording.format(description=tools[name][0], details=details)
        complete = given == arguments
        record: dict[str, Any] = {
            "call": {"name": name, "arguments": arguments} if complete else {},
            "decline": pattern.format(name="" if complete else absent),
            "given": given,
        }
        tools_listed = listed(tools, names)
        problems.append(Problem("missing_argument", ask(text), record, difficulty, tools_listed))
    return problems[0], problems[1]


def grade(problem: Problem, answer: str) -> float:
    """1 for the right call, or, where none is right, for the sentence that says so alone."""
    call = problem.answer["call"]
    if not call:
        return answer == problem.answer["decline"]
    read = read_call(answer)
    return read is not None and same_json(read, call)


def solve(problem: Problem) -> tuple[str, str]:
    call = problem.answer["call"]
    return "What is there?", write_call(**call) if call else problem.answer["decline"]


def guess(problem: Problem, rng: Random) -> str:
    """A random call of a tool on offer, or a random argument that is said to be missing."""
    tool = rng.choice(problem.tools or [])["function"]["name"]
    tools = next(part for part in TOOLS.values() if tool in part)
    name, arguments = draw_call(rng, {tool: tools[tool]})
    if problem.task == "missing_argument" and rng.random() < 0.5:
        return f"Missing: {rng.choice(list(arguments))}"
    return write_call(name, arguments)


_WEATHER = {"name": "get_weather", "arguments": {"city": "Oslo", "days": 3}}
_CALL = write_call("get_weather", {"city": "Oslo", "days": 3})
_NONE = Problem(
    "irrelevant_tool",
    ask(f"What will the weather be in Oslo over the next 3 days? {NO_TOOL['en'][1]}"),
    {"call": {}, "decline": NO_TOOL["en"][0], "request": "weather"},
    tools=listed(TOOLS["train"], ["set_alarm"]),
)
_SOME = Problem(
    "irrelevant_tool",
    _NONE.messages,
    {"call": _WEATHER, "decline": NO_TOOL["en"][0], "request": "weather"},
    tools=listed(TOOLS["train"], ["get_weather"]),
)
_LACKS = Problem(
    "missing_argument",
    ask("Please: Weather forecast for a city. city: Oslo."),
    {"call": {}, "decline": "Missing: days", "given": {"city": "Oslo"}},
    tools=listed(TOOLS["train"], ["get_weather"]),
)

irrelevant_tool = Task(
    "irrelevant_tool",
    irrelevant,
    grade,
    solve,
    guess,
    examples=(
        *worked(_NONE, "No tool fits.", _CALL, "I cannot.", "No tool fits. It will rain."),
        (_SOME, _CALL, 1.0),
        (_SOME, "No tool fits.", 0.0),
        (_SOME, f"No tool fits.\n{_CALL.replace('Oslo', 'Lima')}", 0.0),
    ),
    group="agent",
    paired=True,
)

missing_argument = Task(
    "missing_argument",
    missing,
    grade,
    solve,
    guess,
    examples=worked(
        _LACKS, "Missing: days", _CALL, "Missing: city", "Missing: city, days", "Missing: "
    ),
    group="agent",
    paired=True,
)
