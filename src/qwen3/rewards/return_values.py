"""Comparing what a candidate returned with what was expected, outside the candidate's process."""

import math
from typing import Any

NUMBERS = (bool, int, float, complex)


def equal(got: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Python's == on plain values, with nan equal to nan and floats equal within `tolerance`.

    The tolerance is absolute; where it is given, 1e-7 of the expected value is allowed as well.
    """
    if isinstance(got, NUMBERS) and isinstance(expected, NUMBERS):
        return _numbers(got, expected, tolerance)
    if type(got) is not type(expected):
        return isinstance(got, set | frozenset) and got == expected
    if isinstance(expected, list | tuple):
        return len(got) == len(expected) and all(
            equal(a, b, tolerance) for a, b in zip(got, expected, strict=True)
        )
    if isinstance(expected, dict):
        return got.keys() == expected.keys() and all(
            equal(got[key], expected[key], tolerance) for key in expected
        )
    return got == expected


def _numbers(got: Any, expected: Any, tolerance: float) -> bool:
    if got == expected:
        return True
    if isinstance(got, complex) or isinstance(expected, complex):
        return False
    try:
        if math.isnan(got) or math.isnan(expected):
            return math.isnan(got) and math.isnan(expected)
        return tolerance > 0 and math.isclose(got, expected, rel_tol=1e-7, abs_tol=tolerance)
    except OverflowError:
        return False
