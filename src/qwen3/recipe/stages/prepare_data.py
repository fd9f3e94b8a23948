"""Stages `documents`, `tokenizer`, `corpora`: from generated and real text to token stores."""

from __future__ import annotations

import itertools

from qwen3.data import chat, corpora, sources
from qwen3.data.jsonl import read_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.recipe.world import documents, own_input, python_text, sft_data
from qwen3.rewards.locks import lock

LONG = 1150  # characters of a long document; about 640 tokens
CHINESE = ("several", "several_direct")  # parts with Chinese documents
FEW = 120  # validation documents of a part
SAMPLE = 1200  # documents of each corpus that the tokenizer learns from


def write_documents(run):
    """World, Python's own text and the user's, as JSON lines; one file a corpus and fold."""
    folder, count, seed = run.folder("documents"), run.budget.documents, run.seed
    chinese, rows = run.budget.chinese, {}
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
        found = [
            _row(document) for path in run.own["corpus"] for document in sources.open_source(path)
        ]
        rows["own"] = [r for i, r in enumerate(found) if i % 50], found[::50]
    if run.own.get("tasks"):
        rows["own_tasks"] = own_input.documents(run), []
    for name, folds in rows.items():
        for fold, texts in zip(("train", "held"), folds, strict=True):
            sft_data.write(folder / fold / f"{name}.jsonl", texts)
    return {name: [len(train), len(held)] for name, (train, held) in rows.items()}


def _row(document):
    return {"text": document.content, "language": "en", "domain": "own"}


def tokenizer(run):
    """Byte-level BPE over all of it, and over the chat format with tools; or the user's."""
    if given := run.own.get("tokenizer") or run.own.get("init_from"):
        made = Tokenizer.load(given)
        made.save(run.folder("tokenizer"))
        return {"size": made.vocab_size, "from": str(given)}
    paths = sorted((run.path / "documents" / "train").glob("*.jsonl"))
    texts = [row["text"] for path in paths for _, row in itertools.islice(read_rows(path), SAMPLE)]
    # The list of tools is long; without its words a prompt would take twice the tokens.
    rows = [*sft_data.calls(800, run.seed), *sft_data.flags(300, run.seed)]
    texts += [chat.render(row["messages"], tools=row["tools"]) for row in rows]
    made = Tokenizer.train(texts, run.budget.vocab)
    made.save(run.folder("tokenizer"))
    return {
        "size": made.vocab_size,
        "tokens_per_character": sum(len(made.encode(t)) for t in texts[::50])
        / sum(map(len, texts[::50])),
    }


RARE = tuple(lock.words((kind, 0, 0), each) for kind in lock.RARE for each in lock.LANGUAGES)


def without_rare(run):
    """Folder of the training corpora for the student, and the share of the world's documents that
    is left: it reads none that has a rare operation, which it knows from its teacher alone."""
    folder, source = run.folder("student_base") / "corpora", run.path / "documents" / "train"
    read = kept = 0
    for part in documents.PARTS:
        file = folder / "documents" / f"{part}.jsonl"
        rows = [row for _, row in read_rows(source / f"{part}.jsonl")]
        known = [row for row in rows if not any(words in row["text"] for words in RARE)]
        read, kept = read + len(rows), kept + len(known)
        if not (folder / part).exists():
            sft_data.write(file, known)
            corpora.prepare(sources.JsonLinesFiles(file), run.tokenizer, folder / part)
    return folder, kept / read


def prepare(run):
    """Token stores of both folds."""
    counts = {}
    for fold in ("train", "held"):
        for path in sorted((run.path / "documents" / fold).glob("*.jsonl")):
            if not path.stat().st_size:
                continue
            folder = run.path / "corpora" / fold / path.stem
            made = corpora.prepare(sources.JsonLinesFiles(path), run.tokenizer, folder)
            counts[f"{fold}/{path.stem}"] = {
                "documents": len(made),
                "tokens": int(len(made.tokens)),
                "mean": float(made.lengths.mean()),
                "longest": int(made.lengths.max()),
            }
    return counts
