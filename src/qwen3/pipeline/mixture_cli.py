"""The commands `qwen3 data mixture cells | propose`."""

from __future__ import annotations

import argparse
from typing import Any

from qwen3.data.atomic import write_atomically

# Laws that ranked left-out runs at .87 and above ranked a larger model's mixtures at .93 and above,
# one at .76 at .55 (docs/log/2026-12-01-ranks-of-mixtures.md).
TRUSTED = 0.85


def add_commands(commands: Any) -> None:
    """Add `mixture` to the commands of `qwen3 data`."""
    mixture = commands.add_parser("mixture", help="shares of documents by laws of small runs")
    steps = mixture.add_subparsers(dest="part", required=True)

    cells = steps.add_parser("cells", help="groups of documents by their labels")
    cells.add_argument("corpora", nargs="+", metavar="NAME=FOLDER", help="tokenised corpora")
    cells.add_argument("--by", nargs="*", default=[], help="labels that are words: domain")
    cells.add_argument("--bands", nargs="*", default=[], metavar="LABEL=COUNT", help="numbers")
    cells.add_argument("--out", required=True, help="cells to write (JSON)")
    cells.set_defaults(run=run_cells)

    propose = steps.add_parser("propose", help="from a table of small runs to shares")
    propose.add_argument("table", help="CSV: share:CELL for all cells, loss:SET, a row a run")
    propose.add_argument("--cells", required=True, help="cells that `cells` wrote")
    propose.add_argument("--tokens", type=float, required=True, help="that the large run reads")
    propose.add_argument("--repetitions", type=float, default=4.0, help="of a cell, at most")
    propose.add_argument("--out", required=True, help="mixture to write (JSON)")
    propose.set_defaults(run=run_propose)


def run_cells(args: argparse.Namespace) -> None:
    """Write the cells of corpora."""
    from qwen3.data.sharded_corpus import ShardedCorpus, open_corpus
    from qwen3.pipeline.mixture_search import label_cells, to_json

    bands = {label: int(count) for label, count in map(_pair, args.bands)}
    cells = []
    for name, folder in map(_pair, args.corpora):
        corpus = open_corpus(folder)
        table = corpus.block(0, corpus.blocks) if isinstance(corpus, ShardedCorpus) else corpus
        cells += label_cells(table, name, args.by, bands)
    write_atomically(args.out, to_json(cells))
    for cell in cells:
        print(f"{cell.name:<40} {cell.tokens:>16,} tokens")


def run_propose(args: argparse.Namespace) -> None:
    """Fit a law to a table and write the mixture that it likes best."""
    from qwen3.pipeline.mixture_search import (
        fit_mixture_law,
        left_out_ranks,
        natural_shares,
        propose,
        read_cells,
        read_swarm,
        to_json,
    )

    cells = read_cells(args.cells)
    mixtures, losses = read_swarm(args.table, cells)
    law = fit_mixture_law(mixtures, losses)
    shares = propose(law, cells, tokens=args.tokens, repetitions=args.repetitions)
    write_atomically(args.out, to_json(cells, shares))
    natural = natural_shares(cells)
    for cell, before, after in zip(cells, natural, shares, strict=True):
        repeated = after * args.tokens / cell.tokens
        print(f"{cell.name:<40} {before:>7.2%} -> {after:>7.2%}  read {repeated:.2f} times")
    before, after = law.predict(natural[None])[0], law.predict(shares[None])[0]
    print(f"loss by the law, at the size of the small runs: {before:.3f} -> {after:.3f}")
    if (ranks := left_out_ranks(mixtures, losses)) is not None:
        print(f"the law of all other runs ranks a run at {ranks:.3f} (Spearman; 1 is best)")
        if ranks < TRUSTED:
            print(f"below {TRUSTED} it says little: give it more runs, or longer ones")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"{text!r} is not of the form NAME=VALUE")
    return name, value
