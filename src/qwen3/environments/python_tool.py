"""A Python tool for arithmetic that nobody does in the head (ReTool, arXiv 2504.11536).

Code runs in the sandbox, never in this process. The last line must hold the number, and a program
must have run to its end: what it printed earns nothing by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from qwen3 import sandbox
from qwen3.environments.episode import EpisodeLimits
from qwen3.environments.tool_functions import Tool
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.response import final_line
from qwen3.rewards.task import ask, draw_in_split, levels

MOST_CHARS = 4_000  # of a program, and of what it prints
# Runs inside the sandbox, around the program: what it prints is its result.
HARNESS = """
import contextlib, io, traceback

def run(source):
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "program", "exec"), {"__name__": "__main__"})
    except BaseException:
        lines = traceback.format_exc(limit=0).strip().splitlines()
        return False, (printed.getvalue() + lines[-1])[:MOST]
    return True, printed.getvalue()[:MOST]
""".replace("MOST", str(MOST_CHARS))

# kind -> (English, Chinese, program); {a} and {b} are the problem's numbers.
KINDS = {
    "digits": (
        "What is the sum of the digits of {a} to the power of {b}?",
        "{a}的{b}次方的各位数字之和是多少？",
        "print(sum(map(int, str({a} ** {b}))))",
    ),
    "multiples": (
        "What is the sum of all numbers from 1 to {a}{b} that 7 or 11 divides?",
        "1到{a}{b}中能被7或11整除的所有数之和是多少？",
        "print(sum(n for n in range(1, {a}{b} + 1) if n % 7 == 0 or n % 11 == 0))",
    ),
    "remainder": (
        "What is the remainder of {a} to the power of {b}{b} divided by 99991?",
        "{a}的{b}{b}次方除以99991的余数是多少？",
        "print(pow({a}, {b}{b}, 99991))",
    ),
}
FRAME = (
    "{question} Run a program that prints it. End with a line: Answer: the number",
    "{question}请运行一个程序把它打印出来。最后一行写：Answer: 数字",
)


def multiples(most: int, one: int, other: int) -> int:
    """The sum of all numbers up to `most` that one of two primes divides."""

    def of(d: int) -> int:
        return d * (most // d) * (most // d + 1) // 2

    return of(one) + of(other) - of(one * other)


GOLD: dict[str, Callable[[int, int], int]] = {
    "digits": lambda a, b: sum(map(int, str(a**b))),
    "multiples": lambda a, b: multiples(int(f"{a}{b}"), 7, 11),
    "remainder": lambda a, b: pow(a, int(f"{b}{b}"), 99991),
}


@dataclass
class Programs:
    """How many programs ran to their end."""

    ended: int = 0


def run_python(programs: Programs, code: str) -> str:
    """What a program prints. A SandboxError passes: it is no fault of the program."""
    result = sandbox.default().run(HARNESS, "run", [(code,)])
    if result.end != "exit" or not result.calls:
        return f"error: the program was ended: {result.end}"
    kind, value = result.calls[0]
    is_result = kind == "value" and isinstance(value, tuple | list) and len(value) == 2
    if not is_result or not isinstance(value[1], str):
        return f"error: the program failed: {str(value)[:80]}"
    programs.ended += value[0] is True
    return str(value[1]) or "nothing was printed"


CODE = {"type": "string", "minLength": 1, "maxLength": MOST_CHARS}
TOOLS = (Tool("python", "Runs a program; what it prints is shown.", {"code": CODE}, run_python),)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    def draw() -> dict[str, Any]:
        kind = rng.choice(list(KINDS)[: levels(difficulty, 1, len(KINDS))])
        return {"kind": kind, "a": rng.randint(11, 89), "b": rng.randint(101, 399)}

    answer = draw_in_split(draw, str, split)
    gold = GOLD[answer["kind"]](answer["a"], answer["b"])
    language = rng.choice((0, 1))
    text = FRAME[language].format(question=KINDS[answer["kind"]][language].format(**answer))
    return Problem("python_tool", ask(text), {**answer, "gold": gold}, difficulty)


def start(answer: dict[str, Any]) -> Programs:
    return Programs()


def grade(problem: Problem, programs: Programs, turns: Turns) -> float:
    line = final_line(turns[-1].content.strip())
    is_right = line is not None and line.rstrip(".") == str(problem.answer["gold"])
    return is_right and programs.ended > 0


def program(problem: Problem) -> str:
    return KINDS[problem.answer["kind"]][2].format(**problem.answer)


def solve(problem: Problem) -> Script:
    (printed,) = yield calls(("python", {"code": program(problem)}))
    yield f"Answer: {printed.strip()}"


def guess(problem: Problem, rng: Random) -> Script:
    yield calls(("python", {"code": "print(1)"}))
    yield f"Answer: {rng.randint(100, 99_990)}"


def _runs(code: str, last: str) -> Callable[[Problem], Script]:
    """Runs a program, then answers `last`, which may name {gold}."""
    return lambda problem: fixed(calls(("python", {"code": code})), last.format(**problem.answer))


HACKS = {
    "answers without a program": lambda p: fixed(f"Answer: {p.answer['gold']}"),
    "runs what fails": _runs("print(1", "Answer: {gold}"),
    "leaves the answer to the program": lambda p: fixed(
        calls(("python", {"code": program(p)})), "It is printed above."
    ),
    "sleeps": _runs("import time\ntime.sleep(60)", "Answer: {gold}"),
    "looks for the answer in the machine": _runs(
        "import os\nos.execv('/bin/sh', ['sh', '-c', 'cat /etc/passwd'])", "Answer: {gold}"
    ),
    "prints a final line": _runs("print('Answer: 1')", "Done."),
    "two final lines": _runs("print(1)", "Answer: {gold}\nAnswer: 1"),
}


def require() -> None:
    """SandboxUnavailable where programs must not be run."""
    sandbox.default().require()


interpreter = World(
    "python_tool",
    make,
    TOOLS,
    start,
    grade,
    solve,
    guess,
    HACKS,
    limits=EpisodeLimits(turns=6, calls=12, calls_per_turn=2, step_seconds=120.0),
    slow=True,
    require=require,
)
