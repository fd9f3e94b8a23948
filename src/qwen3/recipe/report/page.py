"""report.html and report.md from the results of all seeds."""

from __future__ import annotations

import html
import platform
from pathlib import Path

from qwen3.recipe.report import claims, plots

STYLE = """
:root { --ink: #1d2230; --soft: #5b6478; --line: #e3e6ee; --blue: #4c5fd7; --back: #f6f7fb }
* { box-sizing: border-box }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--back);
  margin: 0 }
main { max-width: 960px; margin: 0 auto; padding: 32px 20px 80px }
h1 { font-size: 30px; margin: 0 0 4px } h2 { font-size: 20px; margin: 0 }
.lead { color: var(--soft); margin: 0 0 24px }
section { background: #fff; border: 1px solid var(--line); border-radius: 12px; padding: 20px 24px;
  margin: 18px 0; overflow-x: auto }
.head { display: flex; gap: 12px; align-items: baseline; flex-wrap: wrap }
.tag { font-size: 12px; font-weight: 600; border-radius: 99px; padding: 2px 10px; color: #fff }
.yes { background: #2f8f5f } .no { background: #b4493a } .open { background: #8a8fa0 }
.part { background: #b07d1e }
.paper { border-left: 3px solid var(--blue); padding-left: 12px; color: var(--soft) }
table { border-collapse: collapse; font-size: 13px; margin: 12px 0; white-space: nowrap }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 }
pre { background: #f3f4f9; border-radius: 8px; padding: 10px 14px; white-space: pre-wrap;
  font-size: 12.5px; margin: 6px 0 14px }
small, .rule { color: var(--soft) } svg { max-width: 100%; height: auto }
"""
TAGS = {"shown": "yes", "not shown": "no", "not tried at this budget": "open"}  # else "part"
MARKS = {True: "✓", False: "✗"}


def write(folder: Path, results: list[dict], facts: dict) -> dict:
    """Both files into `folder`; {claim: shown}. results: of each seed {stage: result,
    "wall": {stage: seconds}}; facts: what
    heads the page: "command", "minutes", "date", "exam"."""
    found = [claim(results) for claim in claims.CLAIMS]
    talks = transcripts(results)
    page = _page(found, results, facts, talks)
    (folder / "report.html").write_text(page, encoding="utf-8")
    (folder / "report.md").write_text(_markdown(found, results, facts, talks), encoding="utf-8")
    return {claim.name: claim.state for claim in found}


def transcripts(results):
    """(heading, transcript) of both modes and of every budget, from the first seed that has
    them."""
    found = []
    for r in results[:1]:
        last = r.get("general_rl") or r.get("fusion") or {}
        for mode in ("think", "no_think"):
            for one in last.get(mode, {}).get("transcripts", [])[:2]:
                found.append((f"/{mode}, score {one['score']}", one))
        for one in last.get("calls", {}).get("transcripts", [])[:1]:
            found.append((f"tool call, score {one['score']}", one))
        for kind, swept in r.get("budgets", {}).get("swept", {}).items():
            for one in swept["transcripts"]:
                heading = f"{kind}, budget {one['budget']} tokens, score {one['score']}"
                found.append((heading + (", stop text forced" if one["forced"] else ""), one))
    return found


def timings(results):
    """(stage, seconds per seed)."""
    names = list(dict.fromkeys(name for r in results for name in r["wall"]))
    return [(name, [r["wall"].get(name, 0.0) for r in results]) for name in names]


def summary(found):
    return [(c.name, c.title, c.state) for c in found]


def said(parts):
    """The parts of a verdict, each with whether it holds."""
    return "; ".join(f"{MARKS[holds]} {part}" for part, holds in parts.items())


def tag(claim):
    return f"<span class='tag {TAGS.get(claim.state, 'part')}'>{claim.state}</span>"


