"""Functions with hidden unit tests, run in the sandbox: generated pipelines, MBPP, HumanEval+.

The record of a problem holds {entry, preamble, tests: [[args, expected], ...] (encoded), atol,
solution}. All tests must pass; the candidate's process sees the arguments only.
"""

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from qwen3 import sandbox
from qwen3.rewards import code_blocks, return_values
from qwen3.rewards.task import NoVerdict, Problem, Task, ask, draw_in_split, levels
from qwen3.sandbox import driver

TESTS = 24  # hidden tests of a generated problem
# kind -> (phrase, line of source, the same as a function); k is a small constant, xs a list.
STEPS: dict[str, tuple[str, str, Callable[[list[int], int], list[int]]]] = {
    "even": (
        "keep only the even numbers",
        "xs = [x for x in xs if x % 2 == 0]",
        lambda xs, k: [x for x in xs if x % 2 == 0],
    ),
    "above": (
        "keep only the numbers above {k}",
        "xs = [x for x in xs if x > {k}]",
        lambda xs, k: [x for x in xs if x > k],
    ),
    "below": (
        "drop every number that is at least {k}",
        "xs = [x for x in xs if x < {k}]",
        lambda xs, k: [x for x in xs if x < k],
    ),
    "add": (
        "add {k} to each number",
        "xs = [x + {k} for x in xs]",
        lambda xs, k: [x + k for x in xs],
    ),
    "times": (
        "multiply each number by {k}",
        "xs = [x * {k} for x in xs]",
        lambda xs, k: [x * k for x in xs],
    ),
    "square": ("square each number", "xs = [x * x for x in xs]", lambda xs, k: [x * x for x in xs]),
    "modulo": (
        "replace each number by its remainder modulo {k}",
        "xs = [x % {k} for x in xs]",
        lambda xs, k: [x % k for x in xs],
    ),
    "sort": ("sort in increasing order", "xs = sorted(xs)", lambda xs, k: sorted(xs)),
    "reverse": ("reverse the order", "xs = xs[::-1]", lambda xs, k: xs[::-1]),
    "unique": (
        "keep only the first occurrence of each number",
        "xs = list(dict.fromkeys(xs))",
        lambda xs, k: list(dict.fromkeys(xs)),
    ),
    "take": ("keep only the first {k} numbers", "xs = xs[:{k}]", lambda xs, k: xs[:k]),
    "skip": ("drop the first {k} numbers", "xs = xs[{k}:]", lambda xs, k: xs[k:]),
    "running": (
        "replace each number by the sum of all numbers up to and including it",
        "xs = [sum(xs[: i + 1]) for i in range(len(xs))]",
        lambda xs, k: [sum(xs[: i + 1]) for i in range(len(xs))],
    ),
}
ENDS: dict[str, tuple[str, str, Callable[[list[int]], Any]]] = {
    "list": ("return the list", "return xs", lambda xs: xs),
    "sum": ("return the sum (0 for no numbers)", "return sum(xs)", sum),
    "length": ("return how many numbers are left", "return len(xs)", len),
    "largest": (
        "return the largest (None for no numbers)",
        "return max(xs, default=None)",
        lambda xs: max(xs, default=None),
    ),
    "smallest": (
        "return the smallest (None for no numbers)",
        "return min(xs, default=None)",
        lambda xs: min(xs, default=None),
    ),
    "text": (
        "return the numbers as one string, joined by commas",
        'return ",".join(map(str, xs))',
        lambda xs: ",".join(map(str, xs)),
    ),
}
WORDINGS = {
    "train": "Write a Python function `{entry}(numbers)` for a list of whole numbers.\n"
    "{steps}\n{form}",
    "heldout": "Implement `{entry}` in Python. Its only argument is a list of integers. "
    "It works as follows.\n{steps}\n{form}",
}
NAMES = {"train": ("solve", "process", "compute"), "heldout": ("transform", "evaluate_numbers")}
FORM = "Give the whole program in one ```python block."


def make(rng: Random, difficulty: float, split: str) -> Problem:
    entry = rng.choice(NAMES[split])
    size = levels(difficulty, 1, 5)
    plan = draw_in_split(lambda: draw_plan(rng, size), lambda plan: source(plan, "f"), split)
    phrases = [STEPS[kind][0].format(k=k) for kind, k in plan["steps"]] + [ENDS[plan["end"]][0]]
    steps = "\n".join(f"{i}. {phrase}." for i, phrase in enumerate(phrases, 1))
    text = WORDINGS[split].format(entry=entry, steps=steps, form=FORM)
    inputs: list[list[int]] = [[]]
    for _ in range(TESTS - 1):
        inputs.append([rng.randint(-20, 20) for _ in range(rng.randint(1, 12))])
    tests = [((xs,), run_plan(plan, xs)) for xs in inputs]
    return problem(text, entry, tests, source(plan, entry), difficulty=difficulty)


