"""Final answers in LaTeX, plain text or both -> one plain spelling of LaTeX, without wrappers.

Cleaning changes spelling only: spaces, sizes, fonts, math delimiters, Unicode signs, shorthands
such as \\frac12, plain names such as pi and sqrt(2). What an answer means is read in
`final_answers`. Every step is linear in the length of the text.
"""

import re
from collections.abc import Callable

# Unicode -> LaTeX. Fullwidth forms and no-break spaces come from Chinese and typeset answers.
UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—－", "-"),
        **dict.fromkeys("\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008", " "),
        **dict.fromkeys("\u2009\u200a\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
        **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
        **dict(zip("（）［］｛｝，．：；＝＋＜＞％＄／", "()[]{},.:;=+<>%$/", strict=True)),
        "×": "\\times ",
        "✕": "\\times ",
        "·": "\\cdot ",
        "⋅": "\\cdot ",
        "÷": "\\div ",
        "±": "\\pm ",
        "∓": "\\mp ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "≠": "\\ne ",
        "≈": "\\approx ",
        "∞": "\\infty ",
        "∅": "\\emptyset ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∈": "\\in ",
        "∖": "\\setminus ",
        "ℝ": "\\mathbb{R}",
        "π": "\\pi ",
        "θ": "\\theta ",
        "α": "\\alpha ",
        "β": "\\beta ",
        "λ": "\\lambda ",
        "√": "\\sqrt ",
        "∠": "\\angle ",
        "°": "^\\circ ",
        "º": "^\\circ ",
        "…": "\\ldots ",
        "⟨": "\\langle ",
        "⟩": "\\rangle ",
        "²": "^2",
        "³": "^3",
        "½": "\\frac{1}{2}",
        "¼": "\\frac{1}{4}",
        "¾": "\\frac{3}{4}",
        "⅓": "\\frac{1}{3}",
        "⅔": "\\frac{2}{3}",
    }
)

# Commands -> the one spelling that is read. Longest names first.
SPELLINGS = {
    "dfrac": "\\frac",
    "tfrac": "\\frac",
    "cfrac": "\\frac",
    "leqslant": "\\le ",
    "geqslant": "\\ge ",
    "leq": "\\le ",
    "geq": "\\ge ",
    "neq": "\\ne ",
    "lt": "<",
    "gt": ">",
    "varnothing": "\\emptyset ",
    "dots": "\\ldots ",
    "cdots": "\\ldots ",
    "dotsc": "\\ldots ",
    "equiv": "=",
    "degree": "^\\circ ",
    "lbrace": "\\{",
    "rbrace": "\\}",
    "lbrack": "[",
    "rbrack": "]",
    "lparen": "(",
    "rparen": ")",
    "colon": ":",
    "backslash": "\\setminus ",
    "textdollar": "\\$",
    "pounds": "£",
    "euro": "€",
    "yen": "¥",
}
# Commands that only change looks or spacing.
LOOKS = (
    "left right bigl bigr Bigl Bigr biggl biggr Biggl Biggr big Big bigg Bigg displaystyle "
    "textstyle scriptstyle limits nolimits quad qquad thinspace medspace thickspace negthinspace "
    "mathstrut strut hfill notag nonumber bf it rm sf tt tiny small normalsize large Large LARGE "
    "huge Huge checkmark"
).split()
# Commands whose argument is read in their place.
FONTS = "boxed fbox framebox mathbf boldsymbol bm mathit mathsf mathtt underline ensuremath".split()
TEXTS = "text mbox mathrm textbf textit textrm textsf texttt textnormal hbox emph".split()
FUNCTIONS = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln exp".split()
NAMES = {
    **{name: f"\\{name}" for name in FUNCTIONS},
    **{name: f"\\{name}" for name in ("pi", "theta", "alpha", "beta", "lambda", "infty")},
    "infinity": "\\infty",
    "inf": "\\infty",
    "oo": "\\infty",
}

