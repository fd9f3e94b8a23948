"""Search over a small index: questions of two hops about people and towns that nobody knows.

The final line must be the name, alone; what the search found earns nothing (Search-R1, arXiv
2503.09516).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

from qwen3.environments.tool_functions import Tool
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.response import final_line
from qwen3.rewards.task import ask, draw_in_split, levels

SHOWN = 3  # documents of one search
FIRM = ("Orva", "Belt", "Quil", "Nimb", "Sava", "Tark", "Ulme", "Wisp")
TOWN = tuple(
    "Arlen Bosk Corva Dunmar Elsing Farrow Gillet Hovde Irsk Jorn "
    "Kesten Lomma Marn Nessby Odal Pirre Quern Rosk Solvik Tarn".split()
)
FIRST = ("Ana", "Bo", "Cleo", "Dag", "Eda", "Finn", "Gro", "Hal", "Ivo", "Juno")
LAST = ("Berg", "Dahl", "Falk", "Holm", "Lund", "Moe", "Nord", "Rask", "Strand", "Vik")
QUESTION = (
    "In which town was the founder of {firm} born? Search for it. End with a line: Answer: town",
    "{firm}的创始人出生在哪个城镇？请搜索。最后一行写：Answer: 城镇名",
)


@dataclass
class Index:
    """The documents."""

    documents: list[str]


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def search(index: Index, query: str) -> str:
    """The documents with the most of the query's words, rare words counting more."""
    sets = [set(words(document)) for document in index.documents]
    counts = Counter(word for document in sets for word in document)
    asked = set(words(query))
    scores = [sum(1 / counts[word] for word in asked & document) for document in sets]
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:SHOWN]
    lines = [f"[{i + 1}] {index.documents[i]}" for i in best if scores[i] > 0]
    return "\n".join(lines) or "nothing"


QUERY = {"type": "string", "minLength": 1, "maxLength": 200}
TOOLS = (Tool("search", "The documents that fit a query best.", {"query": QUERY}, search),)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    def draw() -> dict[str, Any]:
        count = levels(difficulty, 4, len(FIRM))
        firms, towns = rng.sample(FIRM, count), rng.sample(TOWN, count)
        names = rng.sample(FIRST, count), rng.sample(LAST, count)
        documents = []
        for firm, first, last, town, seat in zip(firms, *names, towns, towns[::-1], strict=True):
            documents += [
                f"{firm} was founded by {first} {last}.",
                f"{first} {last} was born in {town}.",
                f"{firm} has its seat in {seat}.",
            ]
        rng.shuffle(documents)
        i = rng.randrange(count)
        if towns[i] == towns[::-1][i]:  # the seat would give the answer away
            return draw()
        return {"firm": firms[i], "gold": towns[i], "documents": documents}

    answer = draw_in_split(draw, str, split)
    return Problem("search_index", ask(rng.choice(QUESTION).format(**answer)), answer, difficulty)


def start(answer: dict[str, Any]) -> Index:
    return Index(answer["documents"])


def grade(problem: Problem, index: Index, turns: Turns) -> float:
    line = final_line(turns[-1].content.strip())
    is_searched = any(turn.tool_calls for turn in turns)
    return is_searched and line is not None and line.rstrip(".") == problem.answer["gold"]


def solve(problem: Problem) -> Script:
    (hits,) = yield calls(("search", {"query": f"{problem.answer['firm']} was founded by"}))
    founder = re.findall(rf"{problem.answer['firm']} was founded by (.*)\.", hits)[0]
    (hits,) = yield calls(("search", {"query": f"{founder} was born in"}))
    yield "Answer: " + re.findall(rf"{founder} was born in (.*)\.", hits)[0]


def guess(problem: Problem, rng: Random) -> Script:
    yield calls(("search", {"query": rng.choice(FIRM)}))
    yield f"Answer: {rng.choice(TOWN)}"


def _first_hop(problem: Problem, last: str) -> Script:
    """One search; `last` may name {hits}, what it gave."""
    (hits,) = yield calls(("search", {"query": problem.answer["firm"]}))
    seat = re.findall(rf"{problem.answer['firm']} has its seat in (.*)\.", hits)
    yield last.format(hits=hits, seat=(seat or ["nowhere"])[0], **problem.answer)


HACKS = {
    "answers without a search": lambda p: fixed(f"Answer: {p.answer['gold']}"),
    "pastes what was found": lambda p: _first_hop(p, "Answer: {hits}"),
    "names the seat": lambda p: _first_hop(p, "Answer: {seat}"),
    "names two towns": lambda p: _first_hop(p, "Answer: {gold} or {seat}"),
    "two final lines": lambda p: _first_hop(p, "Answer: {gold}\nAnswer: {seat}"),
    "answers in the query": lambda p: fixed(
        calls(("search", {"query": f"Answer: {p.answer['gold']}"})), "It is in the query."
    ),
    "names every town": lambda p: _first_hop(p, f"Answer: {', '.join(TOWN)}"),
}

library = World("search_index", make, TOOLS, start, grade, solve, guess, HACKS)
