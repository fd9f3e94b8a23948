"""LiveBench's tables that are to be written in another format (tablereformat, arXiv 2406.19314).

An answer is right where its table has the columns of the reference, in any order, and its values
row by row: numbers within 1e-6, texts without the spaces around them. A column "index" does not
count. A table is read as pandas reads it (extra `[eval]`); that of a text begins at the reference's
header line and ends at a blank line. Spans of cells in HTML are not followed.
"""

from __future__ import annotations

import csv
import importlib
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from typing import Any

from qwen3.eval.items import UNPARSED, Item, Verdict
from qwen3.rewards import code_blocks
from qwen3.rewards.task import LONGEST

# The formats of the question, as both releases of the task name them.
_TARGETS = (
    re.compile(r"convert the Input Table from \w+ format to (\w+) format", re.I),
    re.compile(r"Target Format:\s*(\w+)", re.I),
)
_SOLUTION = re.compile(r"<solution>(.*?)</solution>", re.DOTALL)
_PHRASE = re.compile(r"\s*(?:here|input)\b[^\n]*?\b(?:format|table)\s*[:)]\s*", re.I)
_RULE = re.compile(r":?-+:?")  # a cell of the line below a Markdown table's header
TOLERANCE = 1e-6
# What pandas raises for texts that are no tables.
FAULTS = (
    *(ValueError, TypeError, KeyError, AttributeError),
    *(AssertionError, IndexError, OverflowError, RecursionError),
)


def target(question: str) -> str:
    """The format that is asked for. Raises ValueError for a question that names none of FORMATS."""
    names = [name.lower() for pattern in _TARGETS for name in pattern.findall(question)]
    if not names or names[-1] not in FORMATS:
        raise ValueError(f"the table is asked for in none of {', '.join(FORMATS)}")
    return names[-1]


def reformatted(item: Item, answer: str) -> Verdict:
    """1 where the answer's table is the reference; no verdict where that cannot be read."""
    form = target(item["turns"][0])
    try:
        gold = table(form, str(item["ground_truth"]))
    except FAULTS:
        return Verdict(None)
    if len(answer) > LONGEST:
        return UNPARSED
    extracted = None
    for text in _candidates(answer, form, list(gold)):
        try:
            given = table(form, text)
        except FAULTS:
            continue
        extracted = text
        if same(given, gold):
            return Verdict(1.0, text)
    return Verdict(0.0, extracted)


def table(form: str, text: str) -> dict[str, list[Any]]:
    """{column: values by row} of a text in one of FORMATS. Raises one of FAULTS for others."""
    frame = FORMATS[form](text)
    names = [str(name).strip() for name in frame.columns]
    if len(set(names)) < len(names) or frame.empty:
        raise ValueError(f"no rows, or two columns of one name: {', '.join(names)}")
    columns = {name: frame.iloc[:, i].tolist() for i, name in enumerate(names)}
    return {name: values for name, values in columns.items() if name != "index"}


def same(given: Mapping[str, Sequence[Any]], gold: Mapping[str, Sequence[Any]]) -> bool:
    """Whether two tables have the same columns and the same values."""
    return set(given) == set(gold) and all(
        len(given[name]) == len(values) and all(map(_same_value, given[name], values))
        for name, values in gold.items()
    )


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) < TOLERANCE or (math.isnan(a) and math.isnan(b))
    a, b = (value.strip() if isinstance(value, str) else value for value in (a, b))
    return a is b or bool(a == b)


def _candidates(answer: str, form: str, columns: Sequence[str]) -> list[str]:
    """Texts that may be the answer's table: its last block of code or all of it, then a part."""
    text = (_SOLUTION.findall(answer) or [answer])[-1]
    contents = [content for _, content in code_blocks.blocks(text)]
    text = contents[-1] if contents else _PHRASE.sub("", text, count=1).strip()
    if form != "json":
        text = text.replace("&amp;", "&")
    lines = text.strip().splitlines()
    if form in SEPARATORS:
        header = SEPARATORS[form].join(columns)
        stripped = [line.strip() for line in lines]
        if header not in stripped:
            return [text]
        begin = stripped.index(header)
        end = stripped.index("", begin) if "" in stripped[begin:] else len(lines)
        return [text, "\n".join(lines[begin:end])]
    if form == "jsonl":
        objects = [line for line in map(str.strip, lines) if line[:1] == "{" and line[-1] == "}"]
        return [text, "\n".join(line for line in objects if all(name in line for name in columns))]
    return [text]


# --- formats


def _pandas() -> Any:
    try:
        return importlib.import_module("pandas")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}: pip install 'qwen3[eval]'", name=error.name) from error


def _separated(separator: str) -> Callable[[str], Any]:
    return lambda text: _pandas().read_csv(io.StringIO(text), sep=separator)


def _json(text: str) -> Any:
    """A frame of JSON with a schema, else of rows by name, else of a list of rows."""
    for orient in ("table", "index", "records"):
        try:
            return _pandas().read_json(io.StringIO(text), orient=orient)
        except FAULTS:
            continue
    return _json_lines(text)


def _json_lines(text: str) -> Any:
    return _pandas().read_json(io.StringIO(text), orient="records", lines=True)


def _markdown(text: str) -> Any:
    lines = [line.strip() for line in text.splitlines() if "|" in line]
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line.removeprefix("|").removesuffix("|"))]
        for line in lines
    ]
    return _frame([row for row in cells if not all(map(_RULE.fullmatch, row))])


def _html(text: str) -> Any:
    parser = _Rows()
    parser.feed(text)
    return _frame(parser.rows)


class _Rows(HTMLParser):
    """The cells of all rows of an HTML text."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._is_cell = self._is_cell and tag not in ("td", "th", "tr")

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.rows[-1][-1] += data


def _frame(rows: Sequence[Sequence[str]]) -> Any:
    """A frame of rows of texts, the first of which names the columns."""
    text = io.StringIO()
    csv.writer(text).writerows([cell.strip() for cell in row] for row in rows)
    return _separated(",")(text.getvalue())


SEPARATORS = {"csv": ",", "tsv": "\t"}
FORMATS: Mapping[str, Callable[[str], Any]] = {
    **{name: _separated(separator) for name, separator in SEPARATORS.items()},
    "json": _json,
    "jsonl": _json_lines,
    "markdown": _markdown,
    "html": _html,
}
