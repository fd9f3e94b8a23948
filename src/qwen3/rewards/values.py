"""Comparing what a candidate returned with what was expected, outside the candidate's process."""

import math

NUMBERS = (bool, int, float, complex)


def equal(got, wanted, tolerance=0.0):
    """Python's == on plain values, with nan equal to nan and floats within `tolerance`

    (absolute, plus 1e-7 of the expected value where a tolerance is given).
    """
    if isinstance(got, NUMBERS) and isinstance(wanted, NUMBERS):
        return _numbers(got, wanted, tolerance)
    if type(got) is not type(wanted):
        return isinstance(got, set | frozenset) and got == wanted
    if isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(
            equal(a, b, tolerance) for a, b in zip(got, wanted, strict=True)
        )
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(
            equal(got[key], wanted[key], tolerance) for key in wanted
        )
    return got == wanted


def _numbers(got, wanted, tolerance):
    if got == wanted:
        return True
    if isinstance(got, complex) or isinstance(wanted, complex):
        return False
    try:
        if math.isnan(got) or math.isnan(wanted):
            return math.isnan(got) and math.isnan(wanted)
        return tolerance > 0 and math.isclose(got, wanted, rel_tol=1e-7, abs_tol=tolerance)
    except OverflowError:
        return False
