"""Numbers as people write them: decimals, fractions, mixed numbers, powers, bases, units.

Everything is exact: a value is a Fraction, so tiny numbers differ as clearly as large ones.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

LARGEST_EXPONENT = 400  # of powers of ten; larger numbers are no one's final answer
MOST_UNITS = 4  # parts of a unit: "5 million square km"
LONGEST_POWER = 4000  # bits of an integer written as a power

MULTIPLIERS = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "亿": 10**8,
}
# Units of which two different ones contradict each other. Any other word is a unit as well.
UNITS = {
    "mm": "millimeter millimetre",
    "cm": "centimeter centimetre 厘米",
    "m": "meter metre 米",
    "km": "kilometer kilometre 千米 公里",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard",
    "mi": "mile",
    "mg": "milligram",
    "g": "gm gram 克",
    "kg": "kilogram 千克 公斤",
    "lb": "pound",
    "oz": "ounce",
    "mL": "ml milliliter millilitre",
    "L": "l liter litre",
    "s": "sec second 秒",
    "min": "minute 分钟",
    "h": "hr hour 小时",
    "day": "天",
    "week": "wk",
    "month": "",
    "year": "yr",
    "degree": "deg 度",
    "radian": "rad",
    "$": "¤ dollar usd",
    "¢": "cent",
    "€": "euro eur",
    "£": "gbp",
    "¥": "yen yuan rmb 元",
    "mph": "",
    "%": "percent",
}
_CANONICAL = {
    alias: unit for unit, aliases in UNITS.items() for alias in (unit, *aliases.split(), f"{unit}s")
} | {f"{alias}s": unit for unit, aliases in UNITS.items() for alias in aliases.split()}
_GLUED = sorted((name for name in _CANONICAL if name.isascii() and name.isalpha()), key=len)[::-1]
# Words after a number that make it another statement, not the same one with a unit.
_NO_UNIT = re.compile(
    r"(?i)\b(not?|or|and|to|than|more|less|fewer|least|most|if|but|except|mod|modulo|base|wrong|"
    r"plus|minus|times|over|from|between)\b|[或和至到不余]|(?i:^\s*(squared|cubed)\b)"
)

_INTEGER = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d*)?|\.\d+)"
_SIGNED = rf"[-+]?{_DECIMAL}"
_TEN = r"(?:\\times|\\cdot|[x×])10\^(?:\{([-+]?\d+)\}|(\d))"
_PLAIN = re.compile(_SIGNED)
_FRACTION = re.compile(
    rf"([-+]?)(?:\\frac\{{({_SIGNED})\}}\{{({_SIGNED})\}}|({_DECIMAL})/({_SIGNED}))"
)
_MIXED = re.compile(rf"([-+]?)({_INTEGER})\s*(?:\\frac\{{(\d+)\}}\{{(\d+)\}}|(?<=\s)(\d+)/(\d+))")
_SCIENTIFIC = re.compile(rf"({_SIGNED})((?:{_TEN})+)")
_POWER_OF_TEN = re.compile(r"([-+]?)10\^(?:\{([-+]?\d+)\}|(\d))")
_E_NOTATION = re.compile(rf"({_SIGNED})[eE]([-+]?\d{{1,4}})")
_POWER = re.compile(r"([-+]?)(\d+)\^(?:\{(\d+)\}|(\d))")
_REPEATING = re.compile(r"([-+]?\d*)\.(\d*)\\(?:overline|bar|dot)\{(\d+)\}(?:\\ldots)?")
_BASED = re.compile(
    r"\(?([0-9A-Z]+)\)?(?:_(?:\{\s*\(?(\d+)\)?\s*\}|(\d))|\(?(?:\\text\{)?base(?:\})?(\d+)\)?)"
)


@dataclass(frozen=True)
class ExactNumber:
    """An exact number, in base ten."""

    value: Fraction
    percent: bool = False  # written with a percent sign: 50 stands for 50 %
    unit: str = ""  # a key of UNITS, with its power as in "cm^2"; "" for none or another unit


@dataclass(frozen=True)
class BasedNumeral:
    """Digits in another base, "2516_8": the question asks for the digits, not for the value."""

    digits: str
    base: int


def number(text: str, *, symbols: bool = False) -> ExactNumber | BasedNumeral | None:
    """The number that a cleaned text is, with or without a unit; None if it is anything else.

    symbols: a single letter behind the number is a unit too ("5m"), not a variable.
    """
    core, unit, factor = split_unit(text, symbols=symbols)
    for digits in (core, text):
        based = _BASED.fullmatch(re.sub(r"\s", "", digits))
        if based and any(map(str.isdigit, based[1])):
            base = int(based[2] or based[3] or based[4])
            return BasedNumeral(based[1], base) if base != 10 else number(based[1])
    value = numeral(core)
    if value is None:
        return None
    return ExactNumber(value * factor, unit == "%", "" if unit == "%" else unit)


def numeral(text: str) -> Fraction | None:
    """The value of a number without a unit; None for everything else, arithmetic included."""
    text = re.sub(r"\s*([-+])\s*", r"\1", text.strip())
    while re.fullmatch(r"\([^()]*\)|[-+]\([^-+()][^()]*\)", text):
        text = text.replace("(", "").replace(")", "")
    if mixed := _MIXED.fullmatch(text):
        top, bottom = int(mixed[3] or mixed[5]), int(mixed[4] or mixed[6])
        if 0 < top < bottom:
            return _sign(mixed[1]) * (_decimal(mixed[2]) + Fraction(top, bottom))
    text = text.replace(" ", "")
    for pattern, value in _READERS:
        if match := pattern.fullmatch(text):
            try:
                return value(match)
            except (ZeroDivisionError, OverflowError, ValueError):  # also thousands of digits
                return None
    return None


def _sign(text: str | None) -> int:
    return -1 if text == "-" else 1


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip(".") or "0")


def _fraction(match: re.Match[str]) -> Fraction:
    return _sign(match[1]) * _decimal(match[2] or match[4]) / _decimal(match[3] or match[5])


def _ten(exponent: int) -> Fraction:
    if abs(exponent) > LARGEST_EXPONENT:
        raise OverflowError(exponent)
    return Fraction(10) ** exponent


def _scientific(match: re.Match[str]) -> Fraction:
    exponents = re.findall(_TEN, match[2])
    return _decimal(match[1]) * _ten(sum(int(long or short) for long, short in exponents))


def _power(match: re.Match[str]) -> Fraction:
    base, exponent = int(match[2]), int(match[3] or match[4])
    if base.bit_length() * exponent > LONGEST_POWER:
        raise OverflowError(exponent)
    return Fraction(_sign(match[1]) * base**exponent)


def _repeating(match: re.Match[str]) -> Fraction:
    integer, head, tail = match[1], match[2], match[3]
    shift = 10 ** len(head)
    period = Fraction(int(tail), (10 ** len(tail) - 1) * shift)
    fixed = Fraction(int(integer.lstrip("+-") or "0")) + Fraction(int(head or "0"), shift)
    return _sign(integer[:1]) * (fixed + period)


_READERS = (
    (_PLAIN, lambda match: _decimal(match[0])),
    (_FRACTION, _fraction),
    (_POWER_OF_TEN, lambda match: _sign(match[1]) * _ten(int(match[2] or match[3]))),
    (_SCIENTIFIC, _scientific),
    (_E_NOTATION, lambda match: _decimal(match[1]) * _ten(int(match[2]))),
    (_POWER, _power),
    (_REPEATING, _repeating),
)

_PREFIX = re.compile(r"([-+]?)\s*([¤€£¥₹])\s*([-+]?)|([-+]?)\s*\\text\{\s*([A-Z]{3})\s*\}\s*()")
_TEXT_UNIT = r"\\text\{([^{}\d\\]*)\}"
_SUFFIX = re.compile(
    rf"\s*(?:{_TEXT_UNIT}|(%)|\^?\{{?\s*(\\circ)\s*\}}?\s*(?:[CFK]|{_TEXT_UNIT})?|([¤€£¥₹¢])|"
    rf"([\u4e00-\u9fff]+)|(?<=[\d}} ])({'|'.join(name for name in _GLUED if len(name) > 1)})|"
    r"(?<=\s)([A-Za-z]{3,}(?:\s+[a-z]+)*))\.?\s*(?:\^\s*\{?\s*(-?[1-9])\s*\}?)?\s*/?\s*$"
)
_UNIT_FRACTION = re.compile(
    r"\\frac\{\s*(?:\\text\{)?\s*([A-Za-z]+)\s*\}?\s*\}\{\s*(?:\\text\{)?\s*([A-Za-z]+)\s*\}?\s*\}"
)
_SYMBOL = re.compile(r"(?<=[\d} ])\s*([a-zA-Z])(?:\^\{?[1-9]\}?)?$")


def split_unit(text: str, *, symbols: bool = False) -> tuple[str, str, int]:
    """(text without its unit, unit of UNITS or "", multiplier such as 1000 for "thousand")."""
    unit, factor = "", 1
    text = _UNIT_FRACTION.sub(_quotient, text)
    prefix = _PREFIX.match(text)
    if prefix:
        unit = canonical(prefix[2] or prefix[5])
        text = (prefix[1] or prefix[4] or "") + (prefix[3] or "") + text[prefix.end() :]
    for _ in range(MOST_UNITS):
        suffix = _SUFFIX.search(text)
        if not suffix:
            break
        words = " ".join(part for part in suffix.groups()[:-1] if part)
        if _NO_UNIT.search(words) or not text[: suffix.start()].strip():
            break
        multiplier, words = _multiplier(words.strip())
        factor, unit = factor * multiplier, canonical(words, suffix[suffix.re.groups]) or unit
        text = text[: suffix.start()]
    if symbols and (symbol := _SYMBOL.search(text)) and symbol[1] in _CANONICAL:
        unit, text = canonical(symbol[1]), text[: symbol.start()]
    return text.strip(), unit, factor


def _quotient(match: re.Match[str]) -> str:
    known = canonical(match[1]) and canonical(match[2])
    return f"\\text{{{match[1]}/{match[2]}}}" if known else match[0]


def _multiplier(words: str) -> tuple[int, str]:
    """(factor, the other words) of a unit that may begin with a word such as "million"."""
    for word, factor in MULTIPLIERS.items():
        if re.match(rf"(?i){word}(?![a-z])", words):
            return factor, words[len(word) :].strip()
    return 1, words


def canonical(words: str, power: str | None = None) -> str:
    """The last word of a unit that UNITS knows, as its key, "cm^2" with a power; "" for none."""
    if "\\circ" in words:
        return "degree"
    for name, exponent in (("sq", "2"), ("cub", "3")):
        power = exponent if re.search(rf"(?i)\b{name}(\.|uared?|ed|ic)?(?![a-z])", words) else power
    for word in reversed(re.findall(r"[^\s/.]+", words)):
        for spelling in (word, word.lower()):
            if spelling in _CANONICAL:
                unit = _CANONICAL[spelling]
                return f"{unit}^{power}" if power and power != "1" else unit
    return ""
