"""ThinkFollow: dialogues with random /think and /no_think flags; the last flag seen wins.

Some last turns carry no flag after earlier ones, some dialogues carry none at all (then thinking is
the default). Scores 1 if the turn obeys the mode and the answer is right; `followed` is the mode
alone, the figure of the report's Table 22.
"""

from qwen3.data.chat_parse import mode_of
from qwen3.rewards import response
from qwen3.rewards.locks import lock, lock_tasks
from qwen3.rewards.task import Problem, Task, draw_in_split, levels

# Held-out dialogues put the flag in front of the question or in a system turn, and are longer.
PLACES = {"train": ("end",), "heldout": ("front", "system")}
TURNS = {"train": (1, 3), "heldout": (2, 4)}
P_FLAG = 0.6


def make(rng, difficulty, split):
    low, high = TURNS[split]
    turns = rng.randint(low, levels(difficulty, low, high))
    place = rng.choice(PLACES[split])
    days = levels(difficulty, 1, lock.MOST_DAYS)
    messages = []
    if place == "system":
        flag = rng.choice(("/think", "/no_think"))
        messages.append({"role": "system", "content": f"Work on locks. {flag}"})
    for turn in range(turns):
        name = rng.choice(lock.NAMES["en"])
        locks = draw_in_split(lambda name=name: lock.draw_locks(rng, days, [name]), lock.key, split)
        text = lock_tasks.question(locks, "en")
        if rng.random() < P_FLAG:
            flag = rng.choice(("/think", "/no_think"))
            text = f"{flag} {text}" if place == "front" else f"{text} {flag}"
        messages.append({"role": "user", "content": text})
        if turn < turns - 1:
            messages.append(_reply(locks, mode_of(messages)))
    record = lock_tasks.problem(locks).answer
    mode = "think" if mode_of(messages) else "no_think"
    return Problem("mode_following", messages, record, difficulty, mode=mode)


def _reply(locks, thinks):
    """An earlier assistant turn; the template drops its reasoning, other renderings may keep it."""
    thinking = lock.trace(locks, "en", "careful") if thinks else ""
    content = lock.answer(locks, "en")
    return {"role": "assistant", "content": content, "reasoning_content": thinking}


def followed(problem, text):
    """1.0 if the turn has one good block, empty or not as the dialogue asks, and an answer."""
    return float(response.formed(text, problem.mode))


def _dialogue(flags, mode):
    problem = lock_tasks.EXAMPLE
    text = problem.messages[0]["content"]
    messages = []
    for flag in flags:
        messages += [
            {"role": "user", "content": f"{text} {flag}".strip()},
            {"role": "assistant", "content": "The lock ends at 346."},
        ]
    return Problem("mode_following", messages[:-1], problem.answer, mode=mode)


_NONE, _KEPT = _dialogue(["", ""], "think"), _dialogue(["/think", "/no_think", ""], "no_think")
_THINK, _EMPTY = "<think>\nMonday.\n</think>\n\n", "<think>\n\n</think>\n\n"
_RIGHT = "The lock ends at 346."

last_flag_wins = Task(
    "mode_following",
    make,
    lock_tasks.grade,
    lock_tasks.solve,
    lock_tasks.guess,
    examples=(
        (_NONE, _THINK + _RIGHT, 1.0),
        (_NONE, _EMPTY + _RIGHT, 0.0),
        (_KEPT, _EMPTY + _RIGHT, 1.0),
        (_KEPT, _THINK + _RIGHT, 0.0),
        (_KEPT, _RIGHT, 0.0),
        (_KEPT, _EMPTY + _EMPTY + _RIGHT, 0.0),
        (_KEPT, "<think></think>" + _RIGHT, 0.0),
    ),
)
