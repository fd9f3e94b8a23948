"""`qwen3 data run | show | tokenize | items | languages | seeds | heads | mixture | rates`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen3.data.atomic import write_atomically
from qwen3.data.jsonl import write_rows
from qwen3.pipeline import mixture_cli


def add_parser(subparsers: Any) -> None:
    """Add `data` and its commands; each sets `run`, called with the parsed arguments."""
    parser = subparsers.add_parser("data", help="clean, deduplicate and look at pretraining data")
    commands = parser.add_subparsers(dest="verb", required=True)

    run = commands.add_parser("run", help="run a recipe of the data pipeline")
    run.add_argument("recipe", help="JSON file: inputs, steps, shards")
    run.add_argument("--out", required=True, help="folder or URL (gs://...) to write")
    run.add_argument("--runner", default="local", help="local, dataflow, flink or spark")
    run.add_argument("--workers", type=int, default=1, help="processes of the local runner")
    run.add_argument("options", nargs="*", help="options of Beam after --, such as --project=NAME")
    run.set_defaults(run=_with_extra(run_recipe))

    show = commands.add_parser("show", help="what was kept and dropped, and why")
    show.add_argument("out", help="folder or URL of a finished run")
    show.add_argument("--kind", default="dropped", help="documents, dropped or failed")
    show.add_argument("--reason", default="", help="beginning of those to show: quality: short")
    show.add_argument("--count", type=int, default=2, help="samples of each reason")
    show.add_argument("--characters", type=int, default=300, help="of each sample")
    show.add_argument("--html", metavar="FILE", help="write one page with all reasons instead")
    show.set_defaults(run=_with_extra(run_show))

    tokens = commands.add_parser("tokenize", help="what a run kept, as a corpus that trains")
    tokens.add_argument("run_folder", metavar="RUN", help="folder or URL of a finished run")
    tokens.add_argument("--tokenizer", required=True, help="folder of the tokenizer")
    tokens.add_argument("--out", required=True, help="folder or URL (gs://...) to write")
    tokens.add_argument("--label", nargs="*", default=[], help="fields that become labels too")
    tokens.add_argument("--block-tokens", type=int, help="tokens that a host reads at a time")
    tokens.add_argument("--workers", type=int, default=1, help="processes")
    tokens.add_argument("--share", default="0/1", help="I/N: every N-th shard from I on, from 0")
    tokens.set_defaults(run=_with_extra(run_tokenize))

    items = commands.add_parser("items", help="the questions of evaluation suites, to look for")
    items.add_argument("--suites", nargs="+", default=["all"], help="suites or groups")
    items.add_argument("--data", type=Path, required=True, help="folder of the suites' files")
    items.add_argument("--out", required=True, help="JSON lines to write")
    items.set_defaults(run=_with_extra(run_items))

    languages = commands.add_parser("languages", help="train the table that tells languages apart")
    languages.add_argument("--declarations", required=True, help="nltk's udhr2.zip")
    languages.add_argument("--words", help="folder of GATITOS lists en_CODE.tsv(.gz)")
    languages.add_argument("--out", required=True, help="table to write (.npz)")
    languages.set_defaults(run=_with_extra(run_languages))

    _add_labels(commands)
    mixture_cli.add_commands(commands)
    _add_rates(commands)


def _add_labels(commands: Any) -> None:
    seeds = commands.add_parser("seeds", help="texts to synthesise from, as many of each label")
    seeds.add_argument("run_folder", metavar="RUN", help="folder or URL of a finished run")
    seeds.add_argument("--by", nargs="+", required=True, help="labels, such as field value")
    seeds.add_argument("--count", type=int, required=True, help="of each combination of them")
    seeds.add_argument("--seed", type=int, default=0, help="of the draw")
    seeds.add_argument("--out", required=True, help="JSON lines to write")
    seeds.set_defaults(run=_with_extra(run_seeds))

    heads = commands.add_parser("heads", help="learn the labels that the step annotate wrote")
    heads.add_argument("run_folder", metavar="RUN", help="folder or URL of a finished run")
    heads.add_argument("--labels", nargs="+", help="to learn; default: all of annotate")
    heads.add_argument("--out", required=True, help="heads to write (.npz)")
    heads.set_defaults(run=_with_extra(run_heads))


def _add_rates(commands: Any) -> None:
    rates = commands.add_parser("rates", help="learning rate and batch by laws of small runs")
    laws = rates.add_subparsers(dest="part", required=True)
    fit = laws.add_parser("fit", help="from a table of runs to a law")
    fit.add_argument("table", help="CSV: params, [active,] tokens, rate, batch, loss")
    fit.add_argument("--out", required=True, help="law to write (JSON)")
    fit.set_defaults(run=_with_extra(run_fit))
    predict = laws.add_parser("predict", help="rate and batch of a run")
    predict.add_argument("file", help="law that fit wrote")
    predict.add_argument("--params", type=float, required=True, help="outside the embeddings")
    predict.add_argument("--active", type=float, help="of a token, for mixtures of experts")
    predict.add_argument("--tokens", type=float, required=True, help="of the run")
    predict.set_defaults(run=_with_extra(run_predict))
    plot = laws.add_parser("plot", help="the law against the optima that it was fitted to")
    plot.add_argument("file", help="law that fit wrote")
    plot.add_argument("--out", required=True, help="picture to write (.png, .svg, .pdf)")
    plot.set_defaults(run=_with_extra(run_plot))


def _with_extra(run: Callable[[argparse.Namespace], None]) -> Callable[..., None]:
    """`run`, where a library that is missing is told with the extra that brings it."""

    def checked(args: argparse.Namespace) -> None:
        try:
            run(args)
        except ModuleNotFoundError as error:
            raise ValueError(f"{error}: pip install 'qwen3[beam]'") from error

    return checked


def run_recipe(args: argparse.Namespace) -> None:
    """Run a recipe and print what came of it."""
    from qwen3.pipeline.data_recipe import DataRecipe
    from qwen3.pipeline.dropped_report import summary
    from qwen3.pipeline.pipeline_run import run

    recipe = DataRecipe.load(args.recipe)
    manifest = run(recipe, args.out, runner=args.runner, workers=args.workers, options=args.options)
    print(*summary(manifest), sep="\n")


def run_show(args: argparse.Namespace) -> None:
    """Print samples of a run, or write them as a page."""
    from qwen3.pipeline.dropped_report import page, terminal

    if args.html:
        write_atomically(args.html, page(args.out, args.count, args.characters))
        print(args.html)
        return
    for line in terminal(args.out, args.kind, args.reason, args.count, args.characters):
        print(line)


def run_tokenize(args: argparse.Namespace) -> None:
    """Tokenise the shards of a run."""
    from qwen3.pipeline.token_shards import BLOCK_TOKENS, share_of, tokenize

    table = tokenize(
        args.run_folder,
        args.tokenizer,
        args.out,
        labels={name: name for name in args.label},
        block_tokens=BLOCK_TOKENS if args.block_tokens is None else args.block_tokens,
        workers=args.workers,
        share=share_of(args.share),
    )
    if table is not None:
        print(f"{args.out}: {table['documents']:,} documents, {table['tokens']:,} tokens")


def run_items(args: argparse.Namespace) -> None:
    """Write the items of suites."""
    from qwen3.pipeline.evaluation_items import evaluation_items

    rows = list(evaluation_items(args.suites, args.data))
    write_rows(args.out, rows)
    print(f"{args.out}: {len(rows):,} items of {len({row['suite'] for row in rows})} suites")


def run_languages(args: argparse.Namespace) -> None:
    """Train and write a table of languages."""
    from qwen3.pipeline.language_identifier import train
    from qwen3.pipeline.language_texts import declarations, word_lists

    texts = [(code, "\n".join(lines)) for code, lines in declarations(args.declarations)]
    texts += list(word_lists(args.words)) if args.words else []
    table = train(texts)
    table.save(args.out)
    print(f"{args.out}: {len(table.codes)} languages")


def run_seeds(args: argparse.Namespace) -> None:
    """Draw and write seeds."""
    from qwen3.pipeline.dropped_report import rows
    from qwen3.pipeline.seed_texts import stratified

    documents = rows(args.run_folder, "documents")
    seeds = list(stratified(documents, args.by, args.count, args.seed))
    write_rows(args.out, seeds)
    cells = {tuple(row[name] for name in args.by) for row in seeds}
    print(f"{args.out}: {len(seeds):,} seeds of {len(cells)} combinations of {', '.join(args.by)}")


def run_heads(args: argparse.Namespace) -> None:
    """Train heads, print what they are worth, and write them."""
    from qwen3.pipeline import label_heads
    from qwen3.pipeline.annotation import LABELS
    from qwen3.pipeline.dropped_report import rows

    # What a step dropped after its labels were written was labelled all the same.
    labels = args.labels or list(LABELS.values())
    documents = [
        row
        for kind in ("documents", "dropped")
        for row in rows(args.run_folder, kind)
        if any(label in row for label in labels)
    ]
    heads, scores = label_heads.train(documents, labels)
    for score in scores:
        print(score.line())
    label_heads.save(heads, args.out)
    print(args.out)


def run_fit(args: argparse.Namespace) -> None:
    """Fit laws of rates and write them."""
    from qwen3.pipeline.rate_laws import TARGETS, fit, read_runs

    law = fit(read_runs(args.table))
    write_atomically(args.out, law.to_json())
    for target in TARGETS:
        print(law.formula(target))
    outside = [best for best in law.optima if not best.inside]
    if outside:
        print(f"{len(outside)} of {len(law.optima)} optima lie outside their grid of runs")


def run_predict(args: argparse.Namespace) -> None:
    """Print rate and batch with their intervals."""
    from qwen3.pipeline.rate_laws import RateLaw

    law = RateLaw.load(args.file)
    for target, (value, lower, upper) in law.predict(args.params, args.tokens, args.active).items():
        print(f"{target:<6} {value:.4g}  90% {lower:.4g} to {upper:.4g}")


def run_plot(args: argparse.Namespace) -> None:
    """Draw a law."""
    from qwen3.pipeline.rate_laws import RateLaw, plot

    plot(RateLaw.load(args.file), args.out)
    print(args.out)