_SPELLING = re.compile(rf"\\({'|'.join(sorted(SPELLINGS, key=len, reverse=True))})(?![A-Za-z])")
_LOOKS = re.compile(rf"\\({'|'.join(sorted(LOOKS, key=len, reverse=True))})(?![A-Za-z])\.?")
_SPACE = re.compile(r"(?<!\\)\\[,;:>/ ]|(?<!\\)~|\\hspace\*?\{[^{}]*\}|\\[hv]?phantom\{[^{}]*\}")
_FONT = re.compile(rf"\\({'|'.join(FONTS)})\s*(?=\{{)|\\(?:textcolor|color)\s*\{{[^{{}}]*\}}")
_TEXT = re.compile(rf"\\({'|'.join(TEXTS)})\s*(?=\{{)")
_OPERATOR = re.compile(r"\\operatorname\*?\s*\{([A-Za-z]+)\}")
# Words that stay in \\text: letters (but not e and i alone), and no mathematics.
_PLAIN_TEXT = re.compile(r"(?!\s*[ei]\s*$)[^{}\\]*[A-Za-z\u4e00-\u9fff][^{}\\]*")
_DELIMITER = re.compile(r"(?<!\\)\\[()\[\]]")
_FRACTIONS = (
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*(?=\{)"), r"\\frac{\1}"),
    (re.compile(r"\\frac\s*(\{[^{}]*\})\s*(\d|[A-Za-z]|\\[a-z]+)"), r"\\frac\1{\2}"),
    (re.compile(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\sqrt\s*(\d+|[A-Za-z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
)
_ASCII = (
    (re.compile(r"(?<![A-Za-z\\])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\^\s*(-?\d{2,}|-\d)"), r"^{\1}"),
    (re.compile(r"\*"), r"\\cdot "),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\.\.\.+"), r"\\ldots "),
)
_NAME = re.compile(
    rf"(?<![A-Za-z\\])({'|'.join(sorted(NAMES, key=len, reverse=True))})(?![A-Za-z])"
)
# A thousands separator other than a plain comma: "1{,}234", "1,\!234", "1\,234", "1 234".
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\{,\}|,\\!\s*|\\[,; ]|~| )\d{3})+(?!\d)")
_ALIGNED = re.compile(r"\\(?:begin|end)\{(?:aligned|align|gather|equation|split|math)\*?\}")
_EMPHASIS = re.compile(r"(\*\*|__|`)(.+)\1", re.DOTALL)
_LEAD = re.compile(
    r"(?i)(?:\\text\{\s*(?:(?:the |my )?(?:final )?answer(?: is)?\s*:?|is|so)\s*\}|"
    r"(?:the |my )?(?:final |correct )?answer(?: is)?\s*:?|(?:which )?is |=|:|"
    r"\\(?:approx|therefore|implies|Rightarrow|sim|simeq)(?![a-z])|"
    r"(?:about|approximately|roughly) )\s*"
)


def clean(text: str) -> str:
    """The answer in plain LaTeX: one spelling for each thing, no wrappers and no end mark."""
    text = re.sub(r"(?<!\\)\\\s", " ", text.translate(UNICODE)).strip()
    if _ALIGNED.search(text):
        text = _ALIGNED.sub(" ", text).replace("&", " ").strip()
    emphasis = _EMPHASIS.fullmatch(text)
    text = emphasis[2] if emphasis else text
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text).replace("\\!", "")
    text = _SPELLING.sub(lambda match: SPELLINGS[match[1]], text)
    text = _SPACE.sub(" ", _LOOKS.sub(" ", _DELIMITER.sub(" ", text)))
    text = _dollars(text).replace("\\%", "%").replace("\\#", "#").replace("\\&", "&")
    text = _OPERATOR.sub(_operator, _FONT.sub("", text))
    text = _unwrapped_texts(_TEXT.sub(r"\\text", text))
    for pattern, spelling in _FRACTIONS:
        text = pattern.sub(spelling, text)
    text = _outside_text(text, _ascii)
    text = strip_braces(re.sub(r"\s+", " ", text).strip())
    while lead := _LEAD.match(text):
        text = text[lead.end() :]
    return strip_braces(re.sub(r"(?:[.;:,。]|\\\\)+$", "", text.strip()).strip())


def _dollars(text: str) -> str:
    """Without the $ of math mode; one that is left over, or written \\$, is a currency sign."""
    escaped = re.fullmatch(r"\s*\\\$(.+)\\\$\s*", text, re.DOTALL)  # \\$x\\$ is a slip for $x$
    text = escaped[1] if escaped else text
    text = text.replace("\\$", "¤")
    if text.count("$") % 2:
        text = text.replace("$", "¤", 1)
    return text.replace("$", " ")


def _operator(match: re.Match[str]) -> str:
    return f"\\{match[1]} " if match[1] in FUNCTIONS else f"\\text{{{match[1]}}}"


def _unwrapped_texts(text: str) -> str:
    """Without \\text around a whole answer, around mathematics, and around e and i."""
    parts, start = [], 0
    while (at := text.find("\\text{", start)) >= 0 and (end := closing(text, at + 5)) > 0:
        inside = text[at + 6 : end]
        alone = not text[:at].strip() and not text[end + 1 :].strip()
        plain = _PLAIN_TEXT.fullmatch(inside) and not alone
        parts += [text[start:at], text[at : end + 1] if plain else inside]
        start = end + 1
    return "".join(parts) + text[start:]


def _outside_text(text: str, change: Callable[[str], str]) -> str:
    """`change` of all that is not inside of \\text{...}."""
    parts = re.split(r"(\\text\{[^{}]*\})", text)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def _ascii(text: str) -> str:
    """Plain spellings (pi, sqrt(2), x**10, <=) in LaTeX."""
    for pattern, spelling in _ASCII:
        text = pattern.sub(spelling, text)
    return _NAME.sub(lambda match: f"{NAMES[match[1]]} ", text)


def strip_braces(text: str) -> str:
    """Without braces around the whole text, and with {{x}} as {x}."""
    while "{{" in text and (inner := re.sub(r"(?<!\\)\{\{([^{}]*)\}\}", r"{\1}", text)) != text:
        text = inner
    while text.startswith("{") and closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
OPEN = ("(", "[", "{", "\\{", "\\langle", "\\begin")
CLOSE = (")", "]", "}", "\\}", "\\rangle", "\\end")


def tokens(text: str) -> list[tuple[int, str, int]]:
    """(start, token, depth) of every token: commands and single characters; depth of brackets.

    An opening bracket and its closing one have the depth outside of them. Kinds of brackets are not
    told apart, for an interval may open with one kind and close with another.
    """
    result, depth = [], 0
    for match in _TOKEN.finditer(text):
        depth -= match[0] in CLOSE
        result.append((match.start(), match[0], depth))
        depth += match[0] in OPEN
    return result


def closing(text: str, start: int) -> int:
    """Position of the bracket that closes the one at `start`; -1 if there is none."""
    inside = False
    for position, token, depth in tokens(text[start:]):
        if inside and depth == 0 and token in CLOSE:
            return start + position
        inside = True
    return -1
