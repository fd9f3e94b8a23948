"""What a final answer says: a number, a tuple or interval, a set, a relation, a matrix, words.

`read` takes cleaned LaTeX (`latex_cleaning.clean`) apart at its top-level signs: commas and "or",
equals signs, inequalities, unions, brackets, plus-minus. What is left is a number, an expression
for a computer algebra system, or words. Inequalities in one variable become intervals, and
`x \\ne 3` a union, so that all spellings of a solution set are one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from qwen3.rewards.latex_cleaning import closing, strip_braces, tokens
from qwen3.rewards.numerals import BasedNumeral, ExactNumber, number, split_unit

INFINITY = "\\infty"


@dataclass(frozen=True)
class Words:
    """A word, a choice letter, a time of day: compared as text."""

    text: str  # lower case, without spaces, marks and \\text


@dataclass(frozen=True)
class Expression:
    """An expression for the computer algebra system."""

    latex: str
    unit: str = ""  # a key of numerals.UNITS, or ""


@dataclass(frozen=True)
class Bracketed:
    """A tuple, a point or an interval: order and brackets count."""

    opening: str  # "(", "[" or "\\langle"
    items: "tuple[Answer, ...]"
    closing: str


@dataclass(frozen=True)
class Collection:
    """Several answers, or a set: the order does not count unless dots stand for missing items."""

    items: "tuple[Answer, ...]"
    ordered: bool = False
    names: tuple[str, ...] = ()  # "x = 1, y = 2": the names, if each item has one of its own


@dataclass(frozen=True)
class Union:
    """Intervals joined; the order does not count."""

    items: "tuple[Answer, ...]"


@dataclass(frozen=True)
class Matrix:
    """Rows of entries; a single column or row may also be written as a tuple."""

    rows: "tuple[tuple[Answer, ...], ...]"


@dataclass(frozen=True)
class Equality:
    """Members joined by equals signs, as cleaned text: "x = 3", "y = 2x", "x = 6/2 = 3"."""

    members: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A chain such as f(2) < f(1) <= f(4), turned so that it ascends."""

    members: "tuple[Answer, ...]"
    signs: tuple[str, ...]  # "<" or "\\le", one fewer than members


Answer: TypeAlias = (
    ExactNumber
    | BasedNumeral
    | Words
    | Expression
    | Bracketed
    | Collection
    | Union
    | Matrix
    | Equality
    | Comparison
)

REALS = Bracketed("(", (Expression(f"-{INFINITY}"), Expression(INFINITY)), ")")
EMPTY = Collection(())

_OR = re.compile(r"\\text\{\s*(?:,\s*)?(or|and)\s*\}|(?<![A-Za-z\\])(or|and)(?![A-Za-z])|[或和、;]")
_JUNCTIONS = {"\\lor": ";", "\\vee": ";", "\\land": ";", "\\wedge": ";"}
_THOUSANDS = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SIGNS = {"<": "<", ">": ">", "\\le": "\\le", "\\ge": "\\ge", "\\ne": "\\ne"}
_TURNED = {">": "<", "\\ge": "\\le", "<": "<", "\\le": "\\le"}
_MATRIX = re.compile(
    r"\\begin\{([pbvV]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.DOTALL
)
_EMPTY = re.compile(r"\\emptyset|\\\{\s*\\\}|(?i:no (real )?solutions?|none|empty set)")
_REALS = re.compile(r"\\mathbb\{R\}|\\mathbb\s*R|(?i:all real numbers|all reals)")
_BUILDER = re.compile(r"\s*[A-Za-z(\\][^|:]*(?:\\mid|\\vert|[|:])(.+)", re.DOTALL)
_CONSTANTS = re.compile(r"\\(?:pi|infty|sqrt|frac|cdot|times|text|circ|pm|mp|div|ldots)(?![a-z])")


def read(text: str, *, thousands: bool = True) -> Answer:
    """What a cleaned answer says. thousands: whether 1,234 is one number and not two."""
    parts, joined = _listed(text, thousands)
    if len(parts) > 1:
        return _collection(parts, joined, thousands)
    text = strip_braces(text.strip())
    for reader in _READERS:
        if (answer := reader(text)) is not None:
            return answer
    return _leaf(text)


def split(text: str, separators: Sequence[str]) -> tuple[list[str], list[str]]:
    """(parts, separators between them) of a text, cut outside of all brackets."""
    parts, signs, start = [], [], 0
    for position, token, depth in tokens(text):
        if depth == 0 and token in separators:
            parts.append(text[start:position].strip())
            signs.append(token)
            start = position + len(token)
    return [*parts, text[start:].strip()], signs


