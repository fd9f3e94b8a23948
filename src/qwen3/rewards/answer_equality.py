"""Whether two final answers are the same mathematically; LaTeX or plain text, any usual spelling.

Forms are compared first (`final_answers`), numbers exactly, expressions by computer algebra in a
killable child (`symbolic`). Answers that no reference could need (towers of powers, hundreds of
digits, deep nesting) are unequal before anything looks at them closely. Where the reference is a
number, so must the answer be: "36 + 36" is the question again, not an answer.
"""

import re
from collections.abc import Sequence

from qwen3.rewards import symbolic
from qwen3.rewards.final_answers import (
    Answer,
    Bracketed,
    Collection,
    Comparison,
    Equality,
    Expression,
    Matrix,
    Union,
    Words,
    has_letters,
    read,
    words,
)
from qwen3.rewards.latex_cleaning import clean
from qwen3.rewards.numerals import ExactNumber, number

LONGEST = 300  # characters of an answer, or four times those of its reference, up to
LONGEST_EVER = 2000  # characters: reading is not linear in everything
MOST_DIGITS = 30  # in a row, or as many as the reference is long
DEEPEST = 6  # nested braces, or two more than in the reference
MOST_ITEMS = 40  # of a list, a tuple or a matrix

# Towers and large exponents, factorials, sums, integrals: nothing that a cheap answer has.
_HEAVY = re.compile(
    r"\^\s*\{?[^{}^]*(\^|\d{4})|(?<!\\)!(?!=)|"
    r"\\(binom|uparrow|underbrace|sum|prod|i*int|lim)(?![a-z])"
)
_MODULUS = re.compile(
    r"\\pmod\s*\{?\s*\w+\s*\}?|\(?\s*(\\bmod|\\text\{\s*mod\s*\}|mod)\s*\w+\s*\)?$"
)


# Words behind an answer that change nothing: "units", and "for any constant c".
_UNITS = r"\s*\\text\{\s*(?:square |cubic )?units?\s*\}|(?<=[\s})\]])(?:square |cubic )?units?"
_UNIVERSAL = (
    r"[\s,]*(?:\\text\{[\s,]*)?\b(?:"
    r"for (?:any|all|every)(?: real| integer)?(?: constants?| numbers?)?[\s}]+[A-Za-z]|"
    r"where[\s}]+[A-Za-z]\s*(?:\\text\{)?\s*is (?:an?|any)(?: arbitrary| real)*\s+constant)\s*\}?"
)
_SAYS_NOTHING = re.compile(rf"(?:{_UNITS}|{_UNIVERSAL})\s*$")
_LETTER = re.compile(r"(?:\\text\{)?\s*\(?\s*([A-Z])\s*\)?\.?\s*\}?")
_LABELLED = re.compile(r"(?:\\text\{)?\s*\(?([A-Z])\s*[):.]\s*\}?\s*(\S.*)", re.DOTALL)
_OTHER_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Z](?:\s*[):.]|[\s}]*$)")


def same(reference: str, answer: str) -> bool:
    """Whether the final answers are equal; raises NoVerdict if the verifier itself failed."""
    if answer == reference:
        return True
    if not acceptable(answer, reference):
        return False
    reference, answer = (_bare(clean(text)) for text in (reference, answer))
    if not answer or (_HEAVY.search(answer) and not _HEAVY.search(reference)):
        return False
    if reference.replace(" ", "") == answer.replace(" ", "") or _chosen(reference, answer):
        return True
    moduli = {
        re.findall(r"\w+", match[0])[-1]
        for text in (reference, answer)
        for match in _MODULUS.finditer(text)
    }
    if len(moduli) > 1:
        return False
    reference, answer = (_MODULUS.sub("", text).strip() for text in (reference, answer))
    expected = read(reference)
    readings = [True, False] if "," in answer else [True]
    try:
        return any(equal(expected, read(answer, thousands=reading)) for reading in readings)
    except (symbolic.TooCostly, RecursionError):
        return False


def _bare(text: str) -> str:
    """Without words at the end that change nothing, unless there is nothing else."""
    return _SAYS_NOTHING.sub("", text).strip() or text


def _chosen(reference: str, answer: str) -> bool:
    """Whether the answer is the reference's letter with the text of that choice: "(B) 12"."""
    letter, labelled = _LETTER.fullmatch(reference), _LABELLED.fullmatch(answer)
    if letter is None or labelled is None or _OTHER_LETTER.search(labelled[2]):
        return False
    return letter[1] == labelled[1]


def acceptable(answer: str, reference: str) -> bool:
    """Whether the answer is of a size that the reference could need, and not too costly to read."""
    digits = max(MOST_DIGITS, len(reference))
    if len(answer) > max(LONGEST, min(4 * len(reference), LONGEST_EVER)):
        return False
    if re.search(rf"\d{{{digits + 1}}}", answer) or answer.count(",") > MOST_ITEMS:
        return False
    return nesting(answer) <= max(DEEPEST, nesting(reference) + 2)


def nesting(text: str) -> int:
    """The depth of its brackets, opened and never closed ones included."""
    deepest = depth = 0
    for letter in text:
        depth = max(0, depth + (letter in "({[") - (letter in ")}]"))
        deepest = max(deepest, depth)
    return deepest


