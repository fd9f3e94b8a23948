"""A small family of tool calls in the lock world: Hermes form, short schemas, one call an answer.

Requests and grader are those of `rewards.tool_call`; the table is small enough for tiny models.
"""

from __future__ import annotations

from random import Random

from qwen3.recipe.world import documents
from qwen3.rewards import Problem, tool_call
from qwen3.rewards.locks import lock

# tool: (description, requests, {argument: (JSON type, draw)})
TOOLS = {
    "look_up": (
        "Reads the ledger.",
        ("What is in the ledger for {key}?", "Look up {key}."),
        {"key": ("string", lambda r: r.choice(documents.KEYS["en"]))},
    ),
    "set_lock": (
        "Sets a lock.",
        ("Set the lock of {name} to {code}.", "{name} wants {code}."),
        {
            "name": ("string", lambda r: r.choice(lock.NAMES["en"])),
            "code": ("string", lock.draw_code),
        },
    ),
    "turn": (
        "Turns a place up.",
        ("Turn {place} up {k}.", "Please turn {place} up by {k}."),
        {
            "place": ("string", lambda r: r.choice(lock.PLACES["en"])),
            "k": ("integer", lambda r: r.randint(1, 9)),
        },
    ),
}


def problem(seed: int | str, split: str) -> Problem:
    """One request with two of the tools on offer."""
    return tool_call.request(Random(f"tools/{split}/{seed}"), TOOLS, 2, split)
