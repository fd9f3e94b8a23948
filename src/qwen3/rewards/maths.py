"""Mathematics with a final answer in \\boxed{}: generated questions, GSM8K and MATH files.

Plain numbers are compared here as fractions; everything else by math-verify in killable children.
A child that dies or hangs gives no verdict. Answers that no reference could need (towers of powers,
hundreds of digits, lists of guesses) score 0 before they reach one.
"""

import re
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from qwen3.data.jsonl import read_rows
from qwen3.rewards import maths_questions as questions
from qwen3.rewards.task import NoVerdict, Problem, Task, ask, draw_in_split, levels
from qwen3.sandbox.child_pool import ChildFailed, ChildPool

CHILD = Path(__file__).with_name("maths_verifier.py")
CHILDREN, RECYCLE = 2, 100
SECONDS, FIRST_SECONDS = 5.0, 30.0  # the first request of a child waits for its imports
LONGEST, MOST_DIGITS = 300, 30
FORM = "Put the final answer in \\boxed{}."

_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)?(\.\d+)?(/\d+)?")
_HEAVY = re.compile(
    r"(\^|\*\*)\s*\{?[^{}^*]*(\^|\*\*|\d{4})|!|\\(binom|uparrow|underbrace|sum|prod|i*int|lim)"
)
_PLAIN = re.compile(r"-?(\\[dt]?frac\{\d+\}\{\d+\}|[\d.,]+(/\d+)?)")
_WORK = re.compile(r"(?<=[^{\s])\s*[-+]|\*|\\(cdot|times|div|sqrt|pm)|\(.*\)")
_NAMED = re.compile(r"\s*\\?[A-Za-z]\w*(\([a-z]\))?\s*=(?!=)")


@cache
def pool() -> ChildPool:
    """The child processes of math-verify, started at first use."""
    return ChildPool([sys.executable, "-I", str(CHILD)], size=CHILDREN, recycle=RECYCLE)


def boxed(text: str) -> str | None:
    """The content of the \\boxed{} in `text`; None if there is none, or several that differ."""
    contents: set[str] = set()
    for start in re.finditer(r"\\boxed\s*\{", text):
        depth, end = 1, start.end()
        while depth and end < len(text):
            depth += {"{": 1, "}": -1}.get(text[end], 0) if text[end - 1] != "\\" else 0
            end += 1
        if depth:
            return None
        contents.add(text[start.end() : end - 1].strip())
        if len(contents) > 1:
            return None
    return contents.pop() if contents else None


