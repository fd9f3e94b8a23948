"""Answers of models that are broken or hostile, in every family that runs no code."""

import random

import damage

from qwen3.rewards import TASKS, response

FAMILIES = [task for name, task in TASKS.items() if name not in ("coding", "code_repair")]


def hostile_answers(rng: random.Random):
    """(task, problem, turn) of one answer, some of them as long as a turn may be."""
    task = rng.choice(FAMILIES)
    problem = task.generate(rng.randrange(200), rng.random())
    _, right = task.solve(problem)
    body = damage.mangled(right, rng)
    if rng.random() < 0.1:
        body = (rng.choice(damage.PIECES) * 65_000)[:65_000]
    thinking = "" if problem.mode == "no_think" else "Hm."
    return task, problem, response.render(thinking, body)
