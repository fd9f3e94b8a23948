"""A law of learning rate and batch size from small runs, checked at 2.6 times their largest size.

A grid of 6 rates and 3 batch sizes is trained for every size and token count (5 and 10 tokens a
parameter outside the embeddings), all rates of a batch size side by side. The law is fitted to the
table; then a model of 2.6 times the largest size is trained on 3 rates by 3 batches around the
law's prediction, and on more until the least loss is at no edge; the loss at the prediction is
compared with it. Each loss is the mean over seeds of the initialisation and of the order of the
data.

Command:   python experiments/tiny_rates.py --workdir runs/tiny_rates [--experts] \\
               [--widths 16 24 --check 40]
Hardware:  one core, half an hour dense and an hour with experts.
Expected:  at most .005 nats above the best, where .02 is wanted
           (docs/log/2026-11-30-rates-of-means-over-seeds.md).
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_data import Rows
from tiny_pretrain import standard_library

from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.atomic import write_atomically
from qwen3.data.batches import Batches
from qwen3.data.corpora import Corpus
from qwen3.data.document import Document
from qwen3.data.mixture import Stage
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig, count_parameters
from qwen3.pipeline.proxy_swarm import SwarmSettings, swarm_losses
from qwen3.pipeline.rate_laws import RateLaw, fit, read_runs

VOCAB, LENGTH, SEED = 512, 64, 0
SEEDS = 3  # runs whose mean loss is a point of the grid
WARMUP = 0.2  # share of the steps; with .05 runs at high rates differ by seed more than by rate
# Widths of the residual stream, and of a model of 2.5 times the largest one's size, by --experts.
WIDTHS = {False: (16, 24, 32), True: (12, 16, 20)}
HELD_OUT_WIDTH = {False: 52, True: 32}
RATIOS, HELD_OUT_RATIO = (5, 10), 10  # tokens a parameter outside the embeddings
RATES = tuple(1e-3 * 2.0**i for i in range(6))  # peak learning rates
ROWS = (1, 2, 4)  # batch sizes
FACTORS = (0.5, 1.0, 2.0)  # of the prediction, around it
PIECE, DOCUMENTS = 600, 4_000
COLUMNS = ("params", "active", "tokens", "rate", "batch", "loss")


def model_of(width: int, experts: bool) -> ModelConfig:
    """Two layers of a width; with experts, 8 of which 2 are active, in place of the MLPs."""
    sizes = {"head_dim": width // 2, "vocab": VOCAB, "tied": True}
    if experts:
        sizes |= {"experts": 8, "active_experts": 2, "expert_ffn": width}
    return ModelConfig("grid", 2, width, 3 * width, 2, 1, **sizes)


def prepare(folder: Path) -> tuple[Corpus, dict[str, Corpus]]:
    """The standard library's prose and code, and a held-out share of them."""
    choose = np.random.default_rng(SEED)
    pieces = [
        text[i : i + PIECE]
        for texts in standard_library().values()
        for text in texts
        for i in range(0, len(text), PIECE)
    ]
    pieces = [pieces[i] for i in choose.permutation(len(pieces))[: DOCUMENTS + 300]]
    documents = [Document(piece, {}) for piece in pieces if piece.strip()]
    tokenizer = Tokenizer.train(pieces[::4], VOCAB)
    corpus = corpora.prepare(Rows(documents[300:]), tokenizer, folder / "corpus")
    return corpus, {"text": corpora.prepare(Rows(documents[:300]), tokenizer, folder / "held-out")}


def trained(
    model: ModelConfig,
    rates: Sequence[float],
    rows: int,
    tokens: float,
    corpus: Corpus,
    held_out: Mapping[str, Corpus],
) -> list[dict[str, float]]:
    """A row of the table for each rate."""
    counts, batch = count_parameters(model), rows * LENGTH
    steps = max(2, round(tokens / batch))
    stage = Stage("grid", {"all": 1.0}, LENGTH, rows)
    optim = OptimConfig(warmup=max(1, round(WARMUP * steps)), final=0.1)
    losses = []
    for seed in range(SEEDS):
        table = Batches(stage, {"all": corpus}, seed, vocab=VOCAB)
        settings = SwarmSettings(steps, optim, seed, held_out_rows=256)
        losses.append(swarm_losses(model, [table] * len(rates), rates, held_out, settings)["text"])
    sizes = (float(counts.non_embedding), float(counts.activated_non_embedding), float(tokens))
    return [
        dict(zip(COLUMNS, (*sizes, rate, float(batch), float(loss)), strict=True))
        for rate, loss in zip(rates, np.mean(losses, axis=0), strict=True)
    ]


