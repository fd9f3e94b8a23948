"""A research from the question to the report, in order; killed anywhere it goes on from there."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen3.research import findings, passages, plan_steps, report_page, report_pdf
from qwen3.research.journal import Journal
from qwen3.research.model_calls import Ask, ModelCalls
from qwen3.research.report_page import ResearchReport, Section
from qwen3.research.source_files import SourceFolder

log = logging.getLogger("qwen3")


@dataclass(frozen=True)
class ResearchSettings:
    """What a research may ask and spend; it must not change when one goes on."""

    question: str  # of the user
    model: str  # name, folder, run or URL
    answers: tuple[str, ...] = ()  # to the questions back, given beforehand
    asks: bool = True  # whether the user is asked back
    sub_questions: int = 6  # sections of the report, at most
    passages: int = 8  # read in one call
    rounds: int = 2  # searches for one sub-question
    max_tokens: int = 4096  # longest answer of the model, thinking included
    tokens: int | None = None  # budget: of all prompts and answers; None for no limit
    minutes: float | None = None  # budget: of waiting for the model
    thinking: bool | None = None  # of this package's engine; None: the model's own way
    seed: int = 0  # of the model's sampling

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        for name in ("sub_questions", "passages", "rounds", "max_tokens", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: wanted at least 1")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes {self.minutes}: wanted more than 0")


def run(
    settings: ResearchSettings,
    corpus: SourceFolder,
    out: Path,
    ask: Ask,
    ask_user: Callable[[str], str] | None = None,
) -> ResearchReport:
    """Research the question in the corpus and write report.md, report.pdf and report.json to `out`.

    ask_user: puts one question to the user; None where nobody can be asked. Raises ValueError where
    `out` holds another research or the corpus has changed since, and where the model answered
    nothing usable; ConnectionError, ValueError as `ask` does. What was answered until then stays in
    the journal.
    """
    journal = Journal(out, dataclasses.asdict(settings) | {"corpus": corpus.digest})
    try:
        seconds = None if settings.minutes is None else 60 * settings.minutes
        calls = ModelCalls(
            journal,
            ask,
            max_tokens=settings.max_tokens,
            tokens=settings.tokens,
            seconds=seconds,
        )
        report = _research(settings, corpus, calls, ask_user if settings.asks else None)
        report_page.write(report, out)
        report_pdf.write(report, out / "report.pdf")
        return report
    finally:
        journal.close()


def _research(
    settings: ResearchSettings,
    corpus: SourceFolder,
    calls: ModelCalls,
    ask_user: Callable[[str], str] | None,
) -> ResearchReport:
    index = passages.PassageIndex(passages.split(corpus.files))
    log.info("%d documents, %d passages", len(corpus.files), len(index.passages))
    clarified = plan_steps.clarify(
        calls, calls.journal, settings.question, settings.answers, ask_user
    )
    request = plan_steps.request_text(settings.question, clarified)
    planned = plan_steps.plan(calls, request, settings.question, settings.sub_questions)
    notebook = findings.Notebook(calls, index, passages=settings.passages, rounds=settings.rounds)
    sections = [_section(notebook, n, sub) for n, sub in enumerate(planned, 1)]
    if all(section.state == "failed" for section in sections):
        shown = "; ".join(f"{count} {name}" for name, count in calls.faults.items())
        raise ValueError(f"{settings.model} answered nothing that can be used: {shown}")
    summary = notebook.summarise(notebook.notes, request)
    spent = dataclasses.asdict(calls.journal.spent)
    return report_page.assemble(
        settings.question, clarified, summary, sections, notebook.notes, corpus, calls.faults, spent
    )


def _section(notebook: findings.Notebook, number: int, sub: plan_steps.SubQuestion) -> Section:
    """Search, read and write one section. Three quarters of the budget are for reading."""
    if notebook.calls.is_spent(0.75):
        log.info("%d. %s: not looked into, the budget is spent", number, sub.question)
        return Section(sub.question, (), (), "spent")
    faults = sum(notebook.calls.faults.values())
    notes: Sequence[findings.Note] = notebook.take(number, sub)
    log.info("%d. %s: %d notes", number, sub.question, len(notes))
    if not notes:
        is_silent = faults == sum(notebook.calls.faults.values())
        return Section(sub.question, (), (), "silent" if is_silent else "failed")
    statements = notebook.write(f"section/{number}", notes, sub.question)
    return Section(sub.question, tuple(statements), tuple(findings.tables(notes)), "answered")
