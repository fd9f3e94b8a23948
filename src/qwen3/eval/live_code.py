"""LiveCodeBench: programs that read standard input, or a method, by hidden tests.

Programs run in the sandbox and see inputs only; outputs are compared here, line by line, numbers by
value (arXiv 2403.07974). Departure: 6 seconds for a test as in the benchmark, measured here.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from qwen3 import sandbox
from qwen3.data.jsonl import place, read_rows
from qwen3.eval.eval_sandbox import sandbox_with
from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.eval.suite_prompts import Messages, user
from qwen3.rewards import code_blocks, return_values

FIELDS = (
    *("question_id", "question_content", "starter_code"),
    *("public_test_cases", "private_test_cases", "metadata"),
)
LIMITS = sandbox.Limits(memory_mb=4096, cpu_s=300, wall_s=300.0, call_s=6.0, output_kb=30_720)
# Runs before a program: `reads` runs its source on an input, `calls` its method, both anew.
PREAMBLE = """
def reads(source, text):
    import contextlib
    import io
    import sys
    sys.stdin, output = io.StringIO(text), io.StringIO()
    sys.stdin.buffer = io.BytesIO(text.encode())
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(source, "program.py", "exec"), {"__name__": "__main__"})
        except SystemExit:
            pass
    return output.getvalue()


def calls(source, name, arguments):
    scope = {"__name__": "program"}
    exec("from typing import *\\nimport bisect, collections, functools, heapq", scope)
    exec("import itertools, math, re, string", scope)
    exec(compile(source, "program.py", "exec"), scope)
    target = getattr(scope["Solution"](), name) if "Solution" in scope else scope[name]
    return target(*arguments)
"""
STDIN_FORM = (
    "Write a Python program that reads the input from standard input and writes the answer to "
    "standard output. Give the whole program in one ```python block."
)
METHOD_FORM = (
    "Complete this code. Give the whole program in one ```python block.\n```python\n{code}\n```"
)


class _PlainUnpickler(pickle.Unpickler):
    """Of texts alone: the private tests are a pickled JSON text."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no text")


FAULTS = (KeyError, ValueError, TypeError, zlib.error, pickle.PickleError)  # of a row's tests


def reader(files: Sequence[Path]) -> list[Item]:
    items = []
    for file in files:
        for number, row in read_rows(file, fields=FIELDS):
            try:
                items.append(Item(str(row["question_id"]), tested(row, row["metadata"])))
            except FAULTS as error:
                raise ValueError(f"{place(file, number)}: tests: {error!r}") from None
    return items


def tested(row: Mapping[str, Any], metadata: str) -> dict[str, Any]:
    """The row with "inputs", "outputs" and the "method" that its tests call; FAULTS."""
    tests = json.loads(row["public_test_cases"]) + _private(row["private_test_cases"])
    name = json.loads(metadata or "{}").get("func_name")
    inputs = [_arguments(test, name) for test in tests]
    outputs = [test["output"] for test in tests]
    return {**row, "inputs": inputs, "outputs": outputs, "method": name}


def _private(text: str) -> list[dict[str, Any]]:
    """Tests as JSON, or as base64 of a compressed pickle of it."""
    try:
        return json.loads(text)
    except ValueError:
        packed = zlib.decompress(base64.b64decode(text.encode()))
        return json.loads(_PlainUnpickler(io.BytesIO(packed)).load())


def _arguments(test: dict[str, Any], method: str | None) -> Any:
    """The text of standard input, or the arguments of the method: a JSON value a line."""
    if test["testtype"] == "stdin":
        return test["input"]
    if not method:
        raise ValueError("a functional test without the name of the method")
    return [json.loads(line) for line in test["input"].split("\n")]


def chat_messages(item: Item) -> Messages:
    code = item["starter_code"]
    form = METHOD_FORM.format(code=code) if code else STDIN_FORM
    return user(f"{item['question_content']}\n\n{form}")


def score(item: Item, answer: str) -> Verdict:
    """1 where every test gives the wanted output."""
    code = code_blocks.program(answer, item["method"] or "main")
    return UNPARSED if code is None else score_program(item, code)


def score_program(item: Item, code: str) -> Verdict:
    """1 where every test of the item gives the wanted output."""
    method: str | None = item["method"]
    entry = "calls" if method else "reads"
    head = (code, method) if method else (code,)
    inputs = [(*head, test) for test in item["inputs"]]
    try:
        run = sandbox_with(LIMITS).run(PREAMBLE, entry, inputs, stop_at_error=True)
    except sandbox.SandboxError:
        return Verdict(None, code)
    same = _same_value if method else _same_text
    passed = len(run.calls) == len(inputs) and all(
        kind == "value" and same(value, wanted)
        for (kind, value), wanted in zip(run.calls, item["outputs"], strict=True)
    )
    return Verdict(float(passed), code)


def _same_value(value: Any, wanted: str) -> bool:
    value = list(value) if isinstance(value, tuple) else value
    return return_values.equal(value, json.loads(wanted))


def _same_text(value: Any, wanted: str) -> bool:
    """Equal lines without surrounding spaces; a line of numbers by their values."""
    if not isinstance(value, str):
        return False
    got, expected = ([x.strip() for x in text.strip().split("\n")] for text in (value, wanted))
    return len(got) == len(expected) and all(
        a == b or _numbers(a) == _numbers(b) != [] for a, b in zip(got, expected, strict=True)
    )


def _numbers(line: str) -> list[Decimal]:
    """The numbers of a line; [] where it holds anything else."""
    try:
        return [Decimal(word) for word in line.split()]
    except InvalidOperation:
        return []