def has_letters(text: str) -> bool:
    """Whether names of variables, functions or quantities occur, constants apart."""
    return bool(re.search(r"[A-Za-z]", _CONSTANTS.sub("", text)))


def words(text: str) -> str:
    """A text as words are compared: lower case, without \\text, spaces, marks and brackets."""
    return re.sub(r"\\text|[\s{}().,'\"`]", "", text).lower()


def _listed(text: str, thousands: bool) -> tuple[list[str], str]:
    """(items, "," or "and" or "or") of a list; a single item if it is none."""
    kinds = {match[1] or match[2] or "or" for match in _OR.finditer(text)}
    text = _OR.sub(";", text)
    if thousands and "," in text:
        depths = {position: depth for position, _, depth in tokens(text)}
        text = _THOUSANDS.sub(
            lambda match: match[0] if depths[match.start()] else match[0].replace(",", ""), text
        )
    parts, _ = split(text, [",", ";", *_JUNCTIONS])
    joined = "," if not kinds else "and" if kinds == {"and"} else "or"
    return [part for part in parts if part], joined


def _collection(parts: list[str], joined: str, thousands: bool) -> Answer:
    """The answer of several items, "x = " before them left out; inequalities become a union."""
    sides = [split(part, ["="])[0] for part in parts]
    named = [len(side) == 2 and has_letters(side[0]) for side in sides]
    texts = [
        side[1] if name else part for side, name, part in zip(sides, named, parts, strict=True)
    ]
    items = [read(part, thousands=thousands) for part in texts]
    if joined != "or" and (points := _excluded(texts)):
        return _without([read(point) for point in points]) or Collection(tuple(items))
    if all(split(part, list(_SIGNS))[1] for part in texts):
        return _joined_intervals(items, joined)
    names = tuple(side[0] for side in sides) if all(named) else ()
    flat: list[Answer] = []
    for item in items:
        flat += item.items if isinstance(item, Collection) and not item.ordered else (item,)
    ordered = any(isinstance(item, Expression) and "\\ldots" in item.latex for item in flat)
    return Collection(tuple(flat), ordered, names if len(set(names)) == len(names) else ())


def _excluded(texts: Sequence[str]) -> list[str] | None:
    """The points of "x \\ne 0, 1" or "x \\ne 0 and x \\ne 1"; None if it is anything else."""
    sides = [split(text, list(_SIGNS)) for text in texts]
    name = sides[0][0][0]
    if sides[0][1] != ["\\ne"] or not has_letters(name):
        return None
    for members, signs in sides[1:]:
        if signs and (signs != ["\\ne"] or members[0] != name):
            return None
    return [members[-1] for members, _ in sides]


def _joined_intervals(items: Sequence[Answer], joined: str) -> Answer:
    """x > 1 and x < 5: one interval if the bounds face each other, else their union."""
    if len(items) == 2 and joined != "or":
        lower, upper = sorted(items, key=lambda item: _bound(item, 0) is None)
        low, high = _bound(lower, 0), _bound(upper, 1)
        if (
            isinstance(low, ExactNumber)
            and isinstance(high, ExactNumber)
            and low.value < high.value
        ):
            assert isinstance(lower, Bracketed) and isinstance(upper, Bracketed)
            return Bracketed(lower.opening, (low, high), upper.closing)
    return Union(tuple(items))


def _bound(item: Answer, side: int) -> Answer | None:
    """The finite lower (0) or upper (1) bound of a half-line; None if it has none there."""
    if not isinstance(item, Bracketed) or len(item.items) != 2:
        return None
    bound, other = item.items[side], item.items[1 - side]
    half = isinstance(other, Expression) and INFINITY in other.latex
    return (
        bound if half and not (isinstance(bound, Expression) and INFINITY in bound.latex) else None
    )


def _constant(text: str) -> Answer | None:
    if _EMPTY.fullmatch(text):
        return EMPTY
    return REALS if _REALS.fullmatch(text) else None


def _equality(text: str) -> Answer | None:
    parts, signs = split(text, ["="])
    return Equality(tuple(parts)) if signs and all(parts) else None


def _comparison(text: str) -> Answer | None:
    members, signs = split(text, list(_SIGNS))
    if not signs or not all(members):
        return None
    signs = [_SIGNS[sign] for sign in signs]
    if signs == ["\\ne"] and has_letters(members[0]):
        return _without([read(members[1])])
    if "\\ne" in signs or (set(signs) & {"<", "\\le"} and set(signs) & {">", "\\ge"}):
        return None
    if signs[0] in (">", "\\ge"):
        members, signs = members[::-1], signs[::-1]
    signs = [_TURNED[sign] for sign in signs]
    named = [has_letters(member) for member in members]
    bounds = {  # which members are variables: the texts of the bounds and their signs
        (True, False): (f"-{INFINITY}", members[-1], "<", signs[-1]),
        (False, True): (members[0], INFINITY, signs[0], "<"),
        (False, True, False): (members[0], members[-1], signs[0], signs[-1]),
    }.get(tuple(named))
    if bounds is None:
        return Comparison(tuple(read(member) for member in members), tuple(signs))
    low, high, left, right = bounds
    opening, end = "[" if left == "\\le" else "(", "]" if right == "\\le" else ")"
    return Bracketed(opening, (read(low), read(high)), end)