def as_csv(rows: Sequence[Mapping[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def grid(
    folder: Path,
    widths: Sequence[int],
    experts: bool,
    corpus: Corpus,
    held_out: Mapping[str, Corpus],
) -> Path:
    """The table of all small runs; what a stopped run wrote is kept."""
    path, rows = folder / "runs.csv", []
    if path.exists():
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(path.open())]
    done = {(row["params"], row["tokens"], row["batch"]) for row in rows}
    for width, ratio, batch in itertools.product(widths, RATIOS, ROWS):
        model = model_of(width, experts)
        params = count_parameters(model).non_embedding
        if (params, ratio * params, batch * LENGTH) in done:
            continue
        rows += trained(model, RATES, batch, ratio * params, corpus, held_out)
        write_atomically(path, as_csv(rows))
        print(
            f"N {params:,} D {ratio * params:,} batch {batch}: {rows[-1]['loss']:.3f}", flush=True
        )
    return path


def wider(values: Sequence[float], best: float) -> list[float]:
    """The values of a grid, and one more beyond the edge that the best one is at."""
    grown = sorted(values)
    if best == grown[0]:
        return [grown[0] / 2, *grown]
    return [*grown, grown[-1] * 2] if best == grown[-1] else grown


def around(
    rates: Sequence[float],
    counts: Sequence[int],
    losses_of: Callable[[Sequence[float], int], Sequence[float]],
) -> dict[tuple[float, int], float]:
    """{(rate, rows): loss} of a grid that grows until its least loss is at none of its edges.

    losses_of: (rates, rows of a batch) -> a loss for each rate.
    """
    table: dict[tuple[float, int], float] = {}
    while True:
        for count in counts:
            missing = [rate for rate in rates if (rate, count) not in table]
            losses = losses_of(missing, count) if missing else []
            table |= zip(((rate, count) for rate in missing), losses, strict=True)
        best_rate, best_count = min(table, key=lambda place: table[place])
        more_rates = wider(rates, best_rate)
        more_counts = sorted({round(n) for n in wider(counts, best_count) if n >= 1})
        if (sorted(rates), sorted(counts)) == (more_rates, more_counts):
            return table
        rates, counts = more_rates, more_counts


def verify(
    law: RateLaw, width: int, experts: bool, corpus: Corpus, held_out: Mapping[str, Corpus]
) -> dict[str, Any]:
    """The loss at the prediction and the least of the grid around it, at the held-out size."""
    model = model_of(width, experts)
    counts = count_parameters(model)
    tokens = HELD_OUT_RATIO * counts.non_embedding
    active = counts.activated_non_embedding if experts else None
    predicted = law.predict(counts.non_embedding, tokens, active)
    rate, batch = predicted["rate"][0], predicted["batch"][0]
    rows = max(1, round(batch / LENGTH))

    def losses_of(rates: Sequence[float], count: int) -> list[float]:
        runs = trained(model, rates, count, tokens, corpus, held_out)
        for run in runs:
            print(f"rate {run['rate']:.4g} batch {count * LENGTH}: {run['loss']:.3f}", flush=True)
        return [run["loss"] for run in runs]

    sizes = sorted({max(1, round(rows * factor)) for factor in FACTORS})
    table = around([rate * factor for factor in FACTORS], sizes, losses_of)
    best = min(table, key=lambda place: table[place])
    return {
        "params": counts.non_embedding,
        "tokens": tokens,
        "rate": predicted["rate"],
        "batch": predicted["batch"],
        "loss at the prediction": table[rate, rows],
        "least loss": table[best],
        "excess": table[rate, rows] - table[best],
        "best": [best[0], best[1] * LENGTH],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--experts", action="store_true", help="mixtures of 8 experts, 2 active")
    parser.add_argument("--widths", nargs="+", type=int, help="of the grid's models")
    parser.add_argument("--check", type=int, help="width of the last model")
    args = parser.parse_args()
    start = time.process_time()
    corpus, held_out = prepare(args.workdir)
    widths = args.widths or WIDTHS[args.experts]
    table = grid(args.workdir, widths, args.experts, corpus, held_out)
    law = fit(read_runs(str(table)))
    write_atomically(args.workdir / "law.json", law.to_json())
    print(law.formula("rate"), law.formula("batch"), sep="\n", flush=True)
    width = args.check or HELD_OUT_WIDTH[args.experts]
    result = verify(law, width, args.experts, corpus, held_out)
    result["inside"] = sum(best.inside for best in law.optima) / len(law.optima)
    result["processor seconds"] = time.process_time() - start
    write_atomically(args.workdir / "result.json", json.dumps(result, indent=1))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
