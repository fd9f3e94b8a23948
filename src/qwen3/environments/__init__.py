"""Environments of several turns: adding a world is adding a file and a row here.

    world = environments.get("key_value")
    problem = world.generate(seed, difficulty=0.5, split="train", mode="think")
    episode = world.begin(problem)
    step = episode.step(turn)  # ... until step.done
    score = episode.verdict()

A world is named in a mixture of prompts and in files of problems as a task of `qwen3.rewards` is.
"""

from qwen3 import rewards
from qwen3.environments import (
    appointments,
    file_tree,
    key_value,
    late_requests,
    python_tool,
    search_index,
    sql_database,
    unit_conversion,
)
from qwen3.environments.world import World
from qwen3.rewards import Task

__all__ = ["WORLDS", "World", "get"]

WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        key_value.store,
        appointments.calendar,
        unit_conversion.converter,
        file_tree.files,
        sql_database.questions,
        python_tool.interpreter,
        search_index.library,
        late_requests.orders,
    )
}


def get(name: str) -> World | Task:
    """The world or task of that name; ValueError naming the choices."""
    if name in WORLDS:
        return WORLDS[name]
    if name not in rewards.TASKS:
        known = sorted([*rewards.TASKS, *WORLDS])
        raise ValueError(f"task {name!r} does not exist; there are {known}")
    return rewards.TASKS[name]
