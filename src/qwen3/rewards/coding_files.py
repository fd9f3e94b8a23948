"""Problems of the `coding` task from MBPP and HumanEval+ files (JSON lines, .gz or not)."""

import ast
import re
from pathlib import Path
from typing import Any

from qwen3 import sandbox
from qwen3.data.jsonl import read_rows
from qwen3.rewards import coding
from qwen3.rewards.task import Problem

# The fields of the files, with the types of those that are used here.
MBPP_FIELDS = {"text": str, "code": str, "task_id": object, "test_list": list}
HUMANEVAL_FIELDS = {
    **{"task_id": object, "prompt": str, "entry_point": str, "canonical_solution": str},
    **{"base_input": list, "plus_input": list},
}
MBPP_TEXT = "{text}\nThe function is called like this: `{call}`.\n{form}"
HUMANEVAL_TEXT = "Complete this Python function.\n```python\n{prompt}\n```\n{form}"


def read_mbpp(path: str | Path) -> list[Problem]:
    """Problems of an MBPP file. Tests are its asserts `f(plain values) == plain value`.

    A record with a test of another shape (7 of 774: objects, `1 / 3`, `sys.getsizeof`) is left out:
    its comparison would have to run in the candidate's process. answer["task_id"] is the file's.
    """
    problems = []
    for _, record in read_rows(path, fields=MBPP_FIELDS):
        try:
            parsed = [parse_assert(test) for test in record["test_list"]]
        except ValueError:
            continue
        if record.get("test_setup_code") or len({entry for entry, _, _ in parsed}) != 1:
            continue
        entry, call = parsed[0][0], record["test_list"][0].removeprefix("assert ").split("==")[0]
        text = MBPP_TEXT.format(text=record["text"], call=call.strip(), form=coding.FORM)
        tests = [(args, expected) for _, args, expected in parsed]
        try:
            problem = coding.problem(text, entry, tests, record["code"].replace("\r", "") + "\n")
        except ValueError:  # values nested too deep
            continue
        problem.answer["task_id"] = record["task_id"]
        problems.append(problem)
    return problems


def parse_assert(text: Any) -> tuple[str, tuple, Any]:
    """(function, arguments, expected) of `assert f(...) == ...` on plain values; or ValueError."""
    try:
        match ast.parse(str(text).strip()).body:
            case [
                ast.Assert(
                    test=ast.Compare(
                        left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
                        ops=[ast.Eq()],
                        comparators=[expected],
                    )
                )
            ]:
                values = tuple(ast.literal_eval(arg) for arg in args)
                return name, values, ast.literal_eval(expected)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError):
        pass  # no Python, nested too deep for it, or not of plain values
    raise ValueError(f"not a plain assert: {str(text)[:80]!r}")


def read_humaneval_plus(path: str | Path, *, most_inputs: int = 200) -> list[Problem]:
    """Problems of a HumanEval+ file; expected values come from its own solutions, in the sandbox.

    Raises SandboxUnavailable where code cannot be run. A record whose solution fails, hangs (which
    costs the time of one call) or does not return plain values is left out.
    """
    rows = [row for _, row in read_rows(path, fields=HUMANEVAL_FIELDS)]
    jobs: list[tuple[str, str, list[tuple]]] = []
    for row in rows:
        inputs = [tuple(args) for args in (row["base_input"] + row["plus_input"])[:most_inputs]]
        jobs.append((row["prompt"] + row["canonical_solution"], row["entry_point"], inputs))
    problems = []
    runs = sandbox.default().run_many(jobs, stop_at_error=True)
    for row, (code, entry, inputs), run in zip(rows, jobs, runs, strict=True):
        calls = () if isinstance(run, sandbox.SandboxError) else run.calls
        if [kind for kind, _ in calls] == ["value"] * len(inputs):
            tests = [(args, value) for args, (_, value) in zip(inputs, calls, strict=True)]
            problems.append(_humaneval(row, entry, tests, code))
    return problems


def _humaneval(
    row: dict[str, Any], entry: str, tests: list[tuple[tuple, Any]], solution: str
) -> Problem:
    text = HUMANEVAL_TEXT.format(prompt=row["prompt"].rstrip(), form=coding.FORM)
    # Imports and other functions of the prompt come along, whether or not the answer repeats them.
    preamble = re.split(rf"(?m)^def {re.escape(entry)}\b", row["prompt"])[0]
    problem = coding.problem(
        text, entry, tests, solution, preamble=preamble, atol=float(row.get("atol") or 0)
    )
    problem.answer["task_id"] = row["task_id"]
    return problem
