"""Which final answers are the same: usual spellings are, other values, bases, orders are not."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from qwen3.data.jsonl import write_rows
from qwen3.rewards import maths, symbolic
from qwen3.rewards.answer_equality import same
from qwen3.rewards.final_answers import split
from qwen3.rewards.latex_cleaning import clean
from qwen3.rewards.numerals import number

MATH = Path(__file__).parents[3] / "shared" / "data" / "math500" / "test.jsonl"

# (reference, answer, whether they are the same)
PAIRS = [
    # numbers
    ("72", "72.0", True),
    ("72", "\\$72", True),
    ("1200", "1,200", True),
    ("14{,}916", "14 916", True),
    ("1234567", "1\\,234\\,567", True),
    ("\\$32,\\!348", "$32,348", True),
    ("1000000", "1 \\text{ million}", True),
    ("3000000", "3 \\times 10^6", True),
    ("0.00025", "2.5 \\cdot 10^{-4}", True),
    ("0.0000001", "1e-7", True),
    ("1024", "2^{10}", True),
    ("7/2", "3\\frac{1}{2}", True),
    ("7/2", "3 1/2", True),
    ("-7/2", "-3\\frac12", True),
    ("\\frac{1}{3}", "0.\\overline{3}", True),
    ("\\frac{1}{2}", "\\dfrac{2}{4}", True),
    ("-\\frac{1}{2}", "\\frac{-1}{2}", True),
    ("0.5", "50\\%", True),
    ("20\\%", "20", True),
    ("20\\%", "0.2", True),
    ("0", "-0", True),
    ("3", "3 \\pmod{7}", True),
    ("72", "73", False),
    ("72", "36 + 36", False),
    ("72", "8 \\cdot 9", False),
    ("72", "72, 73", False),
    ("5", "\\pm 5", False),
    ("3", "0/0", False),
    ("3", "\\infty", False),
    ("3", "9^{9^{9}}", False),
    ("3", "10000!", False),
    ("\\frac13", "0.333", False),
    ("0.0000001", "0.0000002", False),
    ("10^{-15}", "2 \\times 10^{-15}", False),
    ("20\\%", "2", False),
    ("5", "not 5", False),
    ("5", "at least 5", False),
    ("5", "5 \\text{ or more}", False),
    ("5", "5x", False),
    # bases
    ("2516_8", "2516_{8}", True),
    ("2516_8", "(2516)_8", True),
    ("2516_8", "2516 \\text{ base } 8", True),
    ("2516_8", "2516_9", False),
    ("2516_8", "2516", False),
    ("101_2", "5", False),
    ("5", "101_2", False),
    # units
    ("12", "12元", True),
    ("5", "5€", True),
    ("5", "5m", True),
    ("45", "45°", True),
    ("30^\\circ", "30 degrees", True),
    ("15\\mbox{ cm}^2", "15", True),
    ("15\\mbox{ cm}^2", "15 square centimeters", True),
    ("864 \\mbox{ inches}^2", "864\\text{ square inches}", True),
    ("9.8 \\text{ m/s}^2", "9.8 meters per second squared", True),
    ("60", "60 \\frac{\\text{km}}{\\text{h}}", True),
    ("12 \\text{ gm}", "12 grams", True),
    ("12 \\text{ gm}", "12 kg", False),
    ("15\\mbox{ cm}^2", "15 cm^3", False),
    ("30^\\circ", "\\frac{\\pi}{6}", False),
    # names and equations
    ("3", "x = 3", True),
    ("\\frac{1}{6}", "P(X=2) = \\frac{1}{6}", True),
    ("10", "S_{10} = 10", True),
    ("3", "x = \\frac{6}{2} = 3", True),
    ("9\\pi", "A = \\pi \\cdot 3^2 = 9\\pi", True),
    ("b=4", "4", True),
    ("y = 2x", "2x", True),
    ("y = 2x", "2x - y = 0", True),
    ("3", "1 = 3", False),
    ("3", "x = 1 + 2", False),
    ("3", "x = \\frac{8}{2} = 3", False),
    ("x = 3", "y = 3", False),
    ("y = 2x", "y = 3x", False),
    # several values
    ("2, 3", "x = 2 \\text{ or } x = 3", True),
    ("\\{2, 3\\}", "x = 2, x = 3", True),
    ("1, 2", "x_1 = 1, x_2 = 2", True),
    ("(1, 2)", "x = 1, y = 2", True),
    ("(1, 2)", "(x, y) = (1, 2)", True),
    ("2, 100", "2,100", True),
    ("1 \\pm \\sqrt{19}", "x = 1 + \\sqrt{19}, 1 - \\sqrt{19}", True),
    ("\\frac{3}{4}, -\\frac{3}{4}", "\\pm \\frac{3}{4}", True),
    ("\\text{C, F, H}", "H, F, C", True),
    ("\\emptyset", "\\varnothing", True),
    ("\\emptyset", "\\text{no solution}", True),
    ("1, 2, \\ldots, 10", "1, 2, ..., 10", True),
    ("2, 3", "(2, 3)", False),
    ("\\{2, 3\\}", "(2, 3)", False),
    ("(2, 3)", "\\{2, 3\\}", False),
    ("(2, 3)", "(3, 2)", False),
    ("1 \\pm \\sqrt{19}", "1 + \\sqrt{19}", False),
    ("1, 2, \\ldots, n", "1, 3, 5, \\ldots, 2n-1", False),
    ("1, 2, \\ldots, n", "1, 2, n", False),
    ("\\text{C, F, H}", "C, F", False),
    # tuples, intervals, matrices
    ("(3, \\frac{\\pi}{2})", "\\left( 3, \\pi/2 \\right)", True),
    ("(1, 2)", "1 < x < 2", True),
    ("[0, \\infty)", "x \\ge 0", True),
    ("(-\\infty, 2) \\cup (3, \\infty)", "x < 2 \\text{ or } x > 3", True),
    ("(-\\infty, 2) \\cup (3, \\infty)", "x \\in (3, \\infty) \\cup (-\\infty, 2)", True),
    ("(1, 5)", "x > 1 \\text{ and } x < 5", True),
    ("(-\\infty, 3) \\cup (3, \\infty)", "x \\neq 3", True),
    ("(-\\infty, 3) \\cup (3, \\infty)", "\\mathbb{R} \\setminus \\{3\\}", True),
    ("(-\\infty, 1) \\cup (1, 2) \\cup (2, \\infty)", "x \\ne 2, 1", True),
    ("(-\\infty, 1) \\cup (1, 2) \\cup (2, \\infty)", "x \\ne 1 \\text{ and } x \\ne 2", True),
    ("(-\\infty, 1) \\cup (1, 2) \\cup (2, \\infty)", "x \\ne 1 \\text{ and } y \\ne 2", False),
    ("(-\\infty, 1) \\cup (1, 2) \\cup (2, \\infty)", "x \\ne 1", False),
    ("f(2) < f(1) < f(4)", "f(4) > f(1) > f(2)", True),
    ("\\begin{pmatrix} 1 \\\\ 7 \\end{pmatrix}", "\\begin{bmatrix} 1 \\\\ 7 \\end{bmatrix}", True),
    ("\\begin{pmatrix} 1 \\\\ 7 \\end{pmatrix}", "\\langle 1, 7 \\rangle", True),
    ("[0, \\infty)", "x > 0", False),
    ("(1, 2)", "[1, 2]", False),
    ("f(2) < f(1) < f(4)", "f(1) < f(2) < f(4)", False),
    ("\\begin{pmatrix} 1 \\\\ 7 \\end{pmatrix}", "\\begin{pmatrix} 7 \\\\ 1 \\end{pmatrix}", False),
    # expressions
    ("2\\sqrt{3}", "\\sqrt{12}", True),
    ("\\dfrac{\\pi}{2}", "pi/2", True),
    ("16\\sqrt{3}", "16√3", True),
    ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}", True),
    ("x^5 - x^4 + x^3 - x^2 + x - 1", "(x-1)(x^4+x^2+1)", True),
    ("-1 - 5i", "-5i - 1", True),
    ("\\sin 3x", "3\\sin x - 4\\sin^3 x", True),
    ("\\sqrt{2}", "1.41421356237", False),
    ("3R^2", "3r^2", False),
    ("\\frac{1}{2004!}", "\\frac{1}{2005!}", False),
    ("-1 - 5i", "-1 + 5i", False),
    ("\\frac{1}{23}", "\\frac{12}{3}", False),
    # words
    ("\\text{(A)}", "A", True),
    ("A", "\\textbf{(A)}", True),
    ("\\text{even}", "Even.", True),
    ("\\text{1:03 PM}", "1:03 p.m.", True),
    ("\\text{(B)}", "\\textbf{(B) } \\frac{1}{2}", True),
    ("\\text{(B)}", "\\textbf{(B) } \\text{or (C)}", False),
    ("\\text{(B)}", "B. 12, C. 13", False),
    ("\\text{(A)}", "B", False),
    ("\\text{even}", "odd units", False),
    ("\\text{even}", "odd", False),
    ("\\text{1:03 PM}", "1:04 PM", False),
]


@pytest.mark.parametrize("reference, answer, expected", PAIRS)
def test_usual_spellings_are_the_same_and_other_values_are_not(reference, answer, expected):
    assert same(reference, answer) is expected


def references(most=300):
    """References of MATH, or those of the table above where the public file is not there."""
    if MATH.exists():
        return [problem.answer["gold"] for problem in maths.read_math(MATH)][:most]
    return list(dict.fromkeys(reference for reference, _, _ in PAIRS))


WRAPPINGS = [
    "$@$",
    "\\(@\\)",
    "\\displaystyle @.",
    "\\mathbf{@}",
    "\\text{@}",
    "x = @",
    "\\approx @",
    "**@**",
    "\\large \\boxed{@}",
    "\\begin{aligned} @ \\end{aligned}",
    "The answer is $@$.",
    "@ \\text{ units}",
    "@ units",
]


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_every_reference_is_recognised_in_every_wrapping(wrapping):
    missed = [r for r in references() if not same(r, wrapping.replace("@", r))]
    assert len(missed) <= 1, missed


@pytest.mark.parametrize("wrapping", ["(@)", "\\left(@\\right)", "( @ )"])
def test_brackets_around_one_value_are_none_and_around_a_list_make_a_tuple(wrapping):
    """Thousands parted by ",\\!" are one number in brackets too. "(3, 5, 7)" is a point whose
    order counts, not the three values that "3, 5, 7" names in any order."""
    lists = {reference for reference in references() if len(split(clean(reference), [","])[0]) > 1}
    missed = {r for r in references() if not same(r, wrapping.replace("@", r))}
    assert lists <= missed
    assert len(missed - lists) <= 1, missed - lists


def other_number(reference, rng):
    reference = clean(reference)  # \frac14 has its numbers apart
    numbers = list(re.finditer(r"\d+", reference))
    match = rng.choice(numbers) if numbers else None
    if match:
        value = str(int(match[0]) + rng.randint(1, 99)).zfill(len(match[0]))
        return reference[: match.start()] + value + reference[match.end() :]
    return None


def other_sign(reference, rng):
    if reference.startswith("-"):
        return reference[1:]
    named = re.match(r"[1-9]|\\[dt]?frac|\\sqrt|\\pi", reference)
    return f"-{reference}" if named and "pm" not in reference else None


def other_base(reference, rng):
    match = re.fullmatch(r"(\d+)_\{?(\d)\}?", reference)
    return rng.choice((f"{match[1]}_{int(match[2]) + 1}", match[1])) if match else None


def other_order(reference, rng):
    match = re.fullmatch(r"\(([^()]*),([^(),]*)\)", reference)
    if match and match[1].strip() != match[2].strip():
        return f"({match[2]},{match[1]})"
    return None


def other_brackets(reference, rng):
    match = re.fullmatch(r"\(([^()]*,[^()]*)\)", reference)
    return rng.choice((f"[{match[1]})", f"\\{{{match[1]}\\}}")) if match else None


def test_no_perturbed_reference_is_taken_for_the_right_one():
    rng, pairs, drawn = random.Random(0), set(), references()
    while len(pairs) < (1500 if MATH.exists() else 250):
        reference = rng.choice(drawn)
        changes = (other_number, other_sign, other_base, other_order, other_brackets)
        answer = rng.choice(changes)(reference, rng)
        if answer is not None:
            pairs.add((reference, answer))
    assert [pair for pair in sorted(pairs) if same(*pair)] == []


HOSTILE = {
    "braces": "{" * 16 + "1" + "}" * 16,
    "hundreds of braces": "{" * 140 + "1" + "}" * 140,
    "fractions": "\\frac{1}{" * 25 + "2" + "}" * 25,
    "roots": "\\sqrt{" * 8 + "2" + "}" * 8,
    "brackets": "(" * 40 + "x" + ")" * 40,
    "tower": "x^{x^{x^{x}}}",
    "powers of powers": "(((9^9)^9)^9)^9",
    "factorials": "x!!!!",
    "gamma": "\\Gamma(10^9)",
    "sums": "x+" * 140 + "x",
    "functions": "f(x)" * 60,
    "subscripts": "x_" * 100,
    "commas": "1," * 140,
    "equals": "x=" * 100 + "x",
    "texts": "\\text{" * 6 + "a" + "}" * 6,
    "words": "a " * 140,
    "long": "1" * 50_000,
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_hostile_answers_score_zero_and_cost_the_trainer_nothing(answer):
    for gold in ("7", "2\\sqrt{3}", "x^2+1", "(1, 2)"):
        before = time.process_time()
        score = maths.final_answer.score(maths.problem("?", gold), f"\\boxed{{{answer}}}")
        assert score == 0.0  # a hang is the answer's own doing: never "no verdict"
        assert time.process_time() - before < 1.0


def test_algebra_that_takes_too_long_is_cut_off_wherever_it_hangs():
    start = time.monotonic()
    for answer in ("9^{9^{9}}", "\\Gamma(10^{9})"):  # inside of C, inside of Python
        with pytest.raises(symbolic.TooCostly):
            symbolic.equal("\\pi", answer)
    assert time.monotonic() - start < 60
    assert symbolic.equal("\\pi x^2", "x \\cdot \\pi x")  # and the next child is warm at once


def test_a_child_that_dies_or_stands_still_gives_no_verdict(monkeypatch, caplog):
    problem = maths.problem("?", "2\\sqrt{3}")

    def score(answer):
        symbolic._verdict.cache_clear()
        return maths.final_answer.score(problem, f"\\boxed{{{answer}}}")

    assert score("\\sqrt{12}") == 1.0
    for child in symbolic.pool().children:
        if child.process:
            os.kill(child.process.pid, signal.SIGSTOP)  # hangs, and no TERM will end it
    monkeypatch.setattr(symbolic, "SECONDS", 0.2)
    assert score("\\sqrt{12}") is None
    assert "no verdict" in caplog.text
    monkeypatch.undo()
    for child in symbolic.pool().children:
        if child.process:
            os.kill(child.process.pid, signal.SIGKILL)
            child.process.wait()
    assert [score("\\sqrt{12}") for _ in range(4)] == [1.0] * 4  # found dead before the request


NUMERALS = [
    ("$5", "5"),
    ("-\\$5", "-5"),
    ("1\\,234.5", "2469/2"),
    ("2 \\frac{3}{4} \\text{ cups}", "11/4"),
    (".5", "1/2"),
    ("5 \\times 10^{-3} \\text{ m}", "1/200"),
    ("3万", "30000"),
]


@pytest.mark.parametrize("text, value", NUMERALS)
def test_numbers_are_read_exactly(text, value):
    assert str(number(clean(text)).value) == value


def test_answers_that_are_json_numbers_are_read_as_their_text(tmp_path):
    path = tmp_path / "aime.jsonl"
    rows = [{"problem": "p", "solution": "s", "answer": n} for n in (204, 0, "025", 1.5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [p.answer["gold"] for p in maths.read_math(path)] == ["204", "0", "025", "1.5"]
    path.write_text(json.dumps({"problem": "p", "answer": 7}) + "\n")
    assert [p.answer["gold"] for p in maths.read_math(path)] == ["7"]
    for row, words in (
        (
            {"problem": "p", "solution": "s", "answer": [1]},
            r"answer \[1\] is neither text nor a num",
        ),
        ({"problem": "p", "solution": 3}, "neither a text 'solution' nor an 'answer'"),
        ({"problem": 3, "answer": 7}, "the field 'problem' is '3', wanted a str"),
    ):
        write_rows(path, [{"problem": "p", "answer": 7}, row])
        with pytest.raises(ValueError, match=f"aime.jsonl, line 2: {words}"):
            maths.read_math(path)
