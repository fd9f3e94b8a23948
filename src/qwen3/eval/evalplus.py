"""EvalPlus: HumanEval+ and MBPP+ with all inputs and the special oracles (arXiv 2305.01210).

A program and the canonical solution run in separate jobs of the sandbox, on the same inputs; what
they returned is compared here, outside of both. Where the canonical solution itself fails (too
little memory, too slow a machine) an item has no verdict, and is never left out. Departures: 10
seconds a call where EvalPlus takes four times the solution's own time; of a value of more than
100,000 characters the digest is compared, floats rounded to 6 decimal places.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qwen3 import sandbox
from qwen3.data.jsonl import place, read_rows
from qwen3.eval.eval_sandbox import AMPLE, sandbox_with
from qwen3.eval.item_readers import Reader
from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.eval.suite_prompts import Messages, user
from qwen3.rewards import code_blocks, coding
from qwen3.rewards.task import LONGEST
from qwen3.sandbox import driver

FIELDS = {
    **{"task_id": str, "prompt": str, "entry_point": str, "canonical_solution": str},
    **{"base_input": list, "plus_input": object},
}
# Tried in order: the second ones only where the canonical solution does not keep to the first, or
# where all calls together took long.
LIMITS = (
    sandbox.Limits(memory_mb=4096, cpu_s=60, wall_s=60.0, call_s=10.0, output_kb=30_720),
    AMPLE,
)
CALL = "returned_value"  # the function of CALLER
LARGE = "sha256 of a large value"  # key of the digest that stands for one

# Runs before a program, in its module: calls the function and makes a large value a digest. It
# decides nothing: a program that changes it still does not know the expected values. Equal values
# have equal texts: 1, 1.0 and True the same one, and the sets of any order.
CALLER = f"""
def {CALL}(*args):
    import functools
    import hashlib

    @functools.cache
    def scalar(value):
        if isinstance(value, float):
            return str(int(value)) if value.is_integer() else repr(round(value, 6))
        return repr(value) if isinstance(value, (str, bytes, complex)) else str(int(value))

    def text(value):
        kind = type(value)
        if kind in (list, tuple):
            is_flat = not {{list, tuple, set, frozenset, dict}} & set(map(type, value))
            return f"{{kind.__name__}}({{','.join(map(scalar if is_flat else text, value))}})"
        if kind in (set, frozenset):
            return f"set({{','.join(sorted(map(text, value)))}})"
        if kind is dict:
            pairs = sorted(text(key) + ":" + text(item) for key, item in value.items())
            return f"dict({{','.join(pairs)}})"
        return "None" if value is None else scalar(value)

    value = globals()[ENTRY](*args)
    if NOT_NONE:
        return value if isinstance(value, bool) else value is not None
    if type(value) in (str, list, tuple, set, frozenset, dict) and len(repr(value)) > 100_000:
        return {{"{LARGE}": hashlib.sha256(text(value).encode()).hexdigest()}}
    return value
"""

# --- oracles

# Functions whose values are matches of regular expressions: that there is one counts.
NOT_NONE = ("check_str", "text_match_three", "text_starta_endb")
# Functions whose lists are compared as sets.
AS_SETS = (
    *("similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly"),
    *("larg_nnum", "intersection_array", "find_dissimilar", "Diff"),
)


def pyramid_surface(base: float, height: float) -> int:
    """Surface of a square pyramid whose height is the one from base to apex, rounded."""
    slant = math.sqrt((base / 2) ** 2 + height**2)
    return round(base**2 + 2 * base * slant)


def digit_distance(first: int, second: int) -> int:
    """Sum of the differences of digits, the shorter number filled with zeros."""
    a, b = str(first), str(second)
    width = max(len(a), len(b))
    pairs = zip(a.zfill(width), b.zfill(width), strict=True)
    return sum(abs(int(x) - int(y)) for x, y in pairs)


# Values that are right beside the canonical one: (arguments, value, tolerance) -> bool.
ALSO_RIGHT: Mapping[str, Callable[[Sequence, Any, float], bool]] = {
    "are_equivalent": lambda args, value, atol: True,
    "sum_div": lambda args, value, atol: value == 0,
    "surface_Area": lambda args, value, atol: abs(value - pyramid_surface(*args)) <= atol,
    "digit_distance_nums": lambda args, value, atol: value == digit_distance(*args),
}


def zero_found(coefficients: Sequence[float], x: float, atol: float) -> bool:
    """HumanEval/32: whether x is a zero of the polynomial."""
    return abs(sum(c * math.pow(x, i) for i, c in enumerate(coefficients))) <= atol


def values_agree(
    entry: str, inputs: Sequence[tuple], values: Sequence, expected: Sequence, atol: float
) -> bool:
    """EvalPlus's comparison of all values of a program with the canonical solution's."""
    for args, value, wanted in zip(inputs, values, expected, strict=True):
        if not is_large(wanted) and _is_float(wanted):
            atol = atol or 1e-6  # from the first float on, as in EvalPlus
        try:
            if not _agrees(entry, args, value, wanted, atol):
                return False
        except (TypeError, ValueError, OverflowError, ZeroDivisionError):
            return False
    return True


def _agrees(entry: str, args: tuple, value: Any, wanted: Any, atol: float) -> bool:
    if is_large(value) or is_large(wanted):
        return value == wanted
    if entry == "find_zero":
        return zero_found(args[0], value, atol)
    if entry in AS_SETS:
        equal = set(driver.spread(value)) == set(wanted)
    else:
        is_right = ALSO_RIGHT.get(entry)
        equal = value == wanted or (is_right is not None and is_right(args, value, atol))
    if equal or not atol or type(value) is not type(wanted):
        return bool(equal)
    if isinstance(wanted, (list, tuple)) and len(value) != len(wanted):
        return False
    return bool(np.allclose(value, wanted, rtol=1e-7, atol=atol))


def _is_float(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def is_large(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == [LARGE]


# --- items


def reader(*, plus: bool) -> Reader:
    """A reader of a release file. plus: with EvalPlus's own inputs, else the original ones."""

    def read(files: Sequence[Path]) -> list[Item]:
        items = []
        for file in files:
            for number, row in read_rows(file, fields=FIELDS):
                inputs = row["base_input"] + list(row["plus_input"] if plus else ())  # {} for none
                try:
                    row["inputs"] = [as_arguments(row["task_id"], args) for args in inputs]
                except (TypeError, ValueError, AttributeError, IndexError) as error:
                    raise ValueError(f"{place(file, number)}: inputs: {error}") from None
                items.append(Item(row["task_id"], row))
        return items

    return read


