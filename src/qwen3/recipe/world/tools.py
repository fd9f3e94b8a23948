"""A small family of tool calls in the lock world: Hermes form, short schemas, one call an answer.

The grader is `rewards.tool_call`'s; only tools and requests are ours, small enough for tiny models.
"""

from __future__ import annotations

from random import Random

from qwen3.recipe.world import documents
from qwen3.rewards import Problem, tool_call
from qwen3.rewards.locks import lock
from qwen3.rewards.task import ask, draw_in_split

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


def problem(seed, split):
    """One request with two of the tools on offer. Splits differ in tool, arguments and wording
    together."""
    rng = Random(f"tools/{split}/{seed}")

    def draw():
        name = rng.choice(list(TOOLS))
        _, requests, fields = TOOLS[name]
        arguments = {field: draw(rng) for field, (_, draw) in fields.items()}
        return name, arguments, rng.choice(requests).format(**arguments)

    name, arguments, text = draw_in_split(draw, lambda drawn: drawn[2], split)
    offered = [name, rng.choice([other for other in TOOLS if other != name])]
    rng.shuffle(offered)
    listed = [tool_call.describe(each, *TOOLS[each]) for each in offered]
    return Problem("tool_call", ask(text), {"name": name, "arguments": arguments}, tools=listed)
