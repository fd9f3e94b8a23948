"""Reading programs: what one returns, without running it, and what is wrong with another.

The programs are the pipelines of `rewards.coding`. Output prediction compares literals and runs
nothing; a repaired program is run on hidden tests in the sandbox.
"""

import ast
from dataclasses import replace
from random import Random

from qwen3 import sandbox
from qwen3.rewards import coding
from qwen3.rewards.exact_answer import LANGUAGES, Drawn, ExactAnswer
from qwen3.rewards.task import Problem, Task, draw_in_split, levels

LONGEST = 400  # characters of a literal
REPAIR = {
    "en": (
        "This program has a fault. It should do this:\n{steps}\n\n```python\n{broken}```\n"
        "Mend it. {form}",
        "`{entry}` ought to work so:\n{steps}\nIt does not:\n\n```python\n{broken}```\n"
        "Correct it. {form}",
    ),
    "zh": (
        "下面的程序有错。它应该：\n{steps}\n\n```python\n{broken}```\n"
        "请改正，并用一个```python代码块写出整个程序。",
        "`{entry}`应当这样做：\n{steps}\n可是它没有做到：\n\n```python\n{broken}```\n"
        "请修好它，整个程序写在一个```python代码块里。",
    ),
}


def _call(rng: Random, size: int, _language: str) -> Drawn:
    plan = coding.draw_plan(rng, size)
    xs = [rng.randint(-20, 20) for _ in range(rng.randint(4, 4 + size))]
    return {"program": coding.source(plan, "f"), "call": f"f({xs})"}, repr(
        coding.run_plan(plan, xs)
    )


def same_literal(_: Problem, final: str, gold: str) -> bool:
    """Whether the text is a Python literal of the value and type of `gold`; it is never run."""
    if len(final) > LONGEST:
        return False
    try:
        return repr(ast.literal_eval(final.strip())) == gold
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return False


def _literal(problem: Problem, rng: Random) -> str:
    xs = [rng.randint(-20, 20) for _ in range(rng.randint(1, 8))]
    return repr(rng.choice((xs, sum(xs), ",".join(map(str, xs)), rng.randint(-99, 99))))


output_prediction = ExactAnswer(
    "output_prediction",
    _call,
    {
        "en": (
            "```python\n{program}```\nWhat does `{call}` return? Write it as a Python literal.",
            "Someone calls `{call}` of this program:\n```python\n{program}```\n"
            "Give the return value as Python would print its repr.",
        ),
        "zh": (
            "```python\n{program}```\n`{call}`的返回值是什么？写成Python字面量。",
            "程序如下：\n```python\n{program}```\n调用`{call}`会得到什么？写成Python的repr。",
        ),
    },
    _literal,
    (1, 6),
    ("<literal>", "<字面量>"),
    same=same_literal,
    key=lambda drawn: drawn[0]["program"],
    hacks=("f([3, 1])", "sum([3, 1])", "'4'", "4.0", "True", "(" * 300, "3 or 4"),
).task(({"program": "def f(numbers):\n    return sum(numbers)\n", "call": "f([3, 1])"}, "4"), "3")


def make(rng: Random, difficulty: float, split: str) -> Problem:
    """A pipeline, one step of which was changed so that some test fails."""
    language, size = rng.choice(LANGUAGES), levels(difficulty, 1, 5)
    entry = rng.choice(coding.NAMES[split])
    plan = draw_in_split(
        lambda: coding.draw_plan(rng, size), lambda drawn: coding.source(drawn, "f"), split
    )
    inputs = [[rng.randint(-20, 20) for _ in range(rng.randint(1, 12))] for _ in range(23)]
    inputs.append([])
    broken = _broken(rng, plan, inputs)
    phrases = [coding.STEPS[kind][0].format(k=k) for kind, k in plan["steps"]]
    phrases.append(coding.ENDS[plan["end"]][0])
    text = REPAIR[language][split == "heldout"].format(
        entry=entry,
        steps="\n".join(f"{i}. {phrase}." for i, phrase in enumerate(phrases, 1)),
        broken=coding.source(broken, entry),
        form=coding.FORM,
    )
    tests = [((xs,), coding.run_plan(plan, xs)) for xs in inputs]
    return _problem(
        text, entry, tests, coding.source(plan, entry), coding.source(broken, entry), difficulty
    )


def _broken(rng: Random, plan: dict, inputs: list[list[int]]) -> dict:
    """The plan with a step, a constant or the end changed, such that some input shows it."""
    while True:
        steps, end = [list(step) for step in plan["steps"]], plan["end"]
        place = rng.randrange(len(steps) + 1)
        if place == len(steps):
            end = rng.choice(list(coding.ENDS))
        else:
            steps[place] = [rng.choice((steps[place][0], *coding.STEPS)), rng.randint(2, 5)]
        changed = {"steps": steps, "end": end}
        if any(coding.run_plan(changed, xs) != coding.run_plan(plan, xs) for xs in inputs):
            return changed


def _problem(
    text: str, entry: str, tests: list, solution: str, broken: str, difficulty: float = 0.0
) -> Problem:
    problem = coding.problem(text, entry, tests, solution, difficulty=difficulty)
    return replace(problem, task="code_repair", answer=problem.answer | {"broken": broken})


def guess(problem: Problem, rng: Random) -> str:
    """The program as it was given: the form is right, the fault is still in it."""
    return f"```python\n{problem.answer['broken']}```"


_P = _problem(
    "Mend `double(x)`.",
    "double",
    [((x,), 2 * x) for x in range(20)],
    "def double(x):\n    return 2 * x\n",
    "def double(x):\n    return 3 * x\n",
)


def _block(code: str) -> str:
    return f"```python\n{code}\n```"


repair = Task(
    "code_repair",
    make,
    coding.grade,
    coding.solve,
    guess,
    examples=(
        (_P, _block("def double(x):\n    return x + x"), 1.0),
        (_P, _block(_P.answer["broken"]), 0.0),
        (_P, _block("double = {0: 0, 1: 2}.get"), 0.0),
        (_P, _block("def double(x):\n    import os; os._exit(0)"), 0.0),
        (_P, "def double(x):\n    return 2 * x", 0.0),
        (_P, f"<think>\n{_block(_P.answer['solution'])}\n</think>\n\nChange 3 to 2.", 0.0),
        (_P, _block("def twice(x):\n    return 2 * x"), 0.0),
    ),
    require=lambda: sandbox.default().require(),
)