def _tuples(value: Any) -> Any:
    """Lists as tuples at any depth."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _set(value: Any) -> Any:
    return set(value) if isinstance(value, list) and value else {}


def _of_tuples(values: list) -> list[tuple]:
    return [tuple(value) for value in values]


# Types that JSON does not have, by number of the task: (numbers, arguments -> arguments).
SHAPES: tuple[tuple[set[int], Callable[[list], Sequence]], ...] = (
    (
        {2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424}
        | {429, 470, 560, 579, 596, 616, 630, 726, 740, 744, 809},
        lambda args: [tuple(arg) for arg in args],
    ),
    (
        {63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780},
        lambda args: [_of_tuples(arg) for arg in args],
    ),
    ({75, 413, 444, 753}, lambda args: [_of_tuples(args[0]), *args[1:]]),
    ({106, 750}, lambda args: [args[0], tuple(args[1])]),
    ({115}, lambda args: [[_set(item) for item in args[0]]]),
    ({124}, lambda args: [float(args[0]), complex(args[1])]),
    ({252}, lambda args: [complex(args[0])]),
    ({250, 405, 446, 617, 720, 763, 808, 307}, lambda args: [tuple(args[0]), *args[1:]]),
    ({259, 401, 445}, lambda args: [tuple(_of_tuples(arg)) for arg in args]),
    (
        {278},
        lambda args: [tuple(tuple(v) if isinstance(v, list) else v for v in args[0])],
    ),
    ({722}, lambda args: [{k: tuple(v) for k, v in args[0].items()}, *args[1:]]),
    ({580, 615, 791}, lambda args: [_tuples(arg) for arg in args]),
)


def as_arguments(task: str, args: list) -> tuple:
    """The arguments of one call. task: "Mbpp/2", "HumanEval/0"."""
    name, _, number = task.partition("/")
    if name == "Mbpp":
        for numbers, shape in SHAPES:
            if int(number) in numbers:
                return tuple(shape(args))
    return tuple(args)


def chat_messages(item: Item) -> Messages:
    """The head of the function, or the task with a call, and the form of an answer."""
    task = f"```python\n{item['prompt'].strip()}\n```"
    name = item["entry_point"]
    return user(f"Write this Python program; it defines `{name}`.\n{task}\n{coding.FORM}")


# --- verdicts


class _Values(NamedTuple):
    """What the calls of a program returned."""

    values: list[Any] | None  # None where a call failed
    limit: str = ""  # that ended it: "job", the time of all calls; "call", that of one, or memory


def _values(
    item: Item, limits: sandbox.Limits, code: str | None = None, preamble: str = ""
) -> _Values:
    """Runs a program, by default the canonical solution, with all inputs up to the first call that
    fails. Raises SandboxError.
    """
    entry = item["entry_point"]
    head = f"ENTRY = {entry!r}\nNOT_NONE = {entry in NOT_NONE}\n{CALLER}\n{preamble}"
    code = item["prompt"] + item["canonical_solution"] if code is None else code
    run = sandbox_with(limits).run(code, CALL, item["inputs"], preamble=head, stop_at_error=True)
    calls = run.calls
    values = [value for kind, value in calls if kind == "value"]
    if len(values) == len(item["inputs"]):
        return _Values(values)
    if run.end == "time":
        return _Values(None, "job")
    errors = {value for kind, value in calls if kind == "error"}
    is_limited = run.end != "exit" or errors & {"TimeoutError", "MemoryError"}
    return _Values(None, "call" if is_limited else "")


def program(item: Item, code: str, preamble: str = "") -> Verdict:
    """1 where the program gives the canonical solution's value for every input."""
    atol = float(item.fields.get("atol") or 0)
    try:
        for limits in LIMITS:
            values, limit = _values(item, limits, code, preamble)
            if values is None and not limit:
                return Verdict(0.0, code)
            if limit == "job" and limits != LIMITS[-1]:
                continue  # no single call took long: the machine may be slow
            expected = _values(item, limits).values
            if expected is not None:
                agrees = values is not None and values_agree(
                    item["entry_point"], item["inputs"], values, expected, atol
                )
                return Verdict(float(agrees), code)
    except sandbox.SandboxError:
        pass
    return Verdict(None, code)


def continuation(item: Item, answer: str) -> Verdict:
    """A base model's: the prompt with what it went on with."""
    return program(item, f"{item['prompt'].strip()}\n{answer.rstrip()}\n")


def block(item: Item, answer: str) -> Verdict:
    """A chat model's: the last block of code that defines the function.

    Imports and other functions of the prompt come along, whether or not the answer repeats them.
    """
    code = code_blocks.program(answer, item["entry_point"]) if len(answer) <= LONGEST else None
    if code is None:
        return UNPARSED
    head = re.split(rf"(?m)^def {re.escape(item['entry_point'])}\b", item["prompt"])[0]
    return program(item, code, head)
