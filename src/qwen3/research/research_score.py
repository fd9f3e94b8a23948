"""How good a report is: do its citations bear out their sentences, does it hold the planted facts,
does it say nothing where the documents are silent.

A row of the facts' file has the `question`, and the `answers` (texts, of which the report must hold
one) with the `source` (path) that says so; no answers: the documents are silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen3.data.jsonl import read_rows
from qwen3.eval import intervals
from qwen3.eval.intervals import Estimate
from qwen3.research.findings import Statement, numbers, plain
from qwen3.research.passages import words
from qwen3.research.report_page import ResearchReport
from qwen3.research.source_files import SourceFolder

WORD_SHARE = 0.5  # of a sentence's words that the cited passages must have


def read_facts(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of facts. Raises ValueError naming line and fault."""
    rows = [row for _, row in read_rows(path, fields={"question": str, "answers": list})]
    for number, row in enumerate(rows, 1):
        if row["answers"] and not isinstance(row.get("source"), str):
            raise ValueError(f"{path}, row {number}: answers without the path of their source")
    return rows


def score(
    report: ResearchReport, corpus: SourceFolder, facts: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Estimate]:
    """Shares with 95% intervals: "resolved" citations (the quotation stands in the document as it
    is now), "supported" sentences, "covered" facts, and "abstained" of the silent questions.
    """
    documents = {file.path: plain(" ".join(file.pages)) for file in corpus.files}
    cited = {source.number: source for source in report.sources}
    resolved = [
        number in cited
        and all(
            plain(quote) in documents.get(cited[number].path, "") for quote in cited[number].quotes
        )
        for statement in report.statements()
        for number in statement.notes
    ]
    verdicts = {"resolved": resolved}
    verdicts["supported"] = [_is_supported(statement, report) for statement in report.statements()]
    verdicts["covered"] = [_is_covered(row, report) for row in facts if row["answers"]]
    verdicts["abstained"] = [_abstains(row, report) for row in facts if not row["answers"]]
    return {name: intervals.share(sum(v), len(v)) for name, v in verdicts.items() if v}


def _is_supported(statement: Statement, report: ResearchReport) -> bool:
    """Whether the cited passages have all numbers and most words of a sentence."""
    cited = [report.sources[number - 1] for number in statement.notes]
    text = " ".join(f"{source.title} {source.text}" for source in cited)
    known, own = set(words(text)), words(statement.text)
    shared = sum(word in known for word in own)
    return numbers(statement.text) <= numbers(text) and shared >= WORD_SHARE * len(own)


def _is_covered(fact: Mapping[str, Any], report: ResearchReport) -> bool:
    """Whether a sentence or a row of a table has one of the answers and cites its source."""
    cells = [
        Statement(f"{subject} {value}", (source,))
        for section in report.sections
        for table in section.tables
        for subject, value, source in table.rows
    ]
    return any(
        plain(answer) in plain(statement.text)
        and any(report.sources[n - 1].path == fact["source"] for n in statement.notes)
        for statement in [*report.statements(), *cells]
        for answer in fact["answers"]
    )


def _abstains(fact: Mapping[str, Any], report: ResearchReport) -> bool:
    """Whether the section of a question says nothing; a question without a section abstains."""
    return all(
        not section.statements
        for section in report.sections
        if plain(section.question) == plain(fact["question"])
    )
