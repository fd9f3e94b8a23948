"""Shards of the output: what was kept, dropped and set aside, sorted by id, published whole.

The bytes of a shard depend on the records alone: not on the order of the inputs, the workers that
cleaned them, or how often a worker was started again.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from qwen3.data.atomic import replacing, write_atomically
from qwen3.data.jsonl import line
from qwen3.data.unpacked import chunks
from qwen3.pipeline.part_files import RunPlan, exists, member
from qwen3.pipeline.text_record import TextRecord

KINDS = ("documents", "dropped", "failed")


def shard_path(kind: str, shard: int, plan: RunPlan) -> str:
    """Where a shard of `KINDS` lies."""
    return f"{plan.out}/{kind}/{shard:05d}-of-{plan.recipe.shards:05d}.jsonl.gz"


def facts_path(shard: int, plan: RunPlan) -> str:
    """Counts and digests of a shard; there as soon as its files are."""
    return plan.work(f"shard-{plan.key}-{shard:05d}.json")


def write_shard(
    shard: int, parts: Iterable[str], copies: Mapping[str, Any], plan: RunPlan
) -> dict[str, Any]:
    """Publish the three files of a shard and return its facts, unless it is there already.

    parts: names of published parts. copies: {id: (reason, id of the survivor, Jaccard index)}.
    """
    done = facts_path(shard, plan)
    if exists(done):
        return json.loads(b"".join(chunks(done)))
    rows: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
    counts: Counter[str] = Counter()
    for name in sorted(set(parts)):
        for row in member(name, "failed", shard, plan):
            rows["failed"][f"{row['place']} {row['step']}"] = row
        for row in member(name, "records", shard, plan):
            known = rows["dropped" if "dropped" in row else "documents"]
            counts["same"] += row["id"] in known
            known[row["id"]] = row
    for identifier, (reason, survivor, similarity) in copies.items():
        record = TextRecord.from_row(rows["documents"].pop(identifier))
        record = record.drop("duplicates", reason, of=survivor, jaccard=round(similarity, 3))
        rows["dropped"][identifier] = record.row()
    facts = {
        "same": counts["same"],  # records that were the same in all, labels included
        "reasons": _reasons(rows["dropped"].values()),
        "files": {kind: _write(kind, shard, rows[kind], plan) for kind in KINDS},
    }
    write_atomically(done, json.dumps(facts, sort_keys=True))
    return facts


def _reasons(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    drops = (row["dropped"] for row in rows)
    return dict(sorted(Counter(f"{drop['step']}: {drop['reason']}" for drop in drops).items()))


def _write(kind: str, shard: int, rows: Mapping[str, Any], plan: RunPlan) -> dict[str, Any]:
    data = "".join(line(rows[key]) for key in sorted(rows)).encode()
    packed = gzip.compress(data, 6, mtime=0)
    with replacing(shard_path(kind, shard, plan)) as file:
        file.write(packed)
    return {
        "rows": len(rows),
        "text_bytes": sum(len(row.get("text", "").encode()) for row in rows.values()),
        "bytes": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
