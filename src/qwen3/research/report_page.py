"""The report: its parts, its sources, and its page in Markdown."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.data.atomic import write_atomically
from qwen3.research.findings import MeasureTable, Note, Statement
from qwen3.research.plan_steps import Clarification
from qwen3.research.source_files import SourceFolder

# What stands in a section without statements, by its state.
SILENT = {
    "silent": "The documents do not say.",
    "failed": "No note that the model took on this is borne out by the documents.",
    "spent": "Not looked into: the budget was spent before.",
}


@dataclass(frozen=True)
class Section:
    """What is said to one sub-question."""

    question: str
    statements: tuple[Statement, ...]
    tables: tuple[MeasureTable, ...]
    state: str  # "answered", "silent", "failed" or "spent"


@dataclass(frozen=True)
class CitedSource:
    """A passage that the report cites."""

    number: int  # in the report, from 1
    path: str
    title: str
    page: int | None
    quotes: tuple[str, ...]  # the words that the notes rest on
    text: str  # the passage


@dataclass(frozen=True)
class ResearchReport:
    """A report; statements and tables cite sources by their numbers."""

    question: str
    clarified: tuple[Clarification, ...]
    summary: tuple[Statement, ...]
    sections: tuple[Section, ...]
    sources: tuple[CitedSource, ...]
    documents: int  # that were read
    unread: tuple[tuple[str, str], ...]  # (path, reason)
    left_out: Mapping[str, int]  # what was not borne out, with its count
    spent: Mapping[str, Any]  # tokens, seconds, calls

    def statements(self) -> list[Statement]:
        """All statements, the summary's first."""
        return [*self.summary, *(s for section in self.sections for s in section.statements)]


def assemble(
    question: str,
    clarified: Sequence[Clarification],
    summary: Sequence[Statement],
    sections: Sequence[Section],
    notes: Sequence[Note],
    corpus: SourceFolder,
    faults: Mapping[str, int],
    spent: Mapping[str, Any],
) -> ResearchReport:
    """The report with notes renumbered to sources, in the order of their first citation."""
    by_number = {note.number: note for note in notes}
    order: dict[int, int] = {}  # passage -> source
    cited: dict[int, list[Note]] = {}

    def source(number: int) -> int:
        note = by_number[number]
        place = order.setdefault(note.passage.number, len(order) + 1)
        if note not in cited.setdefault(place, []):
            cited[place].append(note)
        return place

    def statement(item: Statement) -> Statement:
        return Statement(item.text, tuple(dict.fromkeys(source(n) for n in item.notes)))

    def table(item: MeasureTable) -> MeasureTable:
        rows = tuple((subject, value, source(n)) for subject, value, n in item.rows)
        return MeasureTable(item.measure, rows)

    summary = tuple(map(statement, summary))
    renumbered = tuple(
        dataclasses.replace(
            section,
            statements=tuple(map(statement, section.statements)),
            tables=tuple(map(table, section.tables)),
        )
        for section in sections
    )
    sources = tuple(_cited(place, cited[place]) for place in sorted(cited))
    return ResearchReport(
        question,
        tuple(clarified),
        summary,
        renumbered,
        sources,
        len(corpus.files),
        corpus.unread,
        dict(faults),
        spent,
    )


def _cited(number: int, notes: Sequence[Note]) -> CitedSource:
    passage = notes[0].passage
    quotes = tuple(dict.fromkeys(note.quote for note in notes))
    return CitedSource(number, passage.path, passage.title, passage.page, quotes, passage.text)


def write(report: ResearchReport, folder: Path) -> None:
    """report.json and report.md in a folder."""
    text = json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=1)
    write_atomically(folder / "report.json", text)
    write_atomically(folder / "report.md", markdown(report))


def markdown(report: ResearchReport) -> str:
    """The page; [n] leads to source n."""
    lines = [f"# {_inline(report.question)}", ""]
    lines += [f"- {_inline(c.question)} {_inline(c.answer) or '-'}" for c in report.clarified]
    if report.summary:
        lines += ["", "## Summary", "", _prose(report.summary)]
    for section in report.sections:
        lines += ["", f"## {_inline(section.question)}", ""]
        lines.append(_prose(section.statements) or SILENT[section.state])
        for table in section.tables:
            lines += ["", f"| | {_inline(table.measure)} | source |", "|---|---|---|"]
            lines += [f"| {_inline(s)} | {_inline(v)} | {_link(n)} |" for s, v, n in table.rows]
    lines += ["", "## Sources", ""]
    for source in report.sources:
        quotes = " ".join(f'"{_inline(quote)}"' for quote in source.quotes)
        lines.append(
            f'<a id="s{source.number}"></a>{source.number}. {_inline(place(source))}: {quotes}'
        )
        lines.append("")
    return "\n".join([*lines, *(f"{_inline(line)}\n" for line in notices(report))])


def place(source: CitedSource) -> str:
    """Title, path and page of a source."""
    page = "" if source.page is None else f", page {source.page}"
    return f"{source.title} ({source.path}{page})"


def notices(report: ResearchReport) -> list[str]:
    """What the reader must know of how the report came to be: files not read, what was left out."""
    spent = report.spent
    lines = [
        f"{report.documents} documents were read; {spent['calls']} calls of the model took "
        f"{spent['tokens']} tokens and {spent['seconds'] / 60:.1f} minutes."
    ]
    if report.unread:
        shown = "; ".join(f"{path}: {reason}" for path, reason in report.unread[:20])
        lines.append(f"{len(report.unread)} files were not read: {shown}")
    if report.left_out:
        shown = ", ".join(f"{count} {name}" for name, count in report.left_out.items())
        lines.append(f"Left out: {shown}.")
    return lines


def _prose(statements: Sequence[Statement]) -> str:
    return " ".join(f"{_inline(s.text)} {''.join(map(_link, s.notes))}" for s in statements)


def _link(number: int) -> str:
    return f"[[{number}]](#s{number})"


def _inline(text: str) -> str:
    """Text in one line, of which Markdown and HTML read nothing as a mark."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