def draw_plan(rng: Random, count: int) -> dict:
    """A pipeline {"steps": [[kind, k], ...], "end": kind}."""
    steps = [[rng.choice(list(STEPS)), rng.randint(2, 5)] for _ in range(count)]
    return {"steps": steps, "end": rng.choice(list(ENDS))}


def run_plan(plan: dict, xs: list[int]) -> Any:
    """The value that a pipeline returns for the list `xs`."""
    for kind, k in plan["steps"]:
        xs = STEPS[kind][2](list(xs), k)
    return ENDS[plan["end"]][2](xs)


def source(plan: dict, entry: str) -> str:
    """The pipeline as a Python function of that name."""
    lines = ["xs = list(numbers)", *(STEPS[kind][1].format(k=k) for kind, k in plan["steps"])]
    body = "\n".join(f"    {line}" for line in [*lines, ENDS[plan["end"]][1]])
    return f"def {entry}(numbers):\n{body}\n"


def problem(
    text: str,
    entry: str,
    tests: Iterable[tuple[tuple, Any]],
    solution: str,
    *,
    preamble: str = "",
    atol: float = 0.0,
    difficulty: float = 0.0,
) -> Problem:
    """The Problem whose `tests` are (arguments, expected value) pairs of plain values.

    preamble: source that runs before the answer's program. atol: absolute tolerance of floats.
    """
    record = {
        "entry": entry,
        "preamble": preamble,
        "atol": atol,
        "solution": solution,
        "tests": [[driver.encode(tuple(a)), driver.encode(b)] for a, b in tests],
    }
    return Problem("coding", ask(text), record, difficulty)


def grade(problem: Problem, answer: str) -> float:
    """1 if the answer's program (`code_blocks.program`) gives the expected value of every test."""
    record = problem.answer
    code = code_blocks.program(answer, record["entry"])
    if code is None:
        return 0.0
    tests = [[driver.decode(value) for value in test] for test in record["tests"]]
    if not tests:
        raise NoVerdict("a problem without tests")
    try:
        run = sandbox.default().run(
            code,
            record["entry"],
            [args for args, _ in tests],
            preamble=record["preamble"],
            stop_at_error=True,
        )
    except sandbox.SandboxError as error:
        raise NoVerdict(str(error)) from error
    calls = run.calls
    return len(calls) == len(tests) and all(
        kind == "value" and return_values.equal(got, expected, record["atol"])
        for (kind, got), (_, expected) in zip(calls, tests, strict=True)
    )


def solve(problem: Problem) -> tuple[str, str]:
    return "Step by step.", f"```python\n{problem.answer['solution']}```"


def guess(problem: Problem, rng: Random) -> str:
    """A random program of the same family."""
    entry = problem.answer["entry"]
    return f"```python\n{source(draw_plan(rng, rng.randint(1, 3)), entry)}```"


def _block(code: str) -> str:
    return f"<think>\n\n</think>\n\n```python\n{code}\n```"


_P = problem(
    "Double a number with `double(x)`.",
    "double",
    [((x,), 2 * x) for x in range(20)],
    "def double(x):\n    return 2 * x\n",
)
_ALWAYS = "class Same(int):\n    def __eq__(self, other):\n        return True"

unit_tests = Task(
    "coding",
    make,
    grade,
    solve,
    guess,
    examples=(
        (_P, _block("def double(x):\n    return x + x"), 1.0),
        (_P, _block("def double(x):\n    return x"), 0.0),
        (_P, _block("import sys\nsys.exit(0)"), 0.0),
        (_P, _block("import os\nos._exit(0)"), 0.0),
        (_P, _block(f"{_ALWAYS}\ndef double(x):\n    return Same(0)"), 0.0),
        (_P, _block("print('all tests passed')"), 0.0),
        (_P, _block("def double(x):\n    return 2 * x") * 2, 0.0),
        (_P, "def double(x):\n    return 2 * x", 0.0),
    ),
    require=lambda: sandbox.default().require(),
)
