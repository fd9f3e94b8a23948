"""Computer algebra in child processes that can be killed (`maths_verifier`): are two LaTeX equal?

An answer that makes the algebra run out of time, memory or stack has lost: False, never "no
verdict", or hanging the verifier would pay. NoVerdict is for a child that died or stood still
through no doing of the answer's.
"""

import sys
from functools import cache, lru_cache
from pathlib import Path

from qwen3.rewards import maths_verifier
from qwen3.rewards.task import NoVerdict
from qwen3.sandbox.child_pool import ChildFailed, ChildPool

CHILD = Path(maths_verifier.__file__)
CHILDREN, RECYCLE = 2, 500  # processes; requests after which one is replaced
FIRST_SECONDS = 60.0  # wall time of a new child's imports, by a question of our own
SECONDS = 30.0  # wall time of a comparison; its processor time is bounded by the child itself
WARM_UP = {"reference": "\\sqrt{4}x", "answer": "2x", "equation": False}


@cache
def pool() -> ChildPool:
    """The child processes, started at first use."""
    return ChildPool(
        [sys.executable, "-I", str(CHILD)],
        size=CHILDREN,
        recycle=RECYCLE,
        warm_up=(WARM_UP, FIRST_SECONDS),
    )


class TooCostly(Exception):
    """The answer makes the algebra run out of processor time, memory or stack."""


def equal(reference: str, answer: str, equation: bool = False) -> bool:
    """Whether two expressions, or two equations, are equal.

    Raises TooCostly, and NoVerdict if the child failed through no doing of the answer's.
    """
    verdict = _verdict(reference, answer, equation)
    if verdict is None:
        raise TooCostly(f"computer algebra on {answer[:60]!r}")
    return verdict


@lru_cache(maxsize=4096)
def _verdict(reference: str, answer: str, equation: bool) -> bool | None:
    """The child's verdict; None if the answer is too costly. Samples of a prompt often agree."""
    job = {"reference": reference, "answer": answer, "equation": equation}
    try:
        return pool().ask(job, SECONDS)["equal"]
    except ChildFailed as error:
        if error.own_doing or error.cpu_seconds >= maths_verifier.SECONDS:
            return None
        raise NoVerdict(f"computer algebra on {answer[:60]!r}: {error}") from error
