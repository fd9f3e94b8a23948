"""The child that compares expressions by computer algebra (latex2sympy and SymPy).

One JSON {"reference", "answer", "equation": bool} a line in, one {"equal": bool or null} a line
out; null is for a job that used up its processor time or memory. A computation inside of C that no
handler can interrupt ends with the process, by SIGXCPU. The process may be killed at any time, and
ends with its parent, whose pipe it reads.
"""

import json
import resource
import signal
import sys
import time
from types import FrameType
from typing import Any

MEMORY = 1 << 30  # bytes of address space
SECONDS = 2.0  # of processor time for one comparison
GRACE = 2  # more of them until the process is ended
DIGITS = 60  # precision of numbers that are compared
AGREEMENT = 40  # digits in which equal numbers agree, relative to their size
# Values of the variables at which two expressions are compared, of both signs and of no pattern.
POINTS = ("1.3719", "2.2361", "0.4142", "3.6055", "0.8660", "1.7099", "2.9240", "0.5773")


class OutOfTime(BaseException):
    """The comparison used up its processor time."""


def expression(latex: str) -> Any:
    """The SymPy expression of LaTeX, i as the imaginary unit; decimals are exact rationals."""
    import sympy
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    parsed = latex2sympy(
        latex,
        normalization_config=None,
        conversion_config=ConversionConfig(lowercase_symbols=False),
    )
    if not isinstance(parsed, sympy.Expr):
        raise ValueError(f"not one expression: {latex!r}")
    exact = {number: sympy.Rational(str(number)) for number in parsed.atoms(sympy.Float)}
    return parsed.xreplace({sympy.Symbol("i"): sympy.I, **exact})


def equal(reference: str, answer: str) -> bool:
    """Whether two expressions have the same value, or agree wherever their variables are put."""
    return same_values(expression(reference), expression(answer))


def same_equation(reference: str, answer: str) -> bool:
    """Whether two equations "left = right" are multiples of each other."""
    import sympy

    first, second = (_difference(text) for text in (reference, answer))
    if first.free_symbols != second.free_symbols:
        return False
    point = {symbol: sympy.Rational(7 + 3 * i, 5) for i, symbol in enumerate(_symbols(first))}
    scale = first.xreplace(point), second.xreplace(point)
    if any(_value(part) == 0 for part in scale):
        return same_values(first, second)
    return same_values(first * scale[1], second * scale[0])


def _difference(equation: str) -> Any:
    left, right = equation.split("=")
    return expression(left) - expression(right)


def _symbols(value: Any) -> list[Any]:
    return sorted(value.free_symbols, key=str)


def same_values(first: Any, second: Any) -> bool:
    """Whether two SymPy expressions agree at several values of their variables.

    Polynomials that agree at a random point are equal with near certainty (Schwartz and Zippel);
    the same holds for other analytic functions. Under roots and logarithms variables stand for
    positive numbers, as in school.
    """
    import sympy

    if any(part.has(sympy.zoo, sympy.nan) for part in (first, second)):
        return False  # 12:00 and 1:00 are no quotients
    if first == second:
        return True
    symbols = sorted(first.free_symbols | second.free_symbols, key=str)
    if not symbols:
        return same_numbers(first, second)
    if first.free_symbols != second.free_symbols:
        return False
    branches = first.has(sympy.log) or any(not p.exp.is_integer for p in first.atoms(sympy.Pow))
    for sign in (1,) if branches else (1, -1):
        for shift in range(2):
            values = (POINTS[(i + shift) % len(POINTS)] for i in range(len(symbols)))
            point = {s: sign * sympy.Rational(v) for s, v in zip(symbols, values, strict=True)}
            if not same_numbers(first.xreplace(point), second.xreplace(point)):
                return False
    return True


def same_numbers(first: Any, second: Any) -> bool:
    """Whether two numbers are equal: exactly if both are rational, else to AGREEMENT digits."""
    import sympy

    first, second = first.doit(), second.doit()
    if first == second:
        return True
    if first.is_Rational and second.is_Rational:
        return False
    a, b = _value(first), _value(second)
    if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
        return False
    largest = max(abs(a), abs(b))
    return bool(largest == 0 or abs(a - b) < largest * sympy.Float(10, DIGITS) ** -AGREEMENT)


def _value(number: Any) -> Any:
    return number.evalf(DIGITS)


def verdict(job: dict) -> bool | None:
    """The verdict on a job; what cannot be read or computed is not equal. None: out of memory."""
    compare = same_equation if job["equation"] else equal
    try:
        return compare(job["reference"], job["answer"])
    except MemoryError:
        return None
    except Exception:  # whatever a hostile text raises in parser and algebra
        return False


def timed(job: dict) -> bool | None:
    """The verdict on a job within its processor time; None if it used it up."""
    used = int(time.process_time())
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (used + int(SECONDS) + GRACE, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        try:
            return verdict(job)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
    except OutOfTime:
        return None


def _out_of_time(_signal: int, _frame: FrameType | None) -> None:
    raise OutOfTime


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _out_of_time)
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in iter(sys.stdin.readline, ""):
        answers.write(json.dumps({"equal": timed(json.loads(line))}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
