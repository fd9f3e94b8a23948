"""The report as Markdown, without plots: for a terminal, a code host, or a diff of two runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from qwen3.recipe.report.claims import Claim
from qwen3.recipe.report.content import LEADERBOARD, TITLE, Report, Talk

MARKS = {True: "✓", False: "✗"}


def render(report: Report) -> str:
    lines = [f"# {TITLE}", ""]
    for text in report.introduction:
        lines += [text, ""]
    if report.example:
        lines += [*_example(*report.example), ""]
    lines += [*(f"- **{text}**" for text in report.warnings), *(f"- {x}" for x in report.facts), ""]
    lines += _table(
        ("claim", "what the report says", "verdict"),
        [(f"[{c.name}](#{_anchor(_heading(c))})", c.title, c.state) for c in report.claims],
    )
    for claim in report.claims:
        lines += ["", *_section(claim)]
    if report.leaderboard:
        header, *rows = report.leaderboard
        lines += ["", "## Leaderboard", "", LEADERBOARD, "", *_table(header, rows)]
    lines += ["", "## Transcripts"]
    for talk in report.talks:
        lines += ["", f"### {talk.heading}", "", "```", talk.prompt + talk.answer, "```"]
    lines += ["", "## Time", "", *_table(report.time_header, report.time_rows)]
    return "\n".join(lines) + "\n"


def _example(thinking: Talk, direct: Talk) -> list[str]:
    thought = thinking.thinking.replace("\n", " ")
    return [
        f"> **Question:** {thinking.question}",
        ">",
        f"> **With thinking:** *{thought}* {thinking.conclusion} ({thinking.grade})",
        ">",
        f"> **Without thinking:** {direct.conclusion} ({direct.grade})",
    ]


def _heading(claim: Claim) -> str:
    return f"{claim.name}. {claim.title}: {claim.state}"


def _anchor(heading: str) -> str:
    """The name that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(claim: Claim) -> list[str]:
    texts = [claim.here, f"Paper: {claim.paper}", f"Shown if: {claim.rule}"]
    lines = [f"## {_heading(claim)}", ""]
    for text in texts:
        lines += [text, ""]
    if not claim.seeds:
        return [*lines, f"Not tried: needs the stages {', '.join(claim.needs)}."]
    for seed, measured in claim.seeds.items():
        parts = "; ".join(f"{MARKS[holds]} {part}" for part, holds in measured.parts.items())
        lines.append(f"- Seed {seed}: {parts}. {measured.why}")
    return [*lines, "", *_table(*claim.table), "", *claim.notes]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *body]
