"""EvalPlus: its comparison of values, its types, and programs that try to pass without solving."""

import gzip
import json
import os
from pathlib import Path

import pytest

from qwen3.eval import evalplus
from qwen3.eval.items import Item

PROGRAM = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\n\ndef half(x):\n",
    "entry_point": "half",
    "canonical_solution": "    return math.floor(x / 2)\n",
    "base_input": [[4], [5]],
    "plus_input": [[9], [-3]],
    "atol": 0,
}


def item(**changes):
    row = PROGRAM | changes
    inputs = [tuple(args) for args in row["base_input"] + row["plus_input"]]
    return Item(row["task_id"], row | {"inputs": inputs})


def score(code, **changes):
    return evalplus.block(item(**changes), f"```python\n{code}\n```").score


CHEAT = """
class Any(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
    def __len__(self): return 0
    def __abs__(self): return -1
    def __le__(self, other): return True
def half(x): return Any()
"""
PROGRAMS = [
    ("def half(x):\n    return math.floor(x / 2)", 1.0),  # the prompt's import comes along
    ("def half(x):\n    return x // 2", 1.0),
    ("def half(x):\n    return int(x / 2)", 0.0),  # wrong for -3, one of the plus inputs
    ("def half(x):\n    return None", 0.0),
    ("def half(x):\n    raise ValueError", 0.0),
    ("def other(x):\n    return x // 2", 0.0),
    ("import sys\nsys.exit(0)\ndef half(x): pass", 0.0),
    (CHEAT, 0.0),
    ("def half(x):\n    return x // 2\ndef returned_value(*args):\n    return True", 0.0),
]


@pytest.mark.parametrize("code, expected", PROGRAMS)
def test_programs(code, expected):
    assert score(code) == expected


def test_a_large_value_is_compared_by_its_digest():
    body = "[x, float(x), True, 'é', None, (1.5,)] * 10_000"
    large = {
        "canonical_solution": f"    return {body}\n",
        "base_input": [[3]],
        "plus_input": [],
        "entry_point": "half",
    }
    assert score("def half(x): return [3.0, 3, 1, 'é', None, (1.5,)] * 10_000", **large) == 1.0
    assert score("def half(x): return [3.0, 3, 1, 'é', None, [1.5]] * 10_000", **large) == 0.0
    assert score("def half(x): return [3.0, 3, 1, 'e', None, (1.5,)] * 10_000", **large) == 0.0


def test_a_solution_that_fails_here_gives_no_verdict_and_an_item_is_never_left_out(tmp_path):
    broken = {"canonical_solution": "    return undefined\n"}
    assert score("def half(x):\n    return x // 2", **broken) is None
    file = tmp_path / "MbppPlus.jsonl"
    rows = [PROGRAM | broken | {"task_id": f"Mbpp/{i}", "plus_input": {}} for i in (2, 252)]
    file.write_text("".join(json.dumps(row | {"base_input": [["3"]]}) + "\n" for row in rows))
    items = evalplus.reader(plus=True)([file])
    assert [i["inputs"] for i in items] == [[(("3",),)], [(3 + 0j,)]]
    file.write_text(json.dumps(PROGRAM | {"task_id": "Mbpp/124"}) + "\n")
    with pytest.raises(ValueError, match="MbppPlus.jsonl, line 1: inputs"):
        evalplus.reader(plus=False)([file])


# (entry, arguments, value, expected, atol, agrees)
COMPARISONS = [
    ("f", (1,), 1.0, 1, 0, True),
    ("f", (1,), True, 1, 0, True),
    ("f", (1,), [1, 2], (1, 2), 0, False),
    ("f", (1,), 0.1 + 0.2, 0.3, 0, True),  # a float: 1e-6
    ("f", (1,), [0.1 + 0.2], [0.3], 0, True),
    ("f", (1,), [0.1 + 0.2, 1], [0.3, 1], 0, False),  # not all are floats
    ("f", (1,), [0.3], [0.3, 0.3], 0, False),
    ("f", (1,), "a", 0.3, 0, False),
    ("f", (1,), 10**400, 0.3, 1e-6, False),
    ("find_zero", ([1.0, 2.0],), -0.5, 7.0, 1e-4, True),
    ("find_zero", ([1.0, 2.0],), 0.5, 7.0, 1e-4, False),
    ("find_zero", ([1.0, 2.0],), None, 7.0, 1e-4, False),
    ("are_equivalent", (1, 2), "anything", True, 0, True),
    ("sum_div", (7,), 0, 1, 0, True),
    ("sum_div", (7,), 2, 1, 0, False),
    ("surface_Area", (3, 4), 35, 33, 0, True),
    ("surface_Area", (3, 4), "35", 33, 0, False),
    ("digit_distance_nums", (23, 5), 4, 7, 0, True),
    ("digit_distance_nums", (23, 5), 5, 7, 0, False),
    ("Diff", ([], []), [2, 1, 1], [1, 2], 0, True),
    ("Diff", ([], []), [[2], 1], [1, 2], 0, False),
    ("f", (1,), {evalplus.LARGE: "a"}, {evalplus.LARGE: "b"}, 1e-6, False),
    ("Diff", ([], []), {evalplus.LARGE: "a"}, [evalplus.LARGE], 0, False),
]


@pytest.mark.parametrize("entry, args, value, expected, atol, agrees", COMPARISONS)
def test_values(entry, args, value, expected, atol, agrees):
    assert evalplus.values_agree(entry, [args], [value], [expected], atol) == agrees


def test_the_tolerance_counts_from_the_first_float_on():
    inputs, values = [(1,)] * 2, [1, 0.5]
    assert evalplus.values_agree("f", inputs, [*values[::-1]], [0.5, 1], 0)
    assert not evalplus.values_agree("f", inputs, [1 + 1e-9, 0.5], [1, 0.5], 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["humaneval_plus/HumanEvalPlus", "mbpp_plus/MbppPlus"])
def test_canonical_solutions_pass_and_a_cheating_object_never_does(name):
    if "QWEN3_EVAL_DATA" not in os.environ:
        pytest.skip("QWEN3_EVAL_DATA names no folder")
    file = Path(os.environ["QWEN3_EVAL_DATA"]) / f"{name}.jsonl.gz"
    items = evalplus.reader(plus=True)([file])
    assert len(items) == len(gzip.open(file, "rt").read().splitlines())
    for task in items:
        solution = f"```python\n{task['prompt']}{task['canonical_solution']}\n```"
        assert evalplus.block(task, solution).score == 1.0, task.id
        cheat = CHEAT.replace("def half(x)", f"def {task['entry_point']}(*args)")
        assert evalplus.block(task, f"```python\n{cheat}\n```").score == 0.0, task.id
