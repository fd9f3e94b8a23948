"""Countdown: reach the target with + - * / from the given numbers, each used exactly once.

Scored by walking the syntax tree with exact fractions; nothing is evaluated by the interpreter.
"""

import ast
import operator
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from random import Random

from qwen3.rewards.response import final_line
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

OPERATORS: dict[type, Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
WORDINGS = {
    "train": (
        "Use the numbers {numbers}, each exactly once, with + - * / and brackets to make {target}.",
        "Make {target} from {numbers}. Every number must be used once; allowed are + - * / and ().",
    ),
    "heldout": (
        "Here are some numbers: {numbers}. Combine all of them (+, -, *, /, brackets) "
        "so that the result is {target}.",
    ),
}
FORM = " Finish with a line of the form `Answer: <expression>`."
LONGEST = 200  # characters of an expression


def make(rng: Random, difficulty: float, split: str) -> Problem:
    count = levels(difficulty, 3, 6)
    numbers, expression, target = draw_in_split(lambda: _draw(rng, count), str, split)
    text = rng.choice(WORDINGS[split]).format(numbers=", ".join(map(str, numbers)), target=target)
    record = {"numbers": numbers, "target": target, "expression": expression}
    return Problem("countdown", ask(text + FORM), record, difficulty)


def _draw(rng: Random, count: int) -> tuple[list[int], str, int]:
    """(shuffled numbers, an expression over all of them, its value: an integer in 1..999)."""
    while True:
        numbers = [rng.randint(1, 25) for _ in range(count)]
        pool = [(Fraction(n), str(n)) for n in numbers]
        while len(pool) > 1:
            (a, left), (b, right) = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
            sign = rng.choice("++-**/")
            if sign == "/" and b == 0:
                sign = "+"
            value = SIGNS[sign](a, b)
            pool.append((value, f"({left} {sign} {right})"))
        value, expression = pool[0]
        if value.denominator == 1 and 1 <= value <= 999:
            return rng.sample(numbers, count), expression[1:-1], int(value)


def evaluate(text: str) -> tuple[Fraction, list[int]]:
    """(value, numbers used) of an arithmetic expression; ValueError if it is anything else."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        used: list[int] = []
        return _walk(tree.body, used), used
    except (SyntaxError, RecursionError, MemoryError, ZeroDivisionError) as error:
        raise ValueError(f"not an expression: {text[:40]!r}") from error


def _walk(node: ast.expr, used: list[int]) -> Fraction:
    """The value of a subtree; appends its numbers to `used`."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _walk(node.left, used), _walk(node.right, used)
        return OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    raise ValueError(f"{type(node).__name__} is not allowed")


def grade(problem: Problem, answer: str) -> float:
    text = final_line(answer)
    if text is None or len(text) > LONGEST or not text.isascii():
        return 0.0
    try:
        value, used = evaluate(text)
    except ValueError:
        return 0.0
    record = problem.answer
    return value == record["target"] and Counter(used) == Counter(record["numbers"])


def solve(problem: Problem) -> tuple[str, str]:
    expression, target = problem.answer["expression"], problem.answer["target"]
    return f"{expression} = {target}", f"Answer: {expression}"


def guess(problem: Problem, rng: Random) -> str:
    """The right numbers in random order with random operators."""
    numbers = rng.sample(problem.answer["numbers"], len(problem.answer["numbers"]))
    text = str(numbers[0])
    for number in numbers[1:]:
        text = f"({text} {rng.choice('+-*/')} {number})"
    return f"Answer: {text}"


_P = Problem(
    "countdown",
    ask("Make 24 from 3, 8, 1."),
    {"numbers": [3, 8, 1], "target": 24, "expression": "3 * 8 * 1"},
)

expression = Task(
    "countdown",
    make,
    grade,
    solve,
    guess,
    examples=(
        (_P, "<think>\neasy\n</think>\n\nAnswer: 3 * 8 / 1", 1.0),
        (_P, "Answer: 24", 0.0),
        (_P, "Answer: 3 * 8", 0.0),
        (_P, "Answer: 3 * 8 * 1 * 1", 0.0),
        (_P, "Answer: 8 ** 1 * 3", 0.0),
        (_P, "Answer: __import__('os').getpid() * 3 * 8 * 1", 0.0),
        (_P, "Answer: 3 / (8 - 8) * 1", 0.0),
        (_P, "Answer: 3 * 8 * 1\nAnswer: 3 + 8 + 1", 0.0),
        (_P, "Answer: " + "(" * 5000 + "3*8*1" + ")" * 5000, 0.0),
        (_P, "Answer: 3 * 8 * True", 0.0),
    ),
)