def equal(reference: Answer, answer: Answer, *, worked: bool = False) -> bool:
    """Whether an answer says what the reference says.

    worked: a number may also be given by an expression that is still to be evaluated.
    """
    if isinstance(answer, Equality):
        return _equality(reference, answer)
    if isinstance(reference, Equality):
        return _named(reference) and equal(read(reference.members[-1]), answer, worked=worked)
    if isinstance(reference, Collection) or isinstance(answer, Collection):
        return _collections(reference, answer)
    if isinstance(reference, ExactNumber):
        return _number(reference, answer, worked)
    if isinstance(reference, Expression):
        return _expression(reference, answer)
    if isinstance(reference, Bracketed | Matrix) and isinstance(answer, Bracketed | Matrix):
        return _arrays(reference, answer)
    if isinstance(reference, Union) and isinstance(answer, Union):
        return _matched(reference.items, answer.items)
    if isinstance(reference, Comparison) and isinstance(answer, Comparison):
        return reference.signs == answer.signs and _pairwise(reference.members, answer.members)
    return reference == answer  # based numerals and words


def _number(reference: ExactNumber, answer: Answer, worked: bool) -> bool:
    if isinstance(answer, Expression) and not worked:
        measured = number(answer.latex, symbols=True)
        answer = answer if measured is None else measured
    if isinstance(answer, ExactNumber):
        if _contradict(reference.unit, answer.unit):
            return False
        if reference.percent == answer.percent:
            return reference.value == answer.value
        # 50 % is one half, and is what "How many per cent?" asks for.
        part, other = (reference, answer) if reference.percent else (answer, reference)
        return other.value in (part.value, part.value / 100)
    if worked and isinstance(answer, Expression):
        return symbolic.equal(_latex(reference), answer.latex)
    return False


def _expression(reference: Expression, answer: Answer) -> bool:
    if isinstance(answer, Words) or "\\ldots" in reference.latex:
        return isinstance(answer, Words | Expression) and words(reference.latex) == words(
            answer.text if isinstance(answer, Words) else answer.latex
        )
    if not isinstance(answer, Expression | ExactNumber) or _contradict(reference.unit, answer.unit):
        return False
    latex = answer.latex if isinstance(answer, Expression) else _latex(answer)
    return reference.latex == latex or symbolic.equal(reference.latex, latex)


def _latex(value: ExactNumber) -> str:
    exact = value.value / 100 if value.percent else value.value
    return f"\\frac{{{exact.numerator}}}{{{exact.denominator}}}"


def _contradict(unit: str, other: str) -> bool:
    return bool(unit and other) and unit != other


def _equality(reference: Answer, answer: Equality) -> bool:
    """An equation against the equation asked for; else "name = value", all values right."""
    members = answer.members
    if isinstance(reference, Equality):
        members = members[-len(reference.members) :]
        if words(reference.members[0]) == words(members[0]):
            return _pairwise(
                *([read(part) for part in row[1:]] for row in (reference.members, members))
            )
        if len(members) == 2:
            return symbolic.equal("=".join(reference.members), "=".join(members), equation=True)
        return False
    values = members[1:] if _named(answer) else members
    steps, final = [read(value) for value in values[:-1]], read(values[-1])
    return equal(reference, final) and all(equal(reference, step, worked=True) for step in steps)


def _named(equality: Equality) -> bool:
    """Whether it gives a name to a value: "P(X = 2) = 1/6"."""
    return has_letters(equality.members[0])


def _collections(reference: Answer, answer: Answer) -> bool:
    if isinstance(reference, Bracketed) and isinstance(answer, Collection):
        return (
            bool(answer.names) and _is_point(reference) and _pairwise(reference.items, answer.items)
        )
    if isinstance(answer, Bracketed) and isinstance(reference, Collection):
        return (
            bool(reference.names) and _is_point(answer) and _pairwise(reference.items, answer.items)
        )
    expected = reference.items if isinstance(reference, Collection) else (reference,)
    items = answer.items if isinstance(answer, Collection) else (answer,)
    if not isinstance(reference, Collection):  # one value, spelled several times
        return bool(items) and all(equal(reference, item) for item in items)
    if reference.ordered or (isinstance(answer, Collection) and answer.ordered):
        return _pairwise(expected, items)
    return _matched(expected, items)


def _is_point(item: Bracketed) -> bool:
    return (item.opening, item.closing) == ("(", ")")


def _arrays(reference: Bracketed | Matrix, answer: Bracketed | Matrix) -> bool:
    """Tuples and intervals with the same brackets; matrices; a vector written as a point."""
    if isinstance(reference, Bracketed) and isinstance(answer, Bracketed):
        brackets = [
            (item.opening.replace("\\langle", "("), item.closing.replace("\\rangle", ")"))
            for item in (reference, answer)
        ]
        return brackets[0] == brackets[1] and _pairwise(reference.items, answer.items)
    if isinstance(reference, Matrix) and isinstance(answer, Matrix):
        return [len(row) for row in reference.rows] == [len(row) for row in answer.rows] and all(
            _pairwise(row, other) for row, other in zip(reference.rows, answer.rows, strict=True)
        )
    vectors = [_vector(item) for item in (reference, answer)]
    return vectors[0] is not None and vectors[1] is not None and _pairwise(vectors[0], vectors[1])


def _vector(item: Bracketed | Matrix) -> Sequence[Answer] | None:
    """The entries of a point, or of a matrix with a single column or row; None for the others."""
    if isinstance(item, Bracketed):
        return item.items if item.closing in (")", "\\rangle") and item.opening != "[" else None
    if len(item.rows) == 1:
        return item.rows[0]
    return [row[0] for row in item.rows] if all(len(row) == 1 for row in item.rows) else None


def _pairwise(reference: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    return len(reference) == len(answer) and all(map(equal, reference, answer))


def _matched(reference: Sequence[Answer], answer: Sequence[Answer]) -> bool:
    """Whether the items are the same ones in any order."""
    unmatched = list(answer)
    if len(unmatched) != len(reference):
        return False
    for item in reference:
        match = next((i for i, other in enumerate(unmatched) if equal(item, other)), None)
        if match is None:
            return False
        del unmatched[match]
    return True
