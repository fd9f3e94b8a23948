"""Verifiable tasks. Adding a family is adding a file and a row here.

task = rewards.get("countdown")
problem = task.generate(seed, difficulty=0.5, split="train", mode="think")
reward = task.score(problem, text)  # text after <|im_start|>assistant; None: no verdict
"""

from qwen3.rewards.coding import coding
from qwen3.rewards.constraints import constraints
from qwen3.rewards.countdown import countdown
from qwen3.rewards.length import length_control
from qwen3.rewards.logic import logic
from qwen3.rewards.maths import maths
from qwen3.rewards.mode_following import mode_following
from qwen3.rewards.schema import format_task
from qwen3.rewards.task import NoVerdict, Problem, Task
from qwen3.rewards.tool_call import tool_call
from qwen3.rewards.word_problems import lock_task, word_problems

__all__ = ["TASKS", "NoVerdict", "Problem", "Task", "get"]

TASKS = {
    task.name: task
    for task in (
        lock_task,
        word_problems,
        maths,
        countdown,
        coding,
        mode_following,
        format_task,
        length_control,
        constraints,
        tool_call,
        logic,
    )
}


def get(name):
    """The task of that name; ValueError naming the choices."""
    if name not in TASKS:
        raise ValueError(f"task {name!r} does not exist; there are {sorted(TASKS)}")
    return TASKS[name]