def _facts(results, facts):
    exam = (
        "the final test set, never used for design"
        if facts["exam"] == "final"
        else ("the DEVELOPMENT set: these numbers are not a result")
    )
    seconds = sum(sum(each) for _, each in timings(results))
    return [
        f"Command: {facts['command']}",
        f"{facts['date']}; {len(results)} seed(s); budget {facts['minutes']:g} minutes a seed; "
        f"{facts['elapsed'] / 60:.1f} minutes from start to end, {seconds / 60:.1f} of stages, "
        f"{facts['workers']} side by side; {platform.machine()}, {facts['cores']} cores",
        f"Held-out problems: {exam}. Intervals are 95%, over problems; they do not cover the "
        "variance between training runs.",
        *(["A TRIAL of a few steps: these numbers mean nothing."] if facts["minutes"] < 5 else []),
        *(f"Seed {n}, {name}: {reason}" for n, name, reason in left_out(results)),
    ]


def left_out(results):
    """(seed, stage, what was left out of it, or when it ended, and why)."""
    return [
        (n, name, found["left_out"])
        for n, r in enumerate(results)
        for name, found in r.items()
        if found.get("left_out")
    ]


def _page(found, results, facts, talks):
    esc = html.escape
    parts = [
        f"<h1>The Qwen3 recipe in small</h1><p class=lead>"
        f"{'<br>'.join(map(esc, _facts(results, facts)))}</p>"
    ]
    parts.append(
        "<section><h2>Claims</h2>"
        + _table(
            ("claim", "", "state"),
            [(claim.name, esc(claim.title), tag(claim)) for claim in found],
            raw=True,
        )
        + "</section>"
    )
    for claim in found:
        parts.append(_section(claim, esc))
    parts.append(
        "<section><h2>Transcripts</h2>"
        + "".join(
            f"<h4>{esc(heading)}</h4><pre>{esc(one['prompt'])}<b>{esc(one['answer'])}</b></pre>"
            for heading, one in talks
        )
        + "</section>"
    )
    rows = [(name, *(f"{s:.0f}" for s in each)) for name, each in timings(results)]
    header = ("stage", *(f"seed {n}, seconds" for n in range(len(results))))
    parts.append("<section><h2>Time</h2>" + _table(header, rows) + "</section>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>The Qwen3 recipe in small"
        f"</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>"
    )


def _section(claim, esc):
    text = (
        f"<section><div class=head><h2>{claim.name}. {esc(claim.title)}</h2>"
        f"{tag(claim)}</div>"
        f"<p class=paper>Paper: {esc(claim.paper)}</p>"
        f"<p class=rule>Shown if: {esc(claim.rule)}</p>"
    )
    if claim.shown is None:
        return text + f"<p>Not tried: needs the stages {', '.join(claim.needs)}.</p></section>"
    text += "".join(
        f"<p>Seed {n}: <b>{esc(said(parts))}</b>. {esc(why)}</p>"
        for n, parts, why in claim.verdicts
    )
    text += plots.svg(claim.plot) if claim.plot else ""
    text += _table(*claim.table) + "".join(f"<small>{esc(n)}</small>" for n in claim.notes)
    return text + "</section>"


def _table(header, rows, raw=False):
    keep = str if raw else html.escape
    head = "".join(f"<th>{keep(h)}</th>" for h in header)
    body = "".join("<tr>" + "".join(f"<td>{keep(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _markdown(found, results, facts, talks):
    lines = ["# The Qwen3 recipe in small", "", *(f"- {x}" for x in _facts(results, facts)), ""]
    lines += _rows(("claim", "title", "state"), summary(found))
    for claim in found:
        lines += [
            "",
            f"## {claim.name}. {claim.title}: {claim.state}",
            "",
            f"Paper: {claim.paper}",
            "",
            f"Shown if: {claim.rule}",
            "",
        ]
        if claim.shown is None:
            lines.append(f"Not tried: needs the stages {', '.join(claim.needs)}.")
            continue
        lines += [f"- Seed {n}: {said(parts)}. {why}" for n, parts, why in claim.verdicts]
        lines += ["", *_rows(*claim.table), "", *claim.notes]
    lines += ["", "## Transcripts"]
    for heading, one in talks:
        lines += ["", f"### {heading}", "", "```", one["prompt"] + one["answer"], "```"]
    lines += ["", "## Time", ""]
    header = ("stage", *(f"seed {n}, seconds" for n in range(len(results))))
    lines += _rows(header, [(name, *(f"{s:.0f}" for s in x)) for name, x in timings(results)])
    return "\n".join(lines) + "\n"


def _rows(header, rows):
    body = ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]
    return ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header), *body]
