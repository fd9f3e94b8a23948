"""The report as one HTML file without outside assets, for screens of any width, dark or light."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from qwen3.recipe.report import plots
from qwen3.recipe.report.claims import Claim
from qwen3.recipe.report.content import LEADERBOARD, TITLE, Report, Talk

TAGS = {"shown": "yes", "not shown": "no", "not tried at this budget": "open"}  # else "part"
LONG = 16  # rows; a longer table is folded
LINE = 40  # characters of a cell that stays on one line


def render(report: Report) -> str:
    """The page. All styles are below .report, so that a notebook can show it too."""
    style = (files(__package__) / "page.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{TITLE}</h1>",
        *(f"<p>{escape(text)}</p>" for text in report.introduction),
        _example(*report.example) if report.example else "",
        _lines("warning", report.warnings) if report.warnings else "",
        _lines("facts", report.facts),
        _overview(report.claims),
        *(_section(claim) for claim in report.claims),
        _leaderboard(report.leaderboard),
        _block("transcripts", "Transcripts", "".join(_folded(talk) for talk in report.talks)),
        _block("time", "Time", _table(report.time_header, report.time_rows)),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'><title>{TITLE}</title>"
        f"<style>body {{ margin: 0 }}\n{style}</style></head>"
        f"<body><div class=report><main>\n{chr(10).join(body)}\n</main></div></body></html>\n"
    )


def _example(thinking: Talk, direct: Talk) -> str:
    return (
        f"<div class=talk><b>Question</b> {escape(thinking.question)}<br>"
        f"<b>With thinking</b> <i>{escape(thinking.thinking)}</i> {escape(thinking.conclusion)} "
        f"({thinking.grade})<br>"
        f"<b>Without thinking</b> {escape(direct.conclusion)} ({direct.grade})</div>"
    )


def _lines(kind: str, texts: Iterable[str]) -> str:
    return f"<p class={kind}>{'<br>'.join(map(escape, texts))}</p>"


def _overview(claims: Sequence[Claim]) -> str:
    rows = (
        f"<tr><td>{_link(claim)}</td><td>{tag(claim)}</td><td>{escape(claim.title)}</td></tr>"
        for claim in claims
    )
    head = "<tr><th></th><th>verdict</th><th>claim</th></tr>"
    more = (
        "<p class=soft>A claim is shown only if every part of its rule holds in every seed. "
        "Below: <a href='#transcripts'>transcripts</a>, <a href='#time'>time</a>.</p>"
    )
    return _block("claims", "Claims", f"<table class=wrap>{head}{''.join(rows)}</table>{more}")


def _link(claim: Claim) -> str:
    return f"<a href='#{claim.name}'>{claim.name}</a>"


def tag(claim: Claim) -> str:
    """The verdict as a coloured label."""
    return f"<span class='tag {TAGS.get(claim.state, 'part')}'>{claim.state}</span>"


def _section(claim: Claim) -> str:
    texts = (
        f"<p>{tag(claim)}</p><p>{escape(claim.here)}</p>"
        f"<p class=paper>The report: {escape(claim.paper)}</p>"
        f"<p class=soft>Shown if: {escape(claim.rule)}</p>"
    )
    title = f"{_link(claim)} {escape(claim.title)}"
    if not claim.seeds:
        missing = f"<p>Not tried: needs the stages {', '.join(claim.needs)}.</p>"
        return _block(claim.name, title, texts + missing)
    first, measured = next(iter(claim.seeds.items()))
    figure = f"<figure>{plots.svg(measured.plot)}<figcaption>seed {first}</figcaption></figure>"
    header, rows = claim.table
    table = _table(header, rows)
    if len(rows) > LONG:
        table = f"<details><summary>All {len(rows)} rows</summary>{table}</details>"
    notes = "".join(f"<p class=soft>{escape(note)}</p>" for note in claim.notes)
    body = f"<div class=beside><div>{texts}</div>{figure}</div>{_parts(claim)}{table}{notes}"
    return _block(claim.name, title, body)


def _parts(claim: Claim) -> str:
    """Which part of the rule holds in which seed, and the figures behind it."""
    mark = {True: "<span class='tag yes'>✓ yes</span>", False: "<span class='tag no'>✗ no</span>"}
    rows = [
        f"<tr><td>{escape(part)}</td>"
        + "".join(f"<td>{mark[one.parts[part]]}</td>" for one in claim.seeds.values())
        + "</tr>"
        for part in claim.parts
    ]
    head = "".join(f"<th>seed {seed}</th>" for seed in claim.seeds)
    why = "".join(
        f"<p class=soft>Seed {seed}: {escape(one.why)}</p>" for seed, one in claim.seeds.items()
    )
    return f"<table class=wrap><tr><th>part</th>{head}</tr>{''.join(rows)}</table>{why}"


def _leaderboard(rows: Sequence[Sequence[str]]) -> str:
    """In-house suites by every stage's model; nothing where none was asked."""
    if not rows:
        return ""
    return _block("leaderboard", "Leaderboard", f"<p>{LEADERBOARD}</p>{_table(rows[0], rows[1:])}")


def _folded(talk: Talk) -> str:
    return (
        f"<details><summary>{escape(talk.heading)}</summary>"
        f"<pre>{escape(talk.prompt)}<b>{escape(talk.answer)}</b></pre></details>"
    )


def _block(name: str, title: str, body: str) -> str:
    return f"<section id={name}><h2>{title}</h2>{body}</section>"


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls in a box of its own; only long cells are broken into lines."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{head}</tr>{body}</table></div>"


def _cell(text: str) -> str:
    return f"<td{' class=long' * (len(text) > LINE)}>{escape(text)}</td>"
