"""What a finished run of the pipeline leaves of its documents, written without Beam."""

import gzip
import hashlib
import json

import numpy as np

from qwen3.pipeline.text_record import record_id, shard_of

WORDS = "the cat and the hat, the bat; one two three 1234".split()


def rows(count, seed=0):
    """Documents of 2 to 60 words with a domain, a quality and a source, sorted by id."""
    choose, made = np.random.default_rng(seed), []
    for _ in range(count):
        text = " ".join(choose.choice(WORDS, choose.integers(2, 60)))
        labels = {"domain": str(choose.choice(["law", "prose", "maths"]))}
        labels["quality"] = float(np.round(choose.random(), 2))
        made.append({"id": record_id(text, "web", labels), "text": text, "source": "web", **labels})
    return sorted(made, key=lambda row: row["id"])


def write_run(folder, documents, shards):
    """A folder with manifest.json and documents/ in so many shards."""
    (folder / "documents").mkdir(parents=True)
    facts = []
    for shard in range(shards):
        lines = [json.dumps(row) for row in documents if shard_of(row["id"], shards) == shard]
        data = gzip.compress("".join(line + "\n" for line in lines).encode(), mtime=0)
        (folder / f"documents/{shard:05d}-of-{shards:05d}.jsonl.gz").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        facts.append({"documents": {"rows": len(lines), "sha256": digest}})
    (folder / "manifest.json").write_text(json.dumps({"shards": facts}))
    return str(folder)
