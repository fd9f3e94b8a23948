"""Small questions with exact answers: equations, fractions, roots, counting, remainders."""

from collections.abc import Callable
from fractions import Fraction
from math import comb, isqrt
from random import Random
from typing import TypeAlias

# (values of the wording, reference answer in LaTeX)
Drawn: TypeAlias = tuple[dict[str, int | str], str]


def _linear(rng: Random, size: int) -> Drawn:
    a, x, b = rng.randint(2, 3 * size), rng.randint(-9 * size, 9 * size), rng.randint(1, 20 * size)
    return {"a": a, "b": b, "c": a * x + b}, str(x)


def _fractions(rng: Random, size: int) -> Drawn:
    p, q, r, s = (rng.randint(2, 4 + 3 * size) for _ in range(4))
    return {"p": p, "q": q, "r": r, "s": s}, latex(Fraction(p, q) + Fraction(r, s))


def _root(rng: Random, size: int) -> Drawn:
    n = rng.randint(2, 2 + size) ** 2 * rng.choice((2, 3, 5, 6, 7, 10, 11))
    square = max(k for k in range(1, isqrt(n) + 1) if n % (k * k) == 0)
    return {"n": n}, f"{square}\\sqrt{{{n // square**2}}}"


def _quadratic(rng: Random, size: int) -> Drawn:
    u, v = rng.sample(range(-4 * size - 2, 4 * size + 3), 2)
    return {"b": f"{-(u + v):+d}", "c": f"{u * v:+d}"}, f"\\{{{min(u, v)}, {max(u, v)}\\}}"


def _choose(rng: Random, size: int) -> Drawn:
    n = rng.randint(5, 6 + 2 * size)
    k = rng.randint(2, n - 2)
    return {"n": n, "k": k}, str(comb(n, k))


def _remainder(rng: Random, size: int) -> Drawn:
    a, m = rng.randint(50, 10 ** (1 + size)), rng.randint(7, 9 + 10 * size)
    return {"a": a, "m": m}, str(a % m)


def latex(value: Fraction) -> str:
    """The fraction in LaTeX, lowest terms, the sign in front."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


# kind: (train wording, held-out wording, draw(rng, size))
KINDS: dict[str, tuple[str, str, Callable[[Random, int], Drawn]]] = {
    "linear": (
        "Solve ${a}x + {b} = {c}$ for $x$.",
        "For which $x$ is ${a}x + {b}$ equal to ${c}$?",
        _linear,
    ),
    "fractions": (
        "Compute $\\frac{{{p}}}{{{q}}} + \\frac{{{r}}}{{{s}}}$ as one fraction.",
        "What is the sum of ${p}/{q}$ and ${r}/{s}$, as one fraction?",
        _fractions,
    ),
    "root": (
        "Simplify $\\sqrt{{{n}}}$.",
        "Write the square root of ${n}$ with the smallest possible number under the root.",
        _root,
    ),
    "quadratic": (
        "Find the set of solutions of $x^2 {b}x {c} = 0$.",
        "Which two numbers solve $x^2 {b}x {c} = 0$? Give them as a set.",
        _quadratic,
    ),
    "choose": (
        "In how many ways can {k} of {n} people be chosen?",
        "A team of {k} is picked from {n} players. How many different teams are there?",
        _choose,
    ),
    "remainder": (
        "What is the remainder when {a} is divided by {m}?",
        "Compute {a} modulo {m}.",
        _remainder,
    ),
}

# Forms that the final answer must have where the value alone would accept the question itself.
SHAPES = {"root": r"\d+ ?\\sqrt ?\{?\d+\}?"}
