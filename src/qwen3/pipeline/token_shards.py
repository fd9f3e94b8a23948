"""Text shards of a pipeline run -> a sharded corpus of token ids that training reads.

Each shard becomes a corpus folder, made beside and uploaded, its manifest last. A shard whose
manifest is there is not made again, so a cut run goes on, and several machines can share the work
(`share`). The table of shards and the borders of blocks are written at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qwen3.data import corpora
from qwen3.data.atomic import replacing, write_atomically
from qwen3.data.range_cache import read_range
from qwen3.data.sharded_corpus import BLOCKS, FORMAT, TABLE
from qwen3.data.sources import JsonLinesFiles
from qwen3.data.tokenizer import Tokenizer
from qwen3.data.unpacked import chunks, filesystem

BLOCK_TOKENS = 1 << 20  # some hundred rows, 2 to 4 MB: what a host reads at a time
LABEL_FIELDS = {"source": "source"}  # beside language, domain, quality and safety


@dataclass(frozen=True)
class ShardJob:
    """One shard to tokenise."""

    text: str  # path or URL of the documents
    folder: str  # where its corpus goes
    tokenizer: str  # folder
    labels: Mapping[str, str]  # label -> field of the documents
    key: str  # changes with the text, the tokenizer or the labels


def tokenize(
    run: str,
    tokenizer: str,
    out: str,
    *,
    labels: Mapping[str, str] | None = None,
    block_tokens: int = BLOCK_TOKENS,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Tokenise what the run in `run` kept into the folder or URL `out`; returns the table.

    labels: label -> field, beside the ones that every corpus takes. share: (i, n) makes every n-th
    shard from the i-th on; whoever finds all of them there writes the table, the others return
    None. Raises ValueError for an unfinished run or a folder that holds another corpus.
    """
    if block_tokens < 1 or not 0 <= share[0] < share[1]:
        raise ValueError(f"block_tokens {block_tokens}, share {share}: at least 1, and i < n")
    out = out.rstrip("/")
    jobs = _jobs(run.rstrip("/"), tokenizer, out, LABEL_FIELDS | dict(labels or {}))
    mine = [job for job in jobs[share[0] :: share[1]] if not _done(job)]
    say(f"{len(jobs)} shards, {len(mine)} to tokenize here")
    if workers > 1 and len(mine) > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            list(pool.map(tokenize_shard, mine))
    else:
        for job in mine:
            tokenize_shard(job)
    if missing := [job.folder for job in jobs if not _done(job)]:
        say(f"{len(missing)} shards are missing still: {missing[0]}")
        return None
    return _publish(jobs, out, block_tokens)


def tokenize_shard(job: ShardJob) -> None:
    """Make the corpus of a shard in a temporary folder and upload it, its manifest last."""
    with tempfile.TemporaryDirectory(prefix="qwen3-tokenize-") as folder:
        source = JsonLinesFiles(job.text, label_fields=dict(job.labels))
        corpus = corpora.prepare(source, Tokenizer.load(job.tokenizer), Path(folder) / "corpus")
        for name in corpus.manifest["files"]:
            with replacing(f"{job.folder}/{name}") as file, open(corpus.folder / name, "rb") as new:
                while block := new.read(1 << 22):
                    file.write(block)
        facts = corpus.manifest | {"key": job.key, "digest": documents_digest(corpus)}
        write_atomically(f"{job.folder}/{corpora.MANIFEST}", json.dumps(facts, default=str))


def documents_digest(corpus: corpora.Corpus) -> int:
    """The sum, modulo 2^64, of a hash of each document with its labels: of several shards the sums
    add up to the same number, however many they are."""
    total = 0
    for i in range(len(corpus)):
        document = corpus[i]
        facts = {name: value for name, value in document.labels.items() if value is not None}
        ids = np.asarray(document.content, np.uint32).tobytes()
        data = ids + json.dumps(facts, sort_keys=True).encode()
        total += int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
    return total % (1 << 64)


