"""Mathematics with a final answer in \\boxed{}: generated questions, GSM8K and MATH files.

What makes two final answers equal is written in `answer_equality`.
"""

import re
from pathlib import Path
from random import Random
from typing import Any

from qwen3.data.jsonl import place, read_rows
from qwen3.rewards import answer_equality
from qwen3.rewards import maths_questions as questions
from qwen3.rewards.latex_cleaning import clean
from qwen3.rewards.numerals import ExactNumber, number
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

FORM = "Put the final answer in \\boxed{}."


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


def grade(problem: Problem, answer: str) -> float:
    """1 if the one final answer equals the reference, in the form that the problem asks for."""
    final, shape = boxed(answer), problem.answer.get("shape")
    if not final or (shape and not re.fullmatch(shape, final)):
        return 0.0
    return answer_equality.same(problem.answer["gold"], final)


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
    """Problems of a GSM8K file: {question, answer}, the final answer after "####".

    Raises ValueError naming the line whose answer has no number there.
    """
    problems = []
    for line, row in read_rows(path, fields={"question": str, "answer": str}):
        head, mark, gold = row["answer"].rpartition("####")
        if not mark or not isinstance(number(clean(gold)), ExactNumber):
            raise ValueError(
                f"{place(path, line)}: no number after #### in {row['answer'][-60:]!r}"
            )
        text = f"{row['question']} {FORM}"
        problems.append(problem(text, gold.strip().replace(",", ""), solution=head.strip()))
    return problems


def read_math(path: str | Path) -> list[Problem]:
    """Problems of a MATH file: {problem, solution}, the answer in the solution's \\boxed{}.

    An `answer` field, text or a JSON number as in AIME files, is taken instead where there is one,
    and is enough. difficulty is (level - 1) / 4. A record without one clear answer is left out.
    Raises ValueError naming file and line for a record without either field, and for an answer that
    is neither text nor a number.
    """
    problems = []
    for line, row in read_rows(path, fields={"problem": str}):
        solution = row.get("solution")
        if row.get("answer") is None and not isinstance(solution, str):
            raise ValueError(f"{place(path, line)}: neither a text 'solution' nor an 'answer'")
        solution = solution if isinstance(solution, str) else ""
        gold = _reference(row.get("answer"), place(path, line)) or boxed(solution)
        if not gold:
            continue
        level = re.search(r"\d", str(row.get("level", "")))
        difficulty = (int(level[0]) - 1) / 4 if level else 0.5
        text = f"{row['problem']} {FORM}"
        problems.append(problem(text, gold, difficulty=difficulty, solution=solution))
    return problems


def _reference(value: Any, where: str) -> str:
    """The `answer` field of a record as text, "" if there is none."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{where}: answer {value!r} is neither text nor a number")
    return str(value).strip()


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
