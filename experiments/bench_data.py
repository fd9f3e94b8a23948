"""Input speed: (1) read + tokenise + pack against the bare `tokenizers` library, on one core;
(2) the share of a tiny model's training time that is spent waiting for batches; with --sharded,
that alone, from a corpus of `qwen3 data tokenize`, a folder or gs://.

(1) reads compressed files, tokenises with the official vocabulary, stores, plans, and assembles
every row of one epoch; the library gets the same texts, already in memory, by `encode_batch` in one
thread. The two take turns; medians are printed. (2) trains size "tiny" on rows of 256, batch 8,
with two readers.

Command:   python experiments/bench_data.py --corpus FOLDER --ranks qwen.tiktoken [--repeats 5]
           python experiments/bench_data.py --sharded gs://BUCKET/tokens
Hardware:  one core for (1), two for (2); minutes.
Expected:  (1) a ratio of 1.05, at least 0.9; (2) 0.70%, under 2%
           (docs/log/2026-11-22-input-pipeline.md).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["RAYON_NUM_THREADS"] = "1"

import numpy as np  # noqa: E402

from qwen3.data import corpora, sources  # noqa: E402
from qwen3.data.batches import AnyCorpus, Batches  # noqa: E402
from qwen3.data.mixture import Stage  # noqa: E402
from qwen3.data.sharded_corpus import ShardedCorpus  # noqa: E402
from qwen3.data.tokenizer import Tokenizer  # noqa: E402

FILES = (
    "en_peps.jsonl.gz",
    "zh_d2l.jsonl.gz",
    "multi_ud_sentences.jsonl.gz",
    "en_c4_demo.jsonl.gz",
)
LENGTH, BATCH = 4096, 8
TINY_LENGTH, TINY_STEPS, SKIPPED_STEPS = 256, 60, 10


def pipeline(paths: Sequence[Path], tokenizer: Tokenizer, folder: Path) -> int:
    """Files -> all rows of one epoch; the number of tokens in them."""
    opened = [sources.open_source(path) for path in paths]
    corpus = corpora.prepare(opened, tokenizer, folder)
    stage = Stage("bench", {"all": 1}, LENGTH, BATCH, repeat_small=True)
    batches = Batches(stage, {"all": corpus}, 0, vocab=tokenizer.vocab_rows)
    steps = -(-batches.report(0)["epoch_rows"]["all"] // BATCH)
    return sum(int((batches[step]["segment_ids"] > 0).sum()) for step in range(steps))


def timed(function: Callable, *arguments: Any) -> tuple[float, float]:
    """Process CPU seconds beside wall seconds: the fair ones where other work shares the cores."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(paths: Sequence[Path], tokenizer: Tokenizer, repeats: int) -> None:
    texts = [document.content for path in paths for document in sources.open_source(path)]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    times: dict[str, list[tuple[float, float]]] = {"library": [], "pipeline": []}
    for repeat in range(repeats):
        times["library"].append(timed(tokenizer.backend.encode_batch, texts))
        with tempfile.TemporaryDirectory() as folder:
            times["pipeline"].append(timed(pipeline, paths, tokenizer, Path(folder) / "corpus"))
        print(f"repeat {repeat}: " + ", ".join(f"{k} {v[-1][0]:.2f} s" for k, v in times.items()))
    for clock, name in enumerate(("wall", "cpu")):
        rates = {k: megabytes / statistics.median(t[clock] for t in v) for k, v in times.items()}
        # Repeat by repeat: a machine that slows down between repeats slows both.
        pairs = zip(times["library"], times["pipeline"], strict=True)
        ratio = statistics.median(library[clock] / ours[clock] for library, ours in pairs)
        print(
            f"{name:<5} {megabytes:.1f} MB: library {rates['library']:.3f} MB/s, "
            f"read + tokenise + pack {rates['pipeline']:.3f} MB/s, "
            f"ratio {ratio:.2f} (must reach 0.90)"
        )


def local_corpus(paths: Sequence[Path], folder: Path) -> corpora.Corpus:
    """The files, tokenised with a vocabulary of their own that fits the tiny model."""
    from qwen3.model.sizes import size

    opened = [sources.open_source(path) for path in paths]
    tokenizer = Tokenizer.train((d.content for s in opened[:1] for d in s), size("tiny").vocab)
    return corpora.prepare(opened, tokenizer, folder)


def input_wait(corpus: AnyCorpus) -> None:
    """Median share of a step spent waiting for its batch."""
    import jax

    from qwen3 import mesh as meshes
    from qwen3.config import OptimConfig
    from qwen3.losses import lm
    from qwen3.model import sizes, transformer
    from qwen3.model.execution import Execution
    from qwen3.train import loop, optim, state
    from qwen3.train.prefetch import Feed
    from qwen3.train.step import make_step

    config = sizes.size("tiny").replace(vocab=corpus.vocab)
    tx = optim.build(OptimConfig(warmup=0), lambda step: 1e-3)

    apply = transformer.bind(config, Execution())

    def loss(params: Any, batch: Any, frozen: Any) -> Any:
        return lm.next_token(apply, params, batch, frozen)

    steps: list[dict[str, Any]] = []  # metrics
    mesh = meshes.make_mesh()
    with jax.set_mesh(mesh):
        stage = Stage("bench", {"all": 1}, TINY_LENGTH, BATCH)
        batches = Batches(stage, {"all": corpus}, 0, vocab=config.vocab)
        feed = Feed(batches, mesh)
        start = state.create(transformer.init(config, jax.random.key(0)), tx)
        loop.train(
            start,
            make_step(loss, tx),
            feed,
            until=TINY_STEPS,
            hooks=[lambda step, state, metrics: steps.append(metrics)],
        )
    waits = [float(m["input_wait"]) for m in steps[SKIPPED_STEPS:]]
    seconds = [float(m["seconds"]) for m in steps[SKIPPED_STEPS:]]
    print(
        f"tiny  step {1e3 * np.median(seconds):.1f} ms, "
        f"input wait {1e3 * np.median(waits):.2f} ms, "
        f"share {sum(waits) / sum(seconds):.2%} (must stay under 2%)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, help="folder of text files")
    parser.add_argument("--ranks", type=Path, help="rank file of the vocabulary")
    parser.add_argument("--sharded", help="corpus of `qwen3 data tokenize` to wait for")
    parser.add_argument("--files", nargs="+", default=FILES, help="names in the folder")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.sharded:
        input_wait(ShardedCorpus(args.sharded))
        return
    if not (args.corpus and args.ranks):
        parser.error("give --corpus and --ranks, or --sharded")
    paths = [args.corpus / name for name in args.files]
    compare(paths, Tokenizer.from_ranks(args.ranks), args.repeats)
    with tempfile.TemporaryDirectory() as folder:
        input_wait(local_corpus(paths, Path(folder) / "corpus"))


if __name__ == "__main__":
    main()
