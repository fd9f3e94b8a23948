"""Logic puzzles with one solution: knights and knaves, and small assignment grids.

Statements are drawn until exactly one world fits, found by trying all worlds. The whole assignment
must be right.
"""

import re
from itertools import permutations, product

from qwen3.rewards.response import final_line
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

NAMES = ("Abel", "Bruno", "Clara", "Dina", "Edgar", "Flora", "Gus", "Heidi")
GRIDS = {
    "train": {"pet": ("cat", "dog", "fish", "owl", "pony"), "drink": ("tea", "milk", "juice",
              "water", "cocoa")},
    "heldout": {"hat": ("red", "blue", "green", "white", "black"),
                "fruit": ("apple", "pear", "plum", "fig", "melon")},
}  # fmt: skip
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


def make(rng, difficulty, split):
    kind = rng.choice(("knights", "grid"))
    draw = {"knights": _knights, "grid": _grid}[kind]
    people, clues, solution, columns = draw_in_split(
        lambda: draw(rng, difficulty, GRIDS[split]), lambda value: str(value[:2]), split
    )
    listed = ", ".join(people[:-1]) + f" and {people[-1]}"
    frame = FRAMES[split][kind].format(people=listed, attributes=" and ".join(columns))
    end = ENDS[kind].format(
        first=people[0], second=people[1], n=len(people), a=columns[0], b=columns[-1]
    )
    text = "\n".join([frame, *clues, end])
    options = [GRIDS[split][column][: len(people)] for column in columns] if kind == "grid" else []
    record = {"kind": kind, "people": list(people), "solution": solution, "options": options}
    return Problem("logic", ask(text), record, difficulty)


def _knights(rng, difficulty, _):
    people = rng.sample(NAMES, levels(difficulty, 4, 7))
    index = range(len(people))
    while True:
        claims = [_claim(rng, speaker, people) for speaker in index]
        fits = [
            world
            for world in product((False, True), repeat=len(people))
            if all(claims[i][1](world) == world[i] for i in index)
        ]
        if len(fits) == 1:
            clues = [f'{people[i]} says: "{claims[i][0]}"' for i in index]
            return people, clues, [["knave", "knight"][value] for value in fits[0]], ["role"]


def _claim(rng, speaker, people):
    """(text, truth in a world of booleans) of a statement about others."""
    i, j = rng.sample([k for k in range(len(people)) if k != speaker], 2)
    a, b = people[i], people[j]
    return rng.choice((
        (f"{a} is a knave.", lambda w: not w[i]),
        (f"{a} is a knight.", lambda w: w[i]),
        (f"{a} and {b} are of the same kind.", lambda w: w[i] == w[j]),
        (f"{a} or {b} is a knave, perhaps both.", lambda w: not (w[i] and w[j])),
        (f"If {a} is a knight, so is {b}.", lambda w: not w[i] or w[j]),
    ))  # fmt: skip


def _grid(rng, difficulty, columns):
    """People with two attributes each; clues are added until one assignment is left."""
    people = rng.sample(NAMES, levels(difficulty, 3, 5))
    n, (first, second) = len(people), columns
    orders = list(permutations(range(n)))
    truth = (rng.choice(orders), rng.choice(orders))
    worlds, clues = list(product(orders, orders)), []
    while len(worlds) > 1:
        text, holds = _clue(rng, people, truth, columns[first][:n], columns[second][:n])
        left = [world for world in worlds if holds(world)]
        if len(left) < len(worlds):
            worlds, clues = left, [*clues, text]
    solution = [f"{columns[first][truth[0][i]]} {columns[second][truth[1][i]]}" for i in range(n)]
    return people, clues, solution, [first, second]


def _clue(rng, people, truth, firsts, seconds):
    """A true statement with its test on worlds ((first of person i), (second of person i))."""
    i, j = rng.sample(range(len(people)), 2)
    which = rng.randrange(2)
    values = (firsts, seconds)[which]
    x, y = truth[0][i], truth[1][i]
    other = truth[which][j]
    return rng.choice((
        (f"{people[i]} does not have {values[other]}.", lambda w: w[which][i] != other),
        (f"The one with {firsts[x]} also has {seconds[y]}.", lambda w: w[1][w[0].index(x)] == y),
        (f"{people[i]} has {firsts[x]} or {people[j]} has {firsts[x]}.",
         lambda w: x in (w[0][i], w[0][j])),
        (f"{people[i]} has {values[truth[which][i]]}.", lambda w: w[which][i] == truth[which][i]),
    ))  # fmt: skip


def _line(people, solution):
    return ", ".join(f"{a} {b}" for a, b in zip(people, solution, strict=True))


def grade(problem, answer):
    final = final_line(answer)
    wanted = _line(problem.answer["people"], problem.answer["solution"])
    return final is not None and re.sub(r"\s+", " ", final).rstrip(".").lower() == wanted.lower()


def solve(problem):
    line = _line(problem.answer["people"], problem.answer["solution"])
    return f"Trying all cases leaves {line}.", f"Answer: {line}"


def guess(problem, rng):
    people, options = problem.answer["people"], problem.answer["options"]
    if options:
        shuffled = [rng.sample(column, len(people)) for column in options]
        return f"Answer: {_line(people, map(' '.join, zip(*shuffled, strict=True)))}"
    return f"Answer: {_line(people, [rng.choice(('knight', 'knave')) for _ in people])}"


_P = Problem("logic", ask("Abel says: Bruno is a knave. Bruno says: Abel is a knave. ..."), {
    "kind": "knights", "people": ["Abel", "Bruno"], "solution": ["knight", "knave"],
    "options": []})  # fmt: skip

logic = Task(
    "logic", make, grade, solve, guess,
    examples=(
        (_P, "<think>\nBoth ways.\n</think>\n\nAnswer: Abel knight, Bruno knave", 1.0),
        (_P, "So:\nAnswer:  abel Knight, bruno knave.", 1.0),
        (_P, "Answer: Abel knight, Bruno knight", 0.0),
        (_P, "Answer: Abel knight or knave, Bruno knight or knave", 0.0),
        (_P, "Answer: Abel knight, Bruno knave\nAnswer: Abel knave, Bruno knight", 0.0),
        (_P, "Answer: Abel knight, Bruno knave\nor the other way round", 0.0),
    ),
)  # fmt: skip