def number(text: str) -> Fraction | None:
    """A plain number ("1,234", "-3/4", "$5", "12.50", "7%") as a Fraction, else None."""
    text = text.strip().replace("\\$", "").replace("$", "").replace("\\!", "").rstrip(".")
    text = text.removesuffix("%").removesuffix("\\").strip()
    if not _NUMBER.fullmatch(text) or not any(c.isdigit() for c in text):
        return None
    try:
        return Fraction(text.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def acceptable(answer: str, gold: str) -> bool:
    """Whether `answer` is of a size and form that is worth a symbolic comparison."""
    digits = max(MOST_DIGITS, len(gold))
    if len(answer) > max(LONGEST, 4 * len(gold)) or re.search(rf"\d{{{digits + 1}}}", answer):
        return False
    if _HEAVY.search(answer) and not _HEAVY.search(gold):
        return False
    # "7 + 5" is the question again, not a final answer, where the reference is one number.
    if _PLAIN.fullmatch(gold) and _WORK.search(answer):
        return False
    return "=" in gold or "=" not in answer


def same(gold: str, answer: str) -> bool:
    """Whether the final answers are equal; raises NoVerdict if no child could tell."""
    named = _NAMED.match(answer)
    if named and "=" not in gold:
        answer = answer[named.end() :].strip()
    if answer == gold:
        return True
    # Size first: all that follows may be quadratic in it, or worse.
    if not acceptable(answer, gold):
        return False
    wanted, got = number(gold), number(answer)
    if wanted is not None and got is not None:
        return wanted == got
    return ask_child(gold, answer)


def ask_child(gold: str, answer: str) -> bool:
    """math-verify's verdict on two LaTeX answers; NoVerdict if its child died, hung or failed."""
    with pool().lend() as child:
        fresh = child.process is None
        try:
            seconds = FIRST_SECONDS if fresh else SECONDS
            result = child.ask({"gold": gold, "answer": answer}, seconds)
        except ChildFailed as error:
            raise NoVerdict(f"math-verify on {answer[:60]!r}: {error}") from error
    if "error" in result:
        raise NoVerdict(f"math-verify on {answer[:60]!r}: {result['error']}")
    return result["equal"]


def grade(problem: Problem, answer: str) -> float:
    final, shape = boxed(answer), problem.answer.get("shape")
    if not final or (shape and not re.fullmatch(shape, final)):
        return 0.0
    return same(problem.answer["gold"], final)


def solve(problem: Problem) -> tuple[str, str]:
    gold = problem.answer["gold"]
    return f"It comes to {gold}.", f"The answer is \\boxed{{{gold}}}."


def guess(problem: Problem, rng: Random) -> str:
    return f"The answer is \\boxed{{{rng.randint(-200, 1000)}}}."


def make(rng: Random, difficulty: float, split: str) -> Problem:
    kind = rng.choice(list(questions.KINDS))
    train, heldout, draw = questions.KINDS[kind]
    size = levels(difficulty, 1, 6)
    values, gold = draw_in_split(lambda: draw(rng, size), str, split)
    text = (train if split == "train" else heldout).format(**values)
    shape = {"shape": questions.SHAPES[kind]} if kind in questions.SHAPES else {}
    return problem(f"{text} {FORM}", gold, difficulty=difficulty, **shape)


def problem(text: str, gold: str, *, difficulty: float = 0.0, **more: Any) -> Problem:
    """The Problem with the reference answer `gold`; `more` goes into its record."""
    return Problem("maths", ask(text), {"gold": gold, **more}, difficulty)


# --- files


def read_gsm8k(path: str | Path) -> list[Problem]:
    """Problems of a GSM8K file: {question, answer}, the final answer after "####"."""
    problems = []
    for _, row in read_rows(path, fields=("question", "answer")):
        head, mark, gold = row["answer"].rpartition("####")
        if not mark or number(gold) is None:
            raise ValueError(f"{path}: no number after #### in {row['answer'][-60:]!r}")
        text = f"{row['question']} {FORM}"
        problems.append(problem(text, gold.strip().replace(",", ""), solution=head.strip()))
    return problems


def read_math(path: str | Path) -> list[Problem]:
    """Problems of a MATH file: {problem, solution}, the answer in the solution's \\boxed{}.

    difficulty is (level - 1) / 4. A record without one clear box is left out.
    """
    problems = []
    for _, row in read_rows(path, fields=("problem", "solution")):
        gold = row.get("answer") or boxed(row["solution"])
        if not gold:
            continue
        level = re.search(r"\d", str(row.get("level", "")))
        difficulty = (int(level[0]) - 1) / 4 if level else 0.5
        text = f"{row['problem']} {FORM}"
        problems.append(problem(text, gold, difficulty=difficulty, solution=row["solution"]))
    return problems


_HALF = problem("Compute $1/4 + 1/4$.", "\\frac{1}{2}")
_THREE = problem("What is $1 + 2$?", "3")

final_answer = Task(
    "maths",
    make,
    grade,
    solve,
    guess,
    examples=(
        (_HALF, "<think>\nhalf\n</think>\n\nIt is \\boxed{0.5}.", 1.0),
        (_HALF, "\\boxed{\\dfrac{2}{4}}", 1.0),
        (_THREE, "\\boxed{x = 3}", 1.0),
        (_THREE, "\\boxed{3.0}", 1.0),
        (_THREE, "3", 0.0),
        (_THREE, "\\boxed{1 + 2}", 0.0),
        (_THREE, "\\boxed{1, 2, 3}", 0.0),
        (_THREE, "\\boxed{1 or 2 or 3}", 0.0),
        (_THREE, "\\boxed{2} or \\boxed{3}", 0.0),
        (_THREE, "\\boxed{1 = 2 = 3}", 0.0),
        (_THREE, "\\boxed{9^{9^{9^{9}}}}", 0.0),
        (_THREE, "\\boxed{" + "9" * 10_000 + "}", 0.0),
        (_THREE, "<think>\n\\boxed{3}\n</think>\n\nDone.", 0.0),
    ),
)
