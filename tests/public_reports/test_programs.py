"""Programs in answers that public reports show to have been found, run or compared wrongly.

Every row names the report by repository and number; the programs are written anew here.
"""

from dataclasses import dataclass

import pytest

from qwen3.rewards import coding

GOOD = "def double(x):\n    return 2 * x"
WRONG = "def double(x):\n    return x * x * x + 1"


def fenced(code, label="python", fence="```"):
    return f"{fence}{label}\n{code}\n{fence}"


def problem(tests, *, entry="double", atol=0.0):
    return coding.problem("?", entry, tests, "", atol=atol)


DOUBLE = problem([((x,), 2 * x) for x in range(3)])
ROOTS = problem([((2,), [2**0.5, 1.0])], atol=1e-6)


@dataclass(frozen=True)
class Row:
    """An answer to a problem, and its score."""

    source: str  # owner/repository#number of the report
    answer: str
    score: float
    problem: object = DOUBLE


ANSWERS = [
    # Which of several blocks is the program.
    Row("NVIDIA-NeMo/Gym#820", f"{fenced(GOOD)}\nTry it:\n{fenced('print(double(4))')}", 1.0),
    Row("modelscope/evalscope#1170", f"A draft:\n{fenced(WRONG)}\nBetter:\n{fenced(GOOD)}", 1.0),
    Row("Kaggle/kaggle-benchmarks#21", f"{fenced('import math')}\nand\n{fenced(GOOD)}", 1.0),
    Row("octotools/octotools#11", f"{fenced(GOOD)}\nIt prints:\n{fenced('0 2 4', 'text')}", 1.0),
    Row("simonw/llm#717", f"{fenced(GOOD)}\nNo, rather:\n{fenced(WRONG)}", 0.0),
    Row("the-crypt-keeper/can-ai-code#5", fenced(GOOD, "js"), 0.0),
    # Where a block begins and ends.
    Row("EleutherAI/lm-evaluation-harness#3710", fenced(GOOD, ""), 1.0),
    Row("backnotprop/plannotator#355", fenced(GOOD, "python", "````"), 1.0),
    Row(
        "JuliusBrussee/caveman#66",
        f"{fenced(fenced('x', 'text'), 'markdown', '````')}\n{fenced(GOOD)}",
        1.0,
    ),
    Row("JuliusBrussee/caveman#66", fenced(GOOD, "python", "~~~"), 1.0),
    Row("constructorfabric/studio#98", f"```python\n{GOOD}\n```not the end", 0.0),
    Row("NVIDIA-NeMo/Skills#1086", f"```python\n{GOOD}", 0.0),
    # Programs that leave, or bring their own equality.
    Row("codewars/codewars.com#2179", fenced("import sys\nsys.exit(0)\n" + GOOD), 0.0),
    Row(
        "codewars/codewars.com#1305",
        fenced("import os\ndef double(x):\n    return 0 if x == 0 else os._exit(0)"),
        0.0,
    ),
    Row("promptdriven/pdd#605", fenced("def double(x):\n    raise SystemExit(0)"), 0.0),
    Row(
        "SWE-bench/SWE-bench#620",
        fenced("print('3 passed')\ndef double(x):\n    print('PASSED')"),
        0.0,
    ),
    # What a right program may need.
    Row(
        "NVIDIA-NeMo/Gym#2956",
        fenced("def digits(n):\n    return len(str(10**n))"),
        1.0,
        problem([((6000,), 6001)], entry="digits"),
    ),
    Row(
        "NVIDIA-NeMo/Gym#2956",
        fenced("import sys\nsys.stdout.buffer.write(b'ready')\n" + GOOD),
        1.0,
    ),
    Row(
        "allenai/olmo-eval#354",
        fenced(GOOD + "\nif __name__ == '__main__':\n    print(double(int(input())))"),
        1.0,
    ),
    Row("modelscope/evalscope#248", fenced("from typing import *\n" + GOOD), 1.0),
    # Values: within the tolerance of the problem, and never "not a number" for a number.
    Row(
        "NVIDIA-NeMo/Gym#2956",
        fenced("def double(x):\n    return [round(x**0.5, 8), 1.0]"),
        1.0,
        ROOTS,
    ),
    Row(
        "shyamsaktawat/OpenAlpha_Evolve#19",
        fenced("def double(x):\n    return [1.4, 1.0]"),
        0.0,
        ROOTS,
    ),
    Row(
        "shyamsaktawat/OpenAlpha_Evolve#19",
        fenced("def double(x):\n    return 0.1 + 0.2"),
        1.0,
        problem([((0,), 0.3)], atol=1e-9),
    ),
    Row(
        "DMOJ/judge-server#279",
        fenced("def double(x):\n    return [float('nan')] * 2"),
        0.0,
        ROOTS,
    ),
    Row("tensara/tensara#87", fenced("def double(x):\n    return float('nan')"), 0.0),
    Row(
        "RagnarGrootKoerkamp/BAPCtools#99",
        fenced("def double(x):\n    return float('inf')"),
        0.0,
        problem([((0,), 0.3)], atol=1e-6),
    ),
]


@pytest.mark.parametrize("row", ANSWERS, ids=lambda row: f"{row.source} {row.score}")
def test_the_score_is_the_right_one(row):
    assert coding.unit_tests.score(row.problem, row.answer) == row.score


def test_a_problem_without_tests_gives_no_verdict(caplog):
    """allenai/olmo-eval#354: a payload of no tests was passed by every program."""
    assert coding.unit_tests.score(problem([]), fenced(GOOD)) is None
    assert "without tests" in caplog.text
