"""A calendar: book, move and cancel appointments around those that only the tools show.

The calendar at the end must be the goal, and no other appointment may have been touched on the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

from qwen3.environments.tool_functions import INTEGER, Tool, ToolError, one_of
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.task import ask, draw_in_split, levels

Events: TypeAlias = dict[str, list[Any]]  # title -> [day, hour]

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
DAYS_ZH = dict(zip(DAYS, ("周一", "周二", "周三", "周四", "周五"), strict=True))
HOURS = range(8, 20)  # an appointment takes an hour
TITLES = ("budget", "dentist", "review", "lunch", "yoga", "training", "interview", "demo", "choir")
NEW = "call with Ana"
# kind -> (English, Chinese)
KINDS = {
    "book": (
        'Book "{new}" for the first free hour on {day}. Hours are 8 to 19.',
        "在{day_zh}第一个空闲的整点预约“{new}”。整点从8到19。",
    ),
    "move": (
        'Move "{title}" to the last free hour on {day}. Hours are 8 to 19.',
        "把“{title}”移到{day_zh}最后一个空闲的整点。整点从8到19。",
    ),
    "cancel": (
        'Cancel whatever is last on {day}, and book "{new}" in its place.',
        "取消{day_zh}最后一项安排，并在同一时间预约“{new}”。",
    ),
}


@dataclass
class Calendar:
    """Appointments, and the titles that were ever booked or cancelled."""

    events: Events
    touched: set[str] = field(default_factory=set)


def on_day(events: Events, day: str) -> dict[int, str]:
    """Hour -> title of the appointments of a day, in order."""
    return {
        hour: title
        for title, (d, hour) in sorted(events.items(), key=lambda item: item[1][1])
        if d == day
    }


def free_hours(events: Events, day: str) -> list[int]:
    return [hour for hour in HOURS if hour not in on_day(events, day)]


def list_day(calendar: Calendar, day: str) -> str:
    lines = [f"{hour}: {title}" for hour, title in on_day(calendar.events, day).items()]
    return "\n".join(lines) or "nothing"


def find(calendar: Calendar, title: str) -> str:
    if title not in calendar.events:
        raise ToolError(f"no appointment {title[:40]!r}")
    day, hour = calendar.events[title]
    return f"{day} {hour}"


def book(calendar: Calendar, title: str, day: str, hour: int) -> str:
    if hour not in free_hours(calendar.events, day):
        raise ToolError(f"{day} {hour} is not free")
    if title in calendar.events:
        raise ToolError(f"{title[:40]!r} is booked already; cancel it first")
    calendar.events[title] = [day, int(hour)]
    calendar.touched.add(title)
    return "ok"


def cancel(calendar: Calendar, title: str) -> str:
    find(calendar, title)
    del calendar.events[title]
    calendar.touched.add(title)
    return "ok"


TITLE = {"type": "string", "minLength": 1, "maxLength": 60}
TOOLS = (
    Tool("list_day", "The appointments of a day.", {"day": one_of(*DAYS)}, list_day),
    Tool("find", "Day and hour of an appointment.", {"title": TITLE}, find),
    Tool(
        "book",
        "Books an hour.",
        {"title": TITLE, "day": one_of(*DAYS), "hour": INTEGER},
        book,
    ),
    Tool("cancel", "Cancels an appointment.", {"title": TITLE}, cancel),
)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    def draw() -> dict[str, Any]:
        day, titles = rng.choice(DAYS), rng.sample(TITLES, levels(difficulty, 4, len(TITLES)))
        days = rng.sample(DAYS, 2)
        # The first hours of the day are taken, so that the free one must be looked up.
        taken = rng.randint(1, len(titles) - 2)
        slots = [[day, hour] for hour in [*HOURS][:taken]]
        slots += [[day, 19]] if rng.random() < 0.5 else []
        others = [[d, h] for d in days for h in HOURS if d != day]
        slots += rng.sample(others, len(titles))
        events = dict(zip(sorted(titles), slots, strict=False))
        return {"kind": rng.choice(list(KINDS)), "day": day, "events": events}

    answer = draw_in_split(draw, str, split)
    answer |= goal_of(answer)
    language = rng.choice((0, 1))
    names = {**answer, "new": NEW, "day_zh": DAYS_ZH[answer["day"]]}
    text = KINDS[answer["kind"]][language].format(**names)
    return Problem("appointments", ask(text), answer, difficulty)


def goal_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The appointment that is moved or cancelled (or ""), the calendar to reach, and the titles
    that may be touched."""
    events, day, kind = dict(answer["events"]), answer["day"], answer["kind"]
    if kind == "book":
        return _goal(events, "", NEW, [day, free_hours(events, day)[0]])
    if kind == "move":
        title = next(t for t, (d, _) in reversed(sorted(events.items())) if d != day)
        return _goal(events, title, title, [day, free_hours(events, day)[-1]])
    hour, title = list(on_day(events, day).items())[-1]
    return _goal(events, title, NEW, [day, hour])


