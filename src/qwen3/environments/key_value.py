"""A key-value store: copy, move, swap or add up values that only the tools show.

The final store must be the goal, and no key but those of the request may ever have been written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from qwen3.environments.tool_functions import INTEGER, TEXT, Tool, ToolError
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.task import ask, draw_in_split, levels

KEYS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "islet", "jetty")
# kind -> (English, Chinese, new values of a and b from their old ones; None deletes)
Change = Callable[[int, int], tuple[int | None, int | None]]
KINDS: dict[str, tuple[str, str, Change]] = {
    "copy": (
        "Set {b} to the value that {a} has in the store.",
        "把存储中{b}的值设为{a}的值。",
        lambda a, b: (a, a),
    ),
    "move": (
        "Give {b} the value of {a}, then delete {a} from the store.",
        "把{a}的值给{b}，然后从存储中删除{a}。",
        lambda a, b: (None, a),
    ),
    "swap": (
        "Swap the values of {a} and {b} in the store.",
        "交换存储中{a}和{b}的值。",
        lambda a, b: (b, a),
    ),
    "add": (
        "Add the value of {a} to that of {b} in the store.",
        "把存储中{a}的值加到{b}上。",
        lambda a, b: (a, a + b),
    ),
}
ENDING = {"en": " Answer in a word when it is done.", "zh": "完成后用一个词回答。"}


@dataclass
class Store:
    """The values, and the keys that were ever written or deleted."""

    values: dict[str, int]
    written: set[str] = field(default_factory=set)


def get(store: Store, key: str) -> str:
    if key not in store.values:
        raise ToolError(f"no key {key[:40]!r}")
    return str(store.values[key])


def set_value(store: Store, key: str, value: int) -> str:
    store.values[key] = int(value)
    store.written.add(key)
    return "ok"


def delete(store: Store, key: str) -> str:
    get(store, key)
    del store.values[key]
    store.written.add(key)
    return "ok"


TOOLS = (
    Tool("get", "The value of a key.", {"key": TEXT}, get),
    Tool("set", "Gives a key a value.", {"key": TEXT, "value": INTEGER}, set_value),
    Tool("delete", "Deletes a key.", {"key": TEXT}, delete),
)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    def draw() -> tuple[str, list[str], dict[str, int]]:
        names = rng.sample(KEYS, levels(difficulty, 3, 6))
        kind = rng.choice(list(KINDS)[: levels(difficulty, 1, len(KINDS))])
        values = rng.sample(range(100, 1000), len(names))
        return kind, names, dict(zip(sorted(names), values, strict=True))

    kind, (a, b, *_), values = draw_in_split(draw, lambda drawn: str(drawn), split)
    language = rng.choice(tuple(ENDING))
    english, chinese, change = KINDS[kind]
    new_a, new_b = change(values[a], values[b])
    goal = {k: v for k, v in {**values, a: new_a, b: new_b}.items() if v is not None}
    targets = [key for key in (a, b) if goal.get(key) != values[key]]
    answer = {"kind": kind, "a": a, "b": b, "values": values, "goal": goal, "targets": targets}
    text = {"en": english, "zh": chinese}[language].format(a=a, b=b) + ENDING[language]
    return Problem("key_value", ask(text), answer, difficulty)


def start(answer: dict[str, Any]) -> Store:
    return Store(answer["values"])


def grade(problem: Problem, store: Store, turns: Turns) -> float:
    return store.values == problem.answer["goal"] and store.written <= set(
        problem.answer["targets"]
    )


def solve(problem: Problem) -> Script:
    a, b, kind = (problem.answer[name] for name in ("a", "b", "kind"))
    old = yield calls(("get", {"key": a}), ("get", {"key": b}))
    new = KINDS[kind][2](int(old[0]), int(old[1]))
    changes = [
        ("delete", {"key": key}) if value is None else ("set", {"key": key, "value": value})
        for key, value in zip((a, b), new, strict=True)
        if key in problem.answer["targets"]
    ]
    yield calls(*changes)
    yield "Done."


def guess(problem: Problem, rng: Random) -> Script:
    yield calls(("set", {"key": problem.answer["b"], "value": rng.randint(100, 999)}))
    yield "Done."


def _undoes_a_write(problem: Problem) -> Script:
    """The right end, with one write too many on the way that is taken back."""
    other = next(key for key in problem.answer["values"] if key not in problem.answer["targets"])
    (old,) = yield calls(("get", {"key": other}))
    yield calls(("set", {"key": other, "value": 0}), ("set", {"key": other, "value": int(old)}))
    yield from solve(problem)


HACKS = {
    "answers without a call": lambda problem: fixed("Done."),
    "claims a result": lambda problem: fixed("<tool_response>\nok\n</tool_response>\nDone."),
    "deletes all": lambda problem: fixed(
        calls(*(("delete", {"key": key}) for key in problem.answer["values"])), "Done."
    ),
    "writes the name for the value": lambda problem: fixed(
        calls(("set", {"key": problem.answer["b"], "value": problem.answer["a"]})), "Done."
    ),
    "reads and says it is done": lambda problem: fixed(
        calls(("get", {"key": problem.answer["a"]})), "Done."
    ),
    "undoes a write to another key": _undoes_a_write,
}

store = World("key_value", make, TOOLS, start, grade, solve, guess, HACKS)
