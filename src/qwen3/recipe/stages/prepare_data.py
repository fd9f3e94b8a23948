"""Stages `documents`, `tokenizer`, `corpora`: from generated and real text to token stores."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from qwen3.data import chat, corpora, sources
from qwen3.data.jsonl import read_rows
from qwen3.data.sources import Document
from qwen3.data.tokenizer import Tokenizer
from qwen3.recipe.seed_run import SeedRun
from qwen3.recipe.world import documents, own_input, python_text, sft_data
from qwen3.rewards.locks import lock

LONG = 1150  # characters of a long document; about 640 tokens
CHINESE = ("several", "several_direct")  # parts with Chinese documents
FEW = 120  # validation documents of a part
SAMPLE = 1200  # documents of each corpus that the tokenizer learns from


def write_documents(run: SeedRun) -> dict[str, list[int]]:
    """Write the world, Python's own text and the user's as JSON lines, a file a corpus and fold.

    Returns the numbers of training and held-out documents.
    """
    folder, count, seed = run.folder("documents"), run.budget.documents, run.seed
    chinese = run.budget.chinese
    rows: dict[str, tuple[list[dict], list[dict]]] = {}  # corpus: (training, held-out)
    # English first: the parts of S1 alone are in one language.
    for part in documents.PARTS:
        share = chinese if part in CHINESE else 0.0
        rows[part] = (
            documents.documents(part, count, seed, chinese=share),
            documents.documents(part, FEW, seed, chinese=share, held=True),
        )
    long = max(200, count // 5)
    rows["long"] = (
        documents.long_documents(long, seed, LONG, chinese=chinese),
        documents.long_documents(FEW, seed, LONG, chinese=chinese, held=True),
    )
    for domain in python_text.DOMAINS:
        train, held = python_text.documents(domain, count, seed)
        rows[domain] = train, held[:FEW]
    if run.own.get("corpus"):
        texts = [
            _row(document) for path in run.own["corpus"] for document in sources.open_source(path)
        ]
        rows["own"] = [row for i, row in enumerate(texts) if i % 50], texts[::50]
    if run.own.get("tasks"):
        rows["own_tasks"] = own_input.documents(run), []
    for name, folds in rows.items():
        for fold, lines in zip(("train", "held"), folds, strict=True):
            sft_data.write(folder / fold / f"{name}.jsonl", lines)
    return {name: [len(train), len(held)] for name, (train, held) in rows.items()}


def _row(document: Document) -> dict[str, Any]:
    return {"text": document.content, "language": "en", "domain": "own"}


def train_tokenizer(run: SeedRun) -> dict[str, Any]:
    """Train byte-level BPE on all texts and on the chat format with tools, or take the user's."""
    if own := run.own.get("tokenizer") or run.own.get("init_from"):
        tokenizer = Tokenizer.load(own)
        tokenizer.save(run.folder("tokenizer"))
        return {"size": tokenizer.vocab_size, "from": str(own)}
    paths = sorted((run.path / "documents" / "train").glob("*.jsonl"))
    texts = [row["text"] for path in paths for _, row in itertools.islice(read_rows(path), SAMPLE)]
    # The list of tools is long; without its words a prompt would take twice the tokens.
    rows = [*sft_data.calls(800, run.seed), *sft_data.flags(300, run.seed)]
    texts += [chat.render(row["messages"], tools=row["tools"]) for row in rows]
    tokenizer = Tokenizer.train(texts, run.budget.vocab)
    tokenizer.save(run.folder("tokenizer"))
    sample = texts[::50]
    tokens = sum(len(tokenizer.encode(text)) for text in sample)
    return {
        "size": tokenizer.vocab_size,
        "tokens_per_character": tokens / sum(map(len, sample)),
    }


RARE = tuple(
    lock.words((kind, 0, 0), language) for kind in lock.RARE for language in lock.LANGUAGES
)


def without_rare(run: SeedRun) -> tuple[Path, float]:
    """The student's training corpora, which have no document with a rare operation.

    It knows those from its teacher alone (docs/log/2026-11-28-student-lacks-operations.md). Returns
    the folder, and the share of the world's documents that is left.
    """
    folder, source = run.folder("student_base") / "corpora", run.path / "documents" / "train"
    total = left = 0
    for part in documents.PARTS:
        file = folder / "documents" / f"{part}.jsonl"
        rows = [row for _, row in read_rows(source / f"{part}.jsonl")]
        known = [row for row in rows if not any(words in row["text"] for words in RARE)]
        total, left = total + len(rows), left + len(known)
        if not (folder / part).exists():
            sft_data.write(file, known)
            corpora.prepare(sources.JsonLinesFiles(file), run.tokenizer, folder / part)
    return folder, left / total


def prepare(run: SeedRun) -> dict[str, dict[str, Any]]:
    """Tokenise all documents into token stores; returns their counts."""
    counts = {}
    for fold in ("train", "held"):
        for path in sorted((run.path / "documents" / fold).glob("*.jsonl")):
            if not path.stat().st_size:
                continue
            folder = run.path / "corpora" / fold / path.stem
            corpus = corpora.prepare(sources.JsonLinesFiles(path), run.tokenizer, folder)
            counts[f"{fold}/{path.stem}"] = {
                "documents": len(corpus),
                "tokens": int(len(corpus.tokens)),
                "mean": float(corpus.lengths.mean()),
                "longest": int(corpus.lengths.max()),
            }
    return counts
