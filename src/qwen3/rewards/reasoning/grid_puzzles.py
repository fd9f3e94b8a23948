"""Puzzles with more than one right answer, all of them accepted: shortest path, 4 x 4 sudoku."""

from itertools import product
from random import Random

from qwen3.rewards.exact_answer import Drawn, ExactAnswer, normal
from qwen3.rewards.task import Problem

NODES = "ABCDEFGHIJ"
LINES = [
    *([(r, c) for c in range(4)] for r in range(4)),
    *([(r, c) for r in range(4)] for c in range(4)),
    *(
        [(2 * b + r, 2 * d + c) for r, c in product(range(2), repeat=2)]
        for b, d in product(range(2), repeat=2)
    ),
]


def _graph(rng: Random, size: int, _language: str) -> Drawn:
    """Roads between `size` towns; the shortest way has at least three roads."""
    while True:
        towns = NODES[:size]
        roads = {}
        for a, b in zip(towns, towns[1:], strict=False):
            roads[a + b] = rng.randint(1, 9)
        for _ in range(size):
            a, b = sorted(rng.sample(towns, 2))
            roads[a + b] = rng.randint(4, 30)
        names = dict(zip(towns, rng.sample(towns, size), strict=True))
        listed = [(names[k[0]], names[k[1]], v) for k, v in roads.items()]
        start, goal = names[towns[0]], names[towns[-1]]
        path = shortest(listed, start, goal)
        if len(path) > 3:
            rng.shuffle(listed)
            text = ", ".join(f"{a}-{b} {length}" for a, b, length in listed)
            return {"roads": text, "start": start, "goal": goal}, "-".join(path)


def shortest(roads: list[tuple[str, str, int]], start: str, goal: str) -> list[str]:
    """A shortest path through roads (town, town, length), by Bellman and Ford."""
    best: dict[str, tuple[float, list[str]]] = {start: (0, [start])}
    for _ in roads:
        for a, b, length in [*roads, *((b, a, n) for a, b, n in roads)]:
            if a in best and best[a][0] + length < best.get(b, (float("inf"), []))[0]:
                best[b] = (best[a][0] + length, [*best[a][1], b])
    return best[goal][1]


def _lengths(problem: Problem) -> dict[str, int]:
    roads = [road.split() for road in problem.answer["values"]["roads"].split(", ")]
    both = {name: int(length) for name, length in roads}
    return both | {f"{b}-{a}": n for (a, b), n in ((k.split("-"), n) for k, n in both.items())}


def length_of(problem: Problem, path: list[str]) -> float:
    """The length of a path from start to goal; infinite for one that no roads make."""
    values, lengths = problem.answer["values"], _lengths(problem)
    if not path or (path[0], path[-1]) != (values["start"], values["goal"]):
        return float("inf")
    steps = [f"{a}-{b}" for a, b in zip(path, path[1:], strict=False)]
    return sum(lengths.get(step, float("inf")) for step in steps)


def _as_short(problem: Problem, final: str, gold: str) -> bool:
    path = normal(final).split("-")
    return len(path) <= len(NODES) and length_of(problem, path) == length_of(
        problem, gold.split("-")
    )


def _some_path(problem: Problem, rng: Random) -> str:
    values = problem.answer["values"]
    towns = sorted(set(values["roads"]) & set(NODES) - {values["start"], values["goal"]})
    inner = rng.sample(towns, rng.randint(1, len(towns)))
    return "-".join([values["start"], *inner, values["goal"]])


def _grid(rng: Random, size: int, _language: str) -> Drawn:
    """A filled 4 x 4 grid of which `size` cells are blank."""
    digits = rng.sample("1234", 4)
    bands = [rng.sample((0, 1), 2) for _ in range(2)]
    rows = [
        2 * band + r
        for band, inner in zip(rng.sample((0, 1), 2), bands, strict=True)
        for r in inner
    ]
    base = ("0123", "2301", "1032", "3210")
    full = "".join(digits[int(base[r][c])] for r in rows for c in range(4))
    blanks = set(rng.sample(range(16), size))
    clues = "".join("_" if i in blanks else mark for i, mark in enumerate(full))
    return {"grid": _rows(clues)}, _rows(full)


def _rows(cells: str) -> str:
    return " ".join(cells[i : i + 4] for i in range(0, 16, 4))


def _solves(problem: Problem, final: str, _: str) -> bool:
    """Whether rows, columns and blocks hold 1 to 4, and no clue was changed."""
    rows, clues = normal(final).split(" "), problem.answer["values"]["grid"].split(" ")
    if [len(row) for row in rows] != [4] * 4:
        return False
    clues_stand = all(
        c in ("_", x)
        for row, clue in zip(rows, clues, strict=True)
        for x, c in zip(row, clue, strict=True)
    )
    return clues_stand and all({rows[r][c] for r, c in group} == set("1234") for group in LINES)


def _filled(problem: Problem, rng: Random) -> str:
    grid = problem.answer["values"]["grid"]
    return "".join(rng.choice("1234") if mark == "_" else mark for mark in grid)


shortest_path = ExactAnswer(
    "shortest_path",
    _graph,
    {
        "en": (
            "Roads and their lengths: {roads}. What is a shortest way from {start} to {goal}?",
            "Find the quickest route from {start} to {goal}. Minutes a street takes: {roads}.",
        ),
        "zh": (
            "道路和长度：{roads}。从{start}到{goal}的最短路线是什么？",
            "每条街需要的分钟数：{roads}。从{start}到{goal}最快怎么走？",
        ),
    },
    _some_path,
    (5, 10),
    ("<town>-<town>-...", "<地点>-<地点>-..."),
    same=_as_short,
    hacks=("A-D", "A-B-C-D-C-D", "A-B-A-B-C-D"),
).task(({"roads": "A-B 1, B-C 1, C-D 1, A-D 9", "start": "A", "goal": "D"}, "A-B-C-D"), "A-D")

mini_sudoku = ExactAnswer(
    "mini_sudoku",
    _grid,
    {
        "en": (
            "Fill in the blanks so that each row, column and 2 x 2 block holds 1, 2, 3 and 4. "
            "The rows: {grid}",
            "A 4 x 4 sudoku, row after row, _ is empty: {grid}. Solve it.",
        ),
        "zh": (
            "填空，使每行、每列、每个2x2的宫都有1、2、3、4。各行是：{grid}",
            "四宫数独，逐行写出，_表示空格：{grid}。请解出来。",
        ),
    },
    _filled,
    (5, 11),
    ("<row> <row> <row> <row>", "<行> <行> <行> <行>"),
    same=_solves,
    thought=lambda p: " ".join(
        f"place {i} is {mark}."
        for i, (mark, clue) in enumerate(
            zip(p.answer["gold"], p.answer["values"]["grid"], strict=True)
        )
        if clue == "_"
    ),
    hacks=("1234 3412 2143 ____", "1111 2222 3333 4444", "1234 1234 1234 1234"),
).task(({"grid": "1234 3412 21__ 43__"}, "1234 3412 2143 4321"), "1234 3412 2134 4321")