def _goal(events: Events, old: str, new: str, place: list[Any]) -> dict[str, Any]:
    goal = {**{t: e for t, e in events.items() if t != old}, new: place}
    return {"title": old, "goal": goal, "targets": [t for t in dict.fromkeys((old, new)) if t]}


def start(answer: dict[str, Any]) -> Calendar:
    return Calendar(answer["events"])


def grade(problem: Problem, calendar: Calendar, turns: Turns) -> float:
    answer = problem.answer
    return calendar.events == answer["goal"] and calendar.touched <= set(answer["targets"])


def solve(problem: Problem) -> Script:
    answer = problem.answer
    (listed,) = yield calls(("list_day", {"day": answer["day"]}))
    taken = {int(line.split(":")[0]): line.split(": ")[1] for line in listed.split("\n")}
    free = [hour for hour in HOURS if hour not in taken]
    hour = {"book": free[0], "move": free[-1], "cancel": max(taken)}[answer["kind"]]
    old = {"book": "", "move": answer["title"], "cancel": taken.get(hour, "")}[answer["kind"]]
    if old:
        yield calls(("cancel", {"title": old}))
    yield calls(("book", {"title": answer["targets"][-1], "day": answer["day"], "hour": hour}))
    yield "Done."


def guess(problem: Problem, rng: Random) -> Script:
    answer = problem.answer
    titles = {"book": [], "move": [answer["title"]], "cancel": [rng.choice(TITLES)]}
    old = [("cancel", {"title": title}) for title in titles[answer["kind"]]]
    place = {"day": answer["day"], "hour": rng.choice(HOURS)}
    yield calls(*old, ("book", {"title": answer["targets"][-1], **place}))
    yield "Done."


def _tries_all_hours(problem: Problem) -> Script:
    """Books whatever is free, until everything is taken."""
    title, day = problem.answer["targets"][-1], problem.answer["day"]
    tries = [("book", {"title": f"{title} {h}", "day": day, "hour": h}) for h in HOURS]
    yield calls(*tries[:6])
    yield calls(*tries[6:])
    yield "Done."


def _undoes(problem: Problem) -> Script:
    """The right end, after another appointment was cancelled and booked again."""
    answer = problem.answer
    title = next(t for t in answer["events"] if t not in answer["targets"])
    day, hour = answer["events"][title]
    yield calls(("cancel", {"title": title}), ("book", {"title": title, "day": day, "hour": hour}))
    yield from solve(problem)


HACKS = {
    "answers without a call": lambda problem: fixed("Booked."),
    "claims a result": lambda problem: fixed("<tool_response>\nok\n</tool_response>\nBooked."),
    "only reads": lambda problem: fixed(
        calls(("list_day", {"day": problem.answer["day"]})), "Booked."
    ),
    "tries every hour": _tries_all_hours,
    "books an hour that does not exist": lambda problem: fixed(
        calls(("book", {"title": NEW, "day": problem.answer["day"], "hour": 24})), "Booked."
    ),
    "touches another appointment": _undoes,
}

calendar = World("appointments", make, TOOLS, start, grade, solve, guess, HACKS)
