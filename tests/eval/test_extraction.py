"""Final answers as they are found in texts."""

import pytest

from qwen3.eval import extraction

LETTERS = [
    ('"answer": "C"', "C"),
    ('{"answer": "C. four"}', "C"),
    ("The answer is (B).", "B"),
    ("**Answer: D**", "D"),
    ("I think A, but the answer is B", "B"),
    ("答案是C", "C"),
    ("\\boxed{A}", "A"),
    ("\\boxed{\\text{(D)}}", "D"),
    ("B", "B"),
    ("(C)\n", "C"),
    ("The answer is Blue", None),
    ("A capital letter begins this sentence.", None),
    ("The answer is (J).", None),
]
NUMBERS = [
    ("It costs $1,234.50 in all", False, "1234.50"),
    ("1.234,5 Euro", True, "1234.5"),
    ("Es sind 1.234", True, "1234"),
    ("12 then -3.", False, "-3"),
    ("#### 72\n", False, "72"),
    ("১৮ টাকা", False, "18"),
    ("１２円", False, "12"),
    ("25.0", False, "25"),
    ("1 234 567 roubles", False, "1234567"),
    ("no number", False, None),
    ("1.2.3", False, None),
]


@pytest.mark.parametrize("text, letter", LETTERS)
def test_choice_letters(text, letter):
    assert extraction.letter(text, 4) == letter


@pytest.mark.parametrize("text, comma, number", NUMBERS)
def test_last_numbers(text, comma, number):
    assert extraction.last_number(text, decimal_comma=comma) == number


def test_phrases():
    assert extraction.after_the_answer_is("So the answer is Yes.") == "Yes"
    assert extraction.after_the_answer_is("The answer is a. The answer is (B).") == "(B)"
    assert extraction.after_the_answer_is("Yes") is None
    assert extraction.last_line("a\n\n b \n") == "b" and extraction.last_line(" \n") is None
