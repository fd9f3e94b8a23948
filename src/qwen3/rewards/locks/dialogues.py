"""ThinkFollow: dialogues with random /think and /no_think flags; the last flag seen wins.

Some last turns carry no flag after earlier ones, some dialogues carry none at all (then thinking is
the default). An answer scores 1 if its turn obeys the mode and is right; `followed` scores the mode
alone, the figure of the report's Table 22 (arXiv 2505.09388).
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random

from qwen3.rewards import response
from qwen3.rewards.locks import lock, lock_tasks
from qwen3.rewards.task import Problem, Task, draw_in_split, levels

PLACES = ("end", "front", "system")  # where a dialogue's flags stand
# The task's held-out dialogues put flags where training never does.
TASK_PLACES = {"train": PLACES[:1], "heldout": PLACES[1:]}
P_FLAG = 0.7  # chance that a turn before the last one carries a flag


def make(rng: Random, difficulty: float, split: str) -> Problem:
    """A dialogue whose locks have at most 1..6 days by difficulty."""
    longest = levels(difficulty, 1, lock.MOST_DAYS)
    problem = dialogue(rng, split, places=TASK_PLACES[split], longest=longest)
    return replace(problem, difficulty=difficulty)


def dialogue(
    rng: Random,
    split: str,
    flagged: float = 0.5,
    *,
    places: Sequence[str] = PLACES,
    longest: int = 4,
) -> Problem:
    """One dialogue of one to three turns, each about a lock of 1..`longest` days.

    `flagged` is the chance that the last turn carries a flag. The problem's mode is that of the
    last flag; without any flag it is "think".
    """
    place, turns, thinks = rng.choice(places), rng.randint(1, 3), True
    messages: list[dict] = []
    if place == "system":
        thinks = rng.random() < 0.5
        messages.append({"role": "system", "content": f"Work on locks. {_flag(thinks)}"})
    for turn in range(turns):
        last = turn == turns - 1
        names = [rng.choice(lock.NAMES["en"])]
        days = rng.randint(1, longest)
        draw = partial(lock.draw_locks, rng, days, names)
        locks = draw_in_split(draw, lock.key, split)
        text = lock_tasks.question(locks, "en")
        if rng.random() < (flagged if last else P_FLAG):
            thinks = rng.random() < 0.5
            text = f"{_flag(thinks)} {text}" if place == "front" else f"{text} {_flag(thinks)}"
        messages.append({"role": "user", "content": text})
        if not last:
            messages.append(_reply(locks, thinks))
    record = lock_tasks.problem(locks).answer
    mode = "think" if thinks else "no_think"
    return Problem("mode_following", messages, record, days / 6, mode=mode)


def _flag(thinks: bool) -> str:
    return "/think" if thinks else "/no_think"


def _reply(locks: Sequence[lock.Lock], thinks: bool) -> dict:
    """An earlier assistant turn; the template drops its reasoning, other renderings may keep it."""
    thinking = lock.trace(locks, "en", "careful") if thinks else ""
    content = lock.answer(locks, "en")
    return {"role": "assistant", "content": content, "reasoning_content": thinking}


def followed(problem: Problem, text: str) -> float:
    """1.0 if the turn has one good block, empty or not as the dialogue asks, and an answer."""
    return float(response.formed(text, problem.mode))


def _dialogue(flags: Sequence[str], mode: str) -> Problem:
    problem = lock_tasks.EXAMPLE
    text = problem.messages[0]["content"]
    messages: list[dict] = []
    for flag in flags:
        messages += [
            {"role": "user", "content": f"{text} {flag}".strip()},
            {"role": "assistant", "content": "The lock ends at 346."},
        ]
    return Problem("mode_following", messages[:-1], problem.answer, mode=mode)


_UNFLAGGED, _KEPT = _dialogue(["", ""], "think"), _dialogue(["/think", "/no_think", ""], "no_think")
_THINK, _EMPTY = "<think>\nMonday.\n</think>\n\n", "<think>\n\n</think>\n\n"
_RIGHT = "The lock ends at 346."

last_flag_wins = Task(
    "mode_following",
    make,
    lock_tasks.grade,
    lock_tasks.solve,
    lock_tasks.guess,
    group="format",
    examples=(
        (_UNFLAGGED, _THINK + _RIGHT, 1.0),
        (_UNFLAGGED, _EMPTY + _RIGHT, 0.0),
        (_KEPT, _EMPTY + _RIGHT, 1.0),
        (_KEPT, _THINK + _RIGHT, 0.0),
        (_KEPT, _RIGHT, 0.0),
        (_KEPT, _EMPTY + _EMPTY + _RIGHT, 0.0),
        (_KEPT, "<think></think>" + _RIGHT, 0.0),
    ),
)
