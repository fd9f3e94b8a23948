"""What a run kept, dropped and set aside, for a terminal and as one HTML page.

Texts of strangers are shown, so control characters never reach the terminal and everything in the
page is escaped; the page has no script and loads nothing.
"""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from typing import Any

from qwen3.data.unpacked import chunks
from qwen3.pipeline.part_files import RunPlan, exists
from qwen3.pipeline.shard_files import KINDS, shard_path

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .15rem .8rem; text-align: left }
td.number { text-align: right } pre { white-space: pre-wrap; overflow-wrap: anywhere;
background: #8881; padding: .6rem; border-radius: .4rem } mark { background: #fc06 }
summary { cursor: pointer; font-weight: 600; margin: .6rem 0 }
"""


def manifest_of(out: str) -> dict[str, Any]:
    """The manifest of a finished run; ValueError where there is none."""
    path = f"{out.rstrip('/')}/manifest.json"
    if not exists(path):
        raise ValueError(f"{out}: no manifest.json, so no finished run of `qwen3 data run`")
    return json.loads(b"".join(chunks(path)))


def rows(out: str, kind: str) -> Iterator[dict[str, Any]]:
    """All rows of a kind: "documents", "dropped" or "failed"."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose from {list(KINDS)}")
    manifest = manifest_of(out)
    plan = RunPlan(json.dumps(manifest["recipe"]), out.rstrip("/"), manifest["key"])
    for shard in range(plan.recipe.shards):
        text = b"".join(chunks(shard_path(kind, shard, plan))).decode()
        for row in text.split("\n")[:-1]:
            yield json.loads(row)


def reason_of(row: dict[str, Any]) -> str:
    """ "step: rule" of a dropped row, "step" of a failed one, "kept" of a document."""
    if "dropped" in row:
        return f"{row['dropped']['step']}: {row['dropped']['reason']}"
    return str(row["step"]) if "place" in row else "kept"


def samples(
    out: str, kind: str, reason: str = "", count: int = 5
) -> dict[str, list[dict[str, Any]]]:
    """The first `count` rows by reason, in the order of their ids, which is as good as random.

    reason: the beginning of those to show. ValueError naming the reasons that there are.
    """
    result: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows(out, kind):
        if len(result[reason_of(row)]) < count:
            result[reason_of(row)].append(row)
    chosen = {name: found for name, found in sorted(result.items()) if name.startswith(reason)}
    if reason and not chosen:
        raise ValueError(f"no {kind} row has reason {reason!r}; there are {sorted(result)}")
    return chosen


def printable(text: str) -> str:
    """A text for a terminal: every control, format and surrogate character but the newline is
    written as its code."""
    return "".join(
        c
        if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co")
        else f"<{ord(c):x}>"
        for c in text
    )


def summary(manifest: dict[str, Any]) -> Iterator[str]:
    """Lines: how many rows of each kind, and how many were dropped for which reason."""
    counts = manifest["rows"]
    total = sum(counts.values()) or 1
    for kind in (*KINDS, "same"):
        label = "the same twice" if kind == "same" else kind
        yield f"{label:<30} {counts.get(kind, 0):>12,} {counts.get(kind, 0) / total:>7.2%}"
    for reason, count in sorted(manifest["reasons"].items(), key=lambda pair: (-pair[1], pair[0])):
        yield f"  {reason:<28} {count:>12,} {count / total:>7.2%}"


def terminal(out: str, kind: str, reason: str, count: int, characters: int) -> Iterator[str]:
    """Lines of text for `qwen3 data show`."""
    yield from summary(manifest_of(out))
    for name, found in samples(out, kind, reason, count).items():
        for row in found:
            evidence = json.dumps(row.get("dropped", {}).get("evidence", {}), ensure_ascii=False)
            yield f"\n--- {name} {printable(evidence)} {row.get('id', '')}"
            yield printable("".join(_span(row, characters)))


def page(out: str, count: int = 5, characters: int = 600) -> str:
    """One HTML page: counts, and samples of what was kept, dropped and failed by reason."""
    manifest = manifest_of(out)
    table = "".join(
        f"<tr><td>{escape(reason)}<td class=number>{number:,}"
        for reason, number in [*manifest["rows"].items(), *manifest["reasons"].items()]
    )
    body = "".join(_section(out, kind, count, characters) for kind in KINDS[::-1])
    recipe = escape(json.dumps(manifest["recipe"], indent=2, ensure_ascii=False))
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width'><meta name=color-scheme "
        f"content='light dark'><title>Data run</title><style>{STYLE}</style></head><body>"
        f"<h1>What was kept and dropped</h1><table>{table}</table>{body}"
        f"<details><summary>Recipe</summary><pre>{recipe}</pre></details></body></html>\n"
    )


def _section(out: str, kind: str, count: int, characters: int) -> str:
    parts = [f"<h2>{kind}</h2>"]
    for reason, found in samples(out, kind, count=count).items():
        items = "".join(_item(row, characters) for row in found)
        parts.append(f"<details><summary>{escape(reason)}</summary>{items}</details>")
    return "".join(parts)


def _item(row: dict[str, Any], characters: int) -> str:
    facts = {name: value for name, value in row.items() if name != "text"}
    before, text, after = map(escape, map(printable, _span(row, characters)))
    marked = f"{before}<mark>{text}</mark>{after}" if before or after else text
    return f"<pre>{marked}</pre><p><small>{escape(json.dumps(facts, ensure_ascii=False))}</small>"


def _span(row: dict[str, Any], characters: int) -> tuple[str, str, str]:
    """(before, matching span, after) of a row's text; no span: ("", the beginning, "")."""
    text = row.get("text", row.get("reason", ""))
    span = row.get("dropped", {}).get("evidence", {}).get("span")
    if not span:
        return "", text[:characters] + ("…" if len(text) > characters else ""), ""
    begin, end = span
    margin = max((characters - (end - begin)) // 2, 80)
    return text[max(begin - margin, 0) : begin], text[begin:end], text[end : end + margin]
