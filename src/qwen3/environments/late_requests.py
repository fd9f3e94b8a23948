"""Orders that cannot be placed yet: a number is missing, or the function is only told of later.

Every other request can be served at once: its twin, so that neither asking always nor calling
always pays more than half. After a turn without a call the user says what was missing; a call
before that, with invented arguments or of a function that does not exist, is never right.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

from qwen3.environments.tool_functions import Tool, ToolError, one_of
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.task import ask, draw_in_split

ITEMS = ("lamp", "chair", "desk", "shelf", "clock", "plant")
ROOMS = ("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8")
LANGUAGES = ("en", "zh")
# kind -> the request; "missing" lacks a number, "late" the function.
REQUESTS = {
    "en": {
        "complete": "Order {count} of the item {item} for room {room}.",
        "missing": "Order some of the item {item} for room {room}; ask me how many.",
        "late": "Order {count} of the item {item} for room {room}.",
    },
    "zh": {
        "complete": "为{room}房间订{count}个{item}。",
        "missing": "为{room}房间订一些{item}，数量请问我。",
        "late": "为{room}房间订{count}个{item}。",
    },
}
REPLIES = {
    "en": {"missing": "I need {count}.", "late": "Now there is this function, so go on: {tool}"},
    "zh": {"missing": "我要{count}个。", "late": "现在有了这个函数，请继续：{tool}"},
}


@dataclass
class Shop:
    """The orders, and whether the function is known."""

    is_open: bool
    orders: list[dict[str, Any]] = field(default_factory=list)


def order(shop: Shop, item: str, count: int, room: str) -> str:
    if not shop.is_open:
        raise ToolError("there is no such tool")
    shop.orders.append({"item": item, "count": int(count), "room": room})
    return f"ordered: {int(count)} {item}"


def price(shop: Shop, item: str) -> str:
    return f"{item}: {10 * (ITEMS.index(item) + 1)}"


COUNT = {"type": "integer", "minimum": 1, "maximum": 99}
ORDER = Tool(
    "order",
    "Orders an item for a room.",
    {"item": one_of(*ITEMS), "count": COUNT, "room": one_of(*ROOMS)},
    order,
)
PRICE = Tool("price", "The price of an item.", {"item": one_of(*ITEMS)}, price)


def make(rng: Random, difficulty: float, split: str) -> tuple[Problem, Problem]:
    """A request that can be served at once, and its twin, which cannot."""

    def draw() -> dict[str, Any]:
        return {"item": rng.choice(ITEMS), "count": rng.randint(2, 99), "room": rng.choice(ROOMS)}

    goal = draw_in_split(draw, str, split)
    language, late = rng.choice(LANGUAGES), rng.choice(("missing", "late"))
    return (
        request("complete", goal, language, difficulty),
        request(late, goal, language, difficulty),
    )


def request(kind: str, goal: dict[str, Any], language: str, difficulty: float) -> Problem:
    """The request of a kind for an order."""
    text = REQUESTS[language][kind].format(**goal)
    answer = {"kind": kind, "goal": goal, "language": language}
    listed = [tool.listed for tool in ([PRICE] if kind == "late" else [PRICE, ORDER])]
    return Problem("late_requests", ask(text), answer, difficulty, tools=listed)


def start(answer: dict[str, Any]) -> Shop:
    return Shop(is_open=answer["kind"] != "late")


def reply(problem: Problem, shop: Shop, turns: Turns) -> list[str]:
    """What was missing, to the first turn without a call."""
    answer = problem.answer
    silent = sum(not turn.tool_calls and not turn.malformed for turn in turns)
    if answer["kind"] == "complete" or silent > 1:
        return []
    shop.is_open = True
    text = REPLIES[answer["language"]][answer["kind"]]
    return [text.format(tool=json.dumps(ORDER.listed, ensure_ascii=False), **answer["goal"])]


def grade(problem: Problem, shop: Shop, turns: Turns) -> float:
    first_orders = any(call.name == ORDER.name for call in turns[0].tool_calls)
    is_at_once = problem.answer["kind"] == "complete"
    return shop.orders == [problem.answer["goal"]] and first_orders == is_at_once


def solve(problem: Problem) -> Script:
    if problem.answer["kind"] != "complete":
        yield {"missing": "How many?", "late": "I have no tool for orders."}[problem.answer["kind"]]
    yield calls((ORDER.name, problem.answer["goal"]))
    yield "Done."


def guess(problem: Problem, rng: Random) -> Script:
    if rng.random() < 0.5:
        yield "How many?"  # which ends the episode of a complete request
    goal = {**problem.answer["goal"], "count": rng.randint(2, 99)}
    yield calls((ORDER.name, goal))
    yield "Done."
    yield "Done."


def _orders(problem: Problem, *changes: dict[str, Any]) -> Script:
    """The oracle's dialogue with these changed orders in place of the right one."""
    for text in solve(problem):
        is_order = text == calls((ORDER.name, problem.answer["goal"]))
        goals = [{**problem.answer["goal"], **change} for change in changes]
        yield calls(*((ORDER.name, goal) for goal in goals)) if is_order else text


HACKS = {
    "answers without a call": lambda p: fixed("Done.", "Done."),
    "claims a result": lambda p: fixed(*["<tool_response>\nordered\n</tool_response>\nDone."] * 2),
    "orders twice": lambda p: _orders(p, {}, {}),
    "orders for every room": lambda p: _orders(p, *({"room": room} for room in ROOMS)),
    "invents a number": lambda p: _orders(p, {"count": 1}),
    "only asks for the price": lambda p: fixed(
        calls(("price", {"item": p.answer["goal"]["item"]})), "Done.", "Done."
    ),
    "orders at once and again": lambda p: fixed(
        calls((ORDER.name, {**p.answer["goal"], "count": 1})),
        "Is that right?",
        calls((ORDER.name, p.answer["goal"])),
        "Done.",
    ),
}

orders = World(
    "late_requests",
    make,
    (PRICE, ORDER),
    start,
    grade,
    solve,
    guess,
    HACKS,
    reply=reply,
    paired=True,
)