def _without(points: Sequence[Answer]) -> Answer | None:
    """The reals without some points; None if their order is not known."""
    numbers = {point for point in points if isinstance(point, ExactNumber)}
    ascending = sorted(numbers, key=lambda number: number.value)
    if len(points) > 1 and any(not isinstance(point, ExactNumber) for point in points):
        return None
    low, high = REALS.items
    bounds = [low, *(points if len(points) == 1 else ascending), high]
    return Union(tuple(Bracketed("(", pair, ")") for pair in pairwise(bounds)))


def _membership(text: str) -> Answer | None:
    parts, signs = split(text, ["\\in"])
    return read(parts[1]) if len(signs) == 1 and has_letters(parts[0]) else None


def _union(text: str) -> Answer | None:
    parts, signs = split(text, ["\\cup"])
    if signs and all(parts):
        members = [read(part) for part in parts]
        sets = [member for member in members if isinstance(member, Collection)]
        if len(sets) == len(members):
            return Collection(tuple(dict.fromkeys(item for part in sets for item in part.items)))
        return Union(tuple(members))
    parts, signs = split(text, ["\\setminus"])
    if len(signs) == 1 and _REALS.fullmatch(parts[0]):
        removed = read(parts[1])
        if isinstance(removed, Collection) and removed.items:
            return _without(removed.items)
    return None


def _bracketed(text: str) -> Answer | None:
    """A tuple, an interval or a set: brackets around the whole text."""
    text, _, _ = split_unit(text)
    opening = next((mark for mark in ("\\{", "\\langle", "(", "[") if text.startswith(mark)), None)
    end = closing(text, 0) if opening else -1
    close = text[end:]
    if opening is None or end < 0 or close not in ("\\}", "\\rangle", ")", "]"):
        return None
    inside = text[len(opening) : end].strip()
    if opening == "\\{":
        return _set(inside) if close == "\\}" else None
    items, signs = split(inside, [",", ";"])
    if not signs:
        item = read(inside)
        return item if (opening, close) == ("(", ")") else Bracketed(opening, (item,), close)
    return Bracketed(opening, tuple(read(item, thousands=False) for item in items), close)


def _set(inside: str) -> Answer:
    builder = _BUILDER.fullmatch(inside)
    if builder:
        return read(builder[1].strip())
    items = read(inside, thousands=False)
    if isinstance(items, Collection):
        return Collection(items.items, items.ordered)
    return Collection((items,))


def _matrix(text: str) -> Answer | None:
    match = _MATRIX.fullmatch(text)
    if not match or match[1] in ("vmatrix", "Vmatrix"):
        return None
    rows = [row for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", match[2]) if row.strip()]
    return Matrix(tuple(tuple(read(cell.strip()) for cell in row.split("&")) for row in rows))


def _plus_minus(text: str) -> Answer | None:
    if "\\pm" not in text:
        return None
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return Collection((_leaf(upper.lstrip("+ ")), _leaf(lower)))


def _number(text: str) -> Answer | None:
    return number(text)


_READERS: tuple[Callable[[str], Answer | None], ...] = (
    _constant,
    _matrix,
    _number,
    _equality,
    _comparison,
    _membership,
    _union,
    _bracketed,
    _plus_minus,
)

_WORD = re.compile(r"[A-Za-z\u4e00-\u9fff .,:'()\d-]+")


def _leaf(text: str) -> Answer:
    """A number, words or an expression."""
    if (value := number(text)) is not None:
        return value
    core, unit, factor = split_unit(text)
    if factor > 1 or not core or _is_words(core):
        core, unit = text, ""
    if _is_words(core):
        return Words(words(text))
    return Expression(core.lstrip("+ "), unit)


def _is_words(text: str) -> bool:
    """Whether a text is not mathematics: a word, a choice letter, a time, anything in \\text."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    letters = re.findall(r"[^\W\d_]+", plain)
    if not letters or not _WORD.fullmatch(plain):
        return False
    bare = plain.strip("() .")
    choice = len(bare) == 1 and bare.isupper()
    return choice or plain != text or ":" in plain or any(len(run) > 3 for run in letters)