def _jobs(run: str, tokenizer: str, out: str, labels: Mapping[str, str]) -> list[ShardJob]:
    manifest = _json(f"{run}/manifest.json")
    if manifest is None:
        raise ValueError(f"{run}: no finished run (manifest.json is missing); `qwen3 data run`")
    names = corpora.fingerprint(Tokenizer.load(tokenizer))
    count, jobs = len(manifest["shards"]), []
    for number, facts in enumerate(manifest["shards"]):
        if facts["documents"]["rows"]:  # a shard without documents makes no corpus
            words = json.dumps([facts["documents"]["sha256"], names, sorted(labels.items())])
            key = hashlib.sha256(words.encode()).hexdigest()[:16]
            text = f"{run}/documents/{number:05d}-of-{count:05d}.jsonl.gz"
            jobs.append(ShardJob(text, f"{out}/{number:05d}", tokenizer, labels, key))
    if not jobs:
        raise ValueError(f"{run}: the run kept no document")
    return jobs


def _done(job: ShardJob) -> bool:
    """Whether the corpus of a shard is there. ValueError for one of something else."""
    facts = _json(f"{job.folder}/{corpora.MANIFEST}")
    if facts is not None and facts["key"] != job.key:
        raise ValueError(
            f"{job.folder} was tokenized from another run, or with another tokenizer or labels; "
            "choose another folder, or delete it"
        )
    return facts is not None


def _json(path: str) -> dict[str, Any] | None:
    system, place = filesystem(path)
    return json.loads(b"".join(chunks(path))) if system.exists(place) else None


def _publish(jobs: list[ShardJob], out: str, block_tokens: int) -> dict[str, Any]:
    """Write the borders of the blocks, then the table."""
    manifests = [_json(f"{job.folder}/{corpora.MANIFEST}") or {} for job in jobs]
    shards = [
        {
            "folder": job.folder.rpartition("/")[2],
            "documents": facts["documents"],
            "tokens": facts["tokens"],
            "labels": facts["labels"],
            "files": {name: file["bytes"] for name, file in facts["files"].items()},
        }
        for job, facts in zip(jobs, manifests, strict=True)
    ]
    common = {name: manifests[0][name] for name in ("tokenizer", "vocab", "endoftext", "dtype")}
    total = sum(facts["digest"] for facts in manifests) % (1 << 64)
    identity = json.dumps([total, block_tokens, common], sort_keys=True).encode()
    table = {
        "format": FORMAT,
        "hash": hashlib.sha256(identity).hexdigest()[:16],
        **common,
        "documents": sum(shard["documents"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "block_tokens": block_tokens,
        "labels": _all_words(manifests),
        "shards": shards,
    }
    buffer = io.BytesIO()
    np.save(buffer, block_borders(out, shards, block_tokens))
    with replacing(f"{out}/{BLOCKS}") as file:
        file.write(buffer.getvalue())
    write_atomically(f"{out}/{TABLE}", json.dumps(table, indent=1))
    return table


def _all_words(manifests: list[dict[str, Any]]) -> dict[str, list[str] | None]:
    """{label: sorted words of all shards, or None for a number}."""
    labels: dict[str, list[str] | None] = {}
    for facts in manifests:
        for name, words in facts["labels"].items():
            if name in labels and (labels[name] is None) != (words is None):
                raise ValueError(f"the label {name!r} is a number in some shards, a word in others")
            known = labels.get(name) or []
            labels[name] = None if words is None else sorted({*known, *words})
    return dict(sorted(labels.items()))


def block_borders(out: str, shards: list[dict[str, Any]], block_tokens: int) -> np.ndarray:
    """int64 [2, blocks + 1]: (documents, tokens) before each block; a block ends with the document
    that brings it to `block_tokens`, in whatever shard."""
    borders = [(0, 0)]
    documents = tokens = 0
    for shard in shards:
        # The ends of the shard's documents are the last items of its offsets.
        size, count = shard["files"]["offsets.npy"], shard["documents"]
        data = read_range(f"{out}/{shard['folder']}/offsets.npy", size - 8 * count, size)
        ends = np.frombuffer(data, np.int64) + tokens
        while (at := int(np.searchsorted(ends, borders[-1][1] + block_tokens))) < count:
            borders.append((documents + at + 1, int(ends[at])))
        documents, tokens = documents + count, tokens + shard["tokens"]
    if borders[-1][0] < documents:
        borders.append((documents, tokens))
    return np.array(borders, np.int64).T


def share_of(text: str) -> tuple[int, int]:
    """ "3/16" -> (3, 16). ValueError for anything else."""
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal()):
        raise ValueError(f"share {text!r}: give I/N, such as 3/16, with I from 0")
    return int(first), int(count)
