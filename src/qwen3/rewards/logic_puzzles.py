"""Logic puzzles with one solution: knights and knaves, and small assignment grids.

Clues are drawn true to a world until no other world fits, found by trying all. The whole
assignment must be right.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import permutations, product
from random import Random
from typing import Any, TypeAlias

from qwen3.rewards.response import final_line
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

# (text of a clue, whether it holds in a world)
Clue: TypeAlias = tuple[str, Callable[[Any], bool]]

NAMES = ("Abel", "Bruno", "Clara", "Dina", "Edgar", "Flora", "Gus", "Heidi")
GRIDS = {
    "train": {
        "pet": ("cat", "dog", "fish", "owl", "pony"),
        "drink": ("tea", "milk", "juice", "water", "cocoa"),
    },
    "heldout": {
        "hat": ("red", "blue", "green", "white", "black"),
        "fruit": ("apple", "pear", "plum", "fig", "melon"),
    },
}
FRAMES = {
    "train": {
        "knights": "Knights always tell the truth and knaves always lie. {people} talk.",
        "grid": "{people} stand in a row from left to right, in an unknown order of {attributes}.",
    },
    "heldout": {
        "knights": "Each of {people} is a knight, whose statements are all true, or a knave, whose "
        "statements are all false.",
        "grid": "There are {people}. Everyone has something different for {attributes}.",
    },
}
ENDS = {
    "knights": "Who is what? Finish with one line: `Answer: {first} knight, {second} knave, ...`, "
    "naming all {n} in this order.",
    "grid": "Finish with one line for all of them in the order given: "
    "`Answer: {first} {a} {b}, {second} {a} {b}, ...`.",
}


def make(rng: Random, difficulty: float, split: str) -> Problem:
    kind = rng.choice(("knights", "grid"))
    build, low, high = BUILDERS[kind]
    size = levels(difficulty, low, high)
    people, truth = draw_in_split(lambda: _world(rng, kind, size), str, split)
    clues, solution, columns = build(rng, people, truth, GRIDS[split])
    listed = ", ".join(people[:-1]) + f" and {people[-1]}"
    frame = FRAMES[split][kind].format(people=listed, attributes=" and ".join(columns))
    end = ENDS[kind].format(first=people[0], second=people[1], n=size, a=columns[0], b=columns[-1])
    text = "\n".join([frame, *clues, end])
    options = [list(GRIDS[split][column][:size]) for column in columns] if kind == "grid" else []
    record = {"kind": kind, "people": people, "solution": solution, "options": options}
    return Problem("logic", ask(text), record, difficulty)


def _world(rng: Random, kind: str, size: int) -> tuple[list[str], Any]:
    """(people, the truth): a role each ("knights"), or the orders of both attributes ("grid")."""
    people = rng.sample(NAMES, size)
    if kind == "knights":
        # A world of knaves only never stands alone: knaves can but say "a is a knight".
        return people, rng.choice([w for w in product((False, True), repeat=size) if any(w)])
    return people, [rng.sample(range(size), size) for _ in range(2)]


def _knights(
    rng: Random, people: Sequence[str], truth: Sequence[bool], _columns: Mapping
) -> tuple[list[str], list[str], list[str]]:
    """(clues, solution, columns): one statement each, such that the truth alone fits all."""
    index = range(len(people))
    worlds = list(product((False, True), repeat=len(people)))
    for _ in range(20_000):
        claims = []
        for speaker in index:
            claim = _claim(rng, speaker, people)
            while claim[1](truth) != truth[speaker]:
                claim = _claim(rng, speaker, people)
            claims.append(claim)
        fits = [world for world in worlds if all(claims[i][1](world) == world[i] for i in index)]
        if len(fits) == 1:
            clues = [f'{people[i]} says: "{claims[i][0]}"' for i in index]
            return clues, [["knave", "knight"][role] for role in truth], ["role"]
    raise AssertionError(f"no statements single out {truth}")


def _claim(rng: Random, speaker: int, people: Sequence[str]) -> Clue:
    """A statement of person `speaker` about others; a world is a tuple of "is a knight"."""
    i, j = rng.sample([k for k in range(len(people)) if k != speaker], 2)
    a, b = people[i], people[j]
    return rng.choice(
        (
            (f"{a} is a knave.", lambda w: not w[i]),
            (f"{a} is a knight.", lambda w: w[i]),
            (f"{a} and {b} are of the same kind.", lambda w: w[i] == w[j]),
            (f"{a} or {b} is a knave, perhaps both.", lambda w: not (w[i] and w[j])),
            (f"If {a} is a knight, so is {b}.", lambda w: not w[i] or w[j]),
        )
    )


def _grid(
    rng: Random, people: Sequence[str], truth: Sequence[Sequence[int]], columns: Mapping
) -> tuple[list[str], list[str], list[str]]:
    """(clues, solution, columns): clues are added until one assignment is left."""
    n, (first, second) = len(people), columns
    orders = list(permutations(range(n)))
    worlds, clues = list(product(orders, orders)), list[str]()
    while len(worlds) > 1:
        text, holds = _clue(rng, people, truth, columns[first][:n], columns[second][:n])
        left = [world for world in worlds if holds(world)]
        if len(left) < len(worlds):
            worlds, clues = left, [*clues, text]
    pairs = zip(*truth, strict=True)
    solution = [f"{columns[first][x]} {columns[second][y]}" for x, y in pairs]
    return clues, solution, [first, second]


def _clue(
    rng: Random,
    people: Sequence[str],
    truth: Sequence[Sequence[int]],
    firsts: Sequence[str],
    seconds: Sequence[str],
) -> Clue:
    """A true statement; a world is (first attribute of each person, second attribute of each)."""
    i, j = rng.sample(range(len(people)), 2)
    which = rng.randrange(2)
    values = (firsts, seconds)[which]
    x, y = truth[0][i], truth[1][i]
    other = truth[which][j]
    return rng.choice(
        (
            (f"{people[i]} does not have {values[other]}.", lambda w: w[which][i] != other),
            (
                f"The one with {firsts[x]} also has {seconds[y]}.",
                lambda w: w[1][w[0].index(x)] == y,
            ),
            (
                f"{people[i]} has {firsts[x]} or {people[j]} has {firsts[x]}.",
                lambda w: x in (w[0][i], w[0][j]),
            ),
            (
                f"{people[i]} has {values[truth[which][i]]}.",
                lambda w: w[which][i] == truth[which][i],
            ),
        )
    )


# kind: (builder, smallest and largest number of people)
BUILDERS: dict[str, tuple[Callable, int, int]] = {
    "knights": (_knights, 4, 7),
    "grid": (_grid, 3, 5),
}


def _line(people: Iterable[str], solution: Iterable[str]) -> str:
    return ", ".join(f"{a} {b}" for a, b in zip(people, solution, strict=True))


def grade(problem: Problem, answer: str) -> float:
    final = final_line(answer)
    expected = _line(problem.answer["people"], problem.answer["solution"])
    return final is not None and re.sub(r"\s+", " ", final).rstrip(".").lower() == expected.lower()


def solve(problem: Problem) -> tuple[str, str]:
    line = _line(problem.answer["people"], problem.answer["solution"])
    return f"Trying all cases leaves {line}.", f"Answer: {line}"


def guess(problem: Problem, rng: Random) -> str:
    """A random assignment in the right form."""
    people, options = problem.answer["people"], problem.answer["options"]
    if options:
        shuffled = [rng.sample(column, len(people)) for column in options]
        return f"Answer: {_line(people, map(' '.join, zip(*shuffled, strict=True)))}"
    return f"Answer: {_line(people, [rng.choice(('knight', 'knave')) for _ in people])}"


_P = Problem(
    "logic",
    ask("Abel says: Bruno is a knave. Bruno says: Abel is a knave. ..."),
    {
        "kind": "knights",
        "people": ["Abel", "Bruno"],
        "solution": ["knight", "knave"],
        "options": [],
    },
)

assignment = Task(
    "logic",
    make,
    grade,
    solve,
    guess,
    examples=(
        (_P, "<think>\nBoth ways.\n</think>\n\nAnswer: Abel knight, Bruno knave", 1.0),
        (_P, "So:\nAnswer:  abel Knight, bruno knave.", 1.0),
        (_P, "Answer: Abel knight, Bruno knight", 0.0),
        (_P, "Answer: Abel knight or knave, Bruno knight or knave", 0.0),
        (_P, "Answer: Abel knight, Bruno knave\nAnswer: Abel knave, Bruno knight", 0.0),
        (_P, "Answer: Abel knight, Bruno knave\nor the other way round", 0.0),
        (_P, "<think>\nAnswer: Abel knight, Bruno knave\n</think>\n\nDone.", 0.0),
    ),
)
