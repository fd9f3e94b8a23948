"""Programs in answers: found by their fences, run as files run, a hanging one pays once."""

import time

import pytest

from qwen3 import sandbox
from qwen3.rewards import code_blocks, coding, coding_files
from qwen3.sandbox.runner import Limits, Sandbox

GOOD = "def double(x):\n    return 2 * x"
DOUBLE = coding.problem("Double.", "double", [((x,), 2 * x) for x in range(3)], "")


def fenced(code, label="python"):
    return f"```{label}\n{code}\n```"


DOCSTRING = 'def double(x):\n    """\n    ```\n    double(2)\n    ```\n    """\n    return 2 * x'
ANSWERS = {
    "plain": (fenced(GOOD), 1.0),
    "no label": (fenced(GOOD, ""), 1.0),
    "python3": (fenced(GOOD, "python3"), 1.0),
    "capitals": (fenced(GOOD, "Python"), 1.0),
    "attributes": (fenced(GOOD, 'python title="a.py"'), 1.0),
    "braces": (fenced(GOOD, "{.python}"), 1.0),
    "tildes": (f"~~~python\n{GOOD}\n~~~", 1.0),
    "longer fence": (f"````python\n{GOOD}\n````", 1.0),
    "Windows newlines": (fenced(GOOD).replace("\n", "\r\n"), 1.0),
    "in a list": ("1. Code:\n\n   " + fenced(GOOD).replace("\n", "\n   "), 1.0),
    "fence in a string": (fenced('def double(x):\n    fence = "```"\n    return 2 * x'), 1.0),
    "fence in a docstring": (fenced(DOCSTRING), 1.0),
    "text around": (f"So:\n{fenced(GOOD)}\nThat is it: `double(2)` is 4.", 1.0),
    "an example of its output after it": (f"{fenced(GOOD)}\n{fenced('4', '')}", 1.0),
    "a shell command after it": (f"{fenced(GOOD)}\n{fenced('python a.py', 'bash')}", 1.0),
    "its use after it": (f"{fenced(GOOD)}\n{fenced('print(double(2))')}", 1.0),
    "a wrong draft before it": (f"{fenced('def double(x): return x')}\n{fenced(GOOD)}", 1.0),
    "a wrong one after it": (f"{fenced(GOOD)}\n{fenced('def double(x): return x')}", 0.0),
    "an assignment": (fenced("double = lambda x: 2 * x"), 1.0),
    "not closed": (f"```python\n{GOOD}", 0.0),
    "no fence": (GOOD, 0.0),
    "another language": (fenced(GOOD, "javascript"), 0.0),
    "a span": (f"```{GOOD}```", 0.0),
    "no definition": (fenced("x = 1"), 0.0),
}


@pytest.mark.parametrize("answer, score", ANSWERS.values(), ids=ANSWERS)
def test_the_program_of_an_answer_is_its_last_complete_block_that_defines_the_entry(answer, score):
    assert coding.unit_tests.score(DOUBLE, answer) == score


def test_blocks_are_found_in_linear_time():
    start = time.monotonic()
    for unit in ("```\n", "```python\n", "~~~\n```\n", "   ```\n", "`" * 50 + "\n", "```x```\n"):
        assert list(code_blocks.blocks(unit * (60_000 // len(unit)))) is not None
    assert time.monotonic() - start < 5


PROGRAMS = {
    "future behind a preamble": "from __future__ import annotations\n" + GOOD,
    "dataclass": "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    "@dataclass\nclass Box:\n    v: int\ndef double(x):\n    return Box(2 * x).v",
    "type hints": "from typing import get_type_hints\nclass Node:\n    next: 'Node'\n"
    "assert get_type_hints(Node)['next'] is Node\n" + GOOD,
    "its own module": "import sys\nassert sys.modules[__name__].__dict__ is globals()\n" + GOOD,
    "not the main program": "assert __name__ != '__main__'\n" + GOOD,
    "its source": "import inspect\n" + GOOD + "\nassert inspect.getsource(double)",
    "names of the preamble": "def double(x):\n    return math.floor(2 * x)",
    "long integers": "def double(x):\n    return len(str(10**9000)) * 0 + 2 * x",
    "pickle": "import pickle\nclass Box:\n    pass\npickle.loads(pickle.dumps(Box()))\n" + GOOD,
}


@pytest.mark.parametrize("code", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_run_as_imported_files_do(code):
    tests = [((x,), 2 * x) for x in range(3)]
    problem = coding.problem("Double.", "double", tests, "", preamble="import math\n\n\n")
    assert coding.unit_tests.score(problem, fenced(code)) == 1.0


@pytest.fixture
def quick(monkeypatch):
    box = Sandbox(workers=1, limits=Limits(wall_s=20.0, call_s=0.5))
    box.require()
    monkeypatch.setattr(sandbox, "default", lambda: box)
    yield box
    box.close()


def test_a_hanging_program_costs_the_time_of_one_call(quick):
    problem = coding.problem("Double.", "double", [((x,), 2 * x) for x in range(20)], "")
    start = time.monotonic()
    assert coding.unit_tests.score(problem, fenced("def double(x):\n    while True: pass")) == 0.0
    assert time.monotonic() - start < 5


def test_a_hanging_reference_is_left_out_at_the_cost_of_one_call(quick, tmp_path):
    row = (
        '{"task_id": "H/%d", "prompt": "def f(x):\\n", "entry_point": "f", "plus_input": [],'
        ' "canonical_solution": "    %s\\n", "base_input": [[1],[2],[3],[4],[5],[6],[7],[8]]}\n'
    )
    path = tmp_path / "h.jsonl"
    path.write_text(row % (0, "while True: pass") * 3 + row % (1, "return x"))
    start = time.monotonic()
    problems = coding_files.read_humaneval_plus(path)
    assert [problem.answer["task_id"] for problem in problems] == ["H/1"]
    assert time.monotonic() - start < 8  # 24 calls of half a second would be more


def test_an_answer_of_colliding_hashes_is_wrong_and_costs_little(quick):
    code = "def double(x):\n    return {i * (2**61 - 1) for i in range(1, 3000)}"
    start = time.process_time()
    assert coding.unit_tests.score(DOUBLE, fenced(code)) == 0.0
    assert time.process_time() - start < 1.0
