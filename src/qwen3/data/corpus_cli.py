"""The commands `qwen3 corpus prepare | stats | show`."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from qwen3.data import corpora, packing, sources
from qwen3.data.tokenizer import Tokenizer


def add_parser(subparsers: Any) -> None:
    """Add `corpus` and its commands; each sets `run`, called with the parsed arguments."""
    parser = subparsers.add_parser("corpus", help="prepare, measure or look at tokenised corpora")
    commands = parser.add_subparsers(dest="verb", required=True)

    prepare = commands.add_parser("prepare", help="tokenise files into a folder")
    prepare.add_argument("files", nargs="+", help="paths, folders, globs, URLs or tfds:NAME")
    prepare.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    prepare.add_argument("--out", required=True, help="folder to write")
    prepare.add_argument("--text", help="field that holds the text (default: text)")
    prepare.add_argument("--unit", choices=["file", "line", "paragraph"], help="of a text document")
    prepare.add_argument("--label", action=_Pair, metavar="NAME=VALUE", help="for every document")
    prepare.add_argument("--label-field", action=_Pair, metavar="NAME=FIELD", help="from a field")
    prepare.add_argument("--skip-broken", action="store_true", help="leave broken rows out")
    prepare.add_argument("--rebuild", action="store_true", help="replace what the folder holds")
    prepare.add_argument("--tfds", metavar="DATA_DIR", help="store it as a TFDS set there too")
    prepare.set_defaults(run=run_prepare)

    stats = commands.add_parser("stats", help="counts, lengths, labels, waste of packing")
    stats.add_argument("folder")
    stats.add_argument("--length", type=int, default=4096, help="tokens of a row to pack into")
    stats.add_argument("--verify", action="store_true", help="compare the checksums too")
    stats.set_defaults(run=run_stats)

    show = commands.add_parser("show", help="some documents, as text and labels")
    show.add_argument("folder")
    show.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    show.add_argument("--first", type=int, default=0, help="index of the first document")
    show.add_argument("--count", type=int, default=3, help="how many documents")
    show.add_argument("--characters", type=int, default=300, help="of each document")
    show.set_defaults(run=run_show)


class _Pair(argparse.Action):
    """Collects NAME=VALUE into a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        name, equals, value = values.partition("=")
        if not (name and equals and value):
            parser.error(f"{option_string} {values!r} is not of the form {self.metavar}")
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or {}) | {name: value})


def run_prepare(args: argparse.Namespace) -> None:
    """Tokenise files into a corpus, and on request store it as a TFDS set too."""
    options = {
        "text": args.text,
        "unit": args.unit,
        "labels": args.label and {name: _number(value) for name, value in args.label.items()},
        "label_fields": args.label_field,
        "skip_broken": args.skip_broken,
    }
    options = {name: value for name, value in options.items() if value}
    opened = [sources.open_source(path, **options) for path in args.files]
    tokenizer = Tokenizer.load(args.tokenizer)
    corpus = corpora.prepare(opened, tokenizer, args.out, rebuild=args.rebuild)
    skipped = corpus.manifest["skipped"]
    for problem in skipped:
        print(f"skipped {problem}", file=sys.stderr)
    left_out = f", {count:,} files or rows left out" if (count := len(skipped)) else ""
    size = f"{len(corpus):,} documents, {len(corpus.tokens):,} tokens"
    print(f"{args.out}: {size}{left_out}")
    if args.tfds:
        from qwen3.data.tfds_source import store

        print(f"{store(corpus, corpus.folder.name, args.tfds)}: the same as a TFDS set")


def run_stats(args: argparse.Namespace) -> None:
    """Print what a corpus holds and what packing it wastes."""
    for line in describe(corpora.Corpus(args.folder, verify=args.verify), args.length):
        print(line)


def describe(corpus: corpora.Corpus, length: int) -> Iterator[str]:
    """Lines of text: counts, quantiles of lengths, labels, and what rows of `length` waste."""
    facts, lengths = corpus.manifest, corpus.lengths
    left_out = f"{facts['empty']:,} empty and {len(facts['skipped']):,} broken left out"
    yield f"documents   {len(corpus):,} ({left_out})"
    size = facts["text_bytes"] / len(corpus.tokens)
    yield f"tokens      {len(corpus.tokens):,}, {size:.2f} bytes of text each"
    shares = (0, 0.25, 0.5, 0.75, 1)
    yield "lengths     " + ", ".join(f"{q:.0%} {int(np.quantile(lengths, q)):,}" for q in shares)
    pieces = packing.cut(np.arange(len(corpus)), lengths, length)
    rows = packing.pack(pieces, length, np.arange)
    wasted = 1 - len(corpus.tokens) / (len(rows) * length)
    cut = f"{int(np.sum(lengths > length)):,} documents cut"
    yield f"packed      {len(rows):,} rows of {length:,}, {wasted:.2%} wasted, {cut}"
    for name, words in facts["labels"].items():
        values = corpus.label(name)
        if words is None:
            known = values[~np.isnan(values)]
            yield f"{name:<11} {known.min():g} to {known.max():g}, mean {known.mean():.3g}"
            continue
        tokens = np.bincount(values + 1, weights=lengths, minlength=len(words) + 1)
        for word, count in zip(["(none)", *words], tokens.astype(int).tolist(), strict=True):
            if count:
                yield f"{name:<11} {word:<16} {count:>14,} tokens {count / tokens.sum():>7.2%}"


def run_show(args: argparse.Namespace) -> None:
    """Print some documents of a corpus."""
    corpus, tokenizer = corpora.Corpus(args.folder), Tokenizer.load(args.tokenizer)
    if corpora.fingerprint(tokenizer) != corpus.manifest["tokenizer"]:
        raise ValueError(f"{args.folder} was not prepared with the tokenizer {args.tokenizer}")
    for i in range(args.first, min(args.first + args.count, len(corpus))):
        document = corpus[i]
        labels = " ".join(f"{name}={value}" for name, value in document.labels.items())
        print(f"--- {i}: {len(document.content):,} tokens {labels}")
        print(tokenizer.decode(np.asarray(document.content))[: args.characters])


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value
