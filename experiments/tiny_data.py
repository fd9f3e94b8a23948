"""A mixture of documents against a mixture of sources, on text whose quality is planted.

Four sources of the standard library's prose and code hold 50% to 65% of junk: words in any order,
letters in any order, random characters. An annotator that saw 200 good and 200 bad texts scores
every document (naive Bayes over hashed trigrams). Swarms of small models are trained on mixtures of
the 4 sources and of 8 cells (source x half by the score); laws of their losses propose a mixture
each. A model five times larger is then trained on equal tokens of the natural mixture, of both
proposals, of clean documents alone (the oracle), and of 12 unseen mixtures of cells, which the law
must rank: each of them twice, from two initialisations, as no law ranks better than the large model
repeats itself. --natural is the same without junk. What was trained is kept in the workdir.

Command:   python experiments/tiny_data.py --workdir runs/tiny_data [--seeds 0 1 2] [--natural] \\
               [--proxies 28] [--runs 2]
Hardware:  one core, 1,150 processor seconds a seed.
Expected:  docs/log/2026-12-01-ranks-of-mixtures.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tiny_pretrain import standard_library

from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.atomic import write_atomically
from qwen3.data.batches import Batches
from qwen3.data.corpora import Corpus
from qwen3.data.document import Document
from qwen3.data.mixture import MixturePart, Stage
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig, count_parameters
from qwen3.pipeline import mixture_search
from qwen3.pipeline.mixture_search import LabelCell, MixtureLaw
from qwen3.pipeline.proxy_swarm import SwarmSettings, swarm_losses

VOCAB, LENGTH, BATCH = 512, 128, 16
PROXY = ModelConfig("proxy", 2, 24, 64, 2, 1, head_dim=12, vocab=VOCAB, tied=True)
TARGET = ModelConfig("target", 3, 56, 144, 4, 2, head_dim=14, vocab=VOCAB, tied=True)
PROXIES, OF_SOURCES, UNSEEN = 28, 10, 12  # members of the swarms; mixtures that the law must rank
RUNS = 2  # of the large model on each mixture; its losses are their means
BANDS = 2  # of quality, of equal tokens
PROXY_STEPS, TARGET_STEPS = 150, 200
PROXY_PEAK, TARGET_PEAK = 8e-3, 2e-3
TARGET_WARMUP = 40  # steps; with this peak, two runs of the large model rank mixtures alike
JUNK = {"manual": 0.50, "notes": 0.55, "tools": 0.60, "library": 0.65}  # share of each source
DOMAIN = {"manual": "prose", "notes": "prose", "tools": "code", "library": "code"}
PIECE, DOCUMENTS = 600, 900  # characters of a document, and documents of a source
LABELLED, SLOTS = 200, 1 << 14  # texts of a class that the annotator learns from; its hash table


class Rows:
    """Documents in memory, as `corpora.prepare` reads them."""

    def __init__(self, documents: Sequence[Document]):
        self.documents, self.skipped = documents, []

    def __iter__(self) -> Iterator[Document]:
        return iter(self.documents)

    def describe(self) -> dict[str, Any]:
        words = [[document.content, dict(document.labels)] for document in self.documents]
        return {"rows": hashlib.sha256(json.dumps(words).encode()).hexdigest()}


def spoiled(text: str, choose: np.random.Generator) -> str:
    """Junk of one of three kinds that is as long as the text."""
    kind, words = choose.integers(3), text.split(" ")
    if kind == 0:
        return " ".join(choose.permutation(words).tolist())
    if kind == 1:
        return " ".join("".join(choose.permutation(list(w)).tolist()) if w else w for w in words)
    return "".join(choose.choice(list("abcdefghijklmnopqrstuvwxyz      0123456789"), len(text)))


def annotator(good: Sequence[str], bad: Sequence[str]) -> Any:
    """score(text): mean log odds of its trigrams by two small sets of texts."""

    def slots(text: str) -> np.ndarray:
        data = np.frombuffer(text.encode("ascii", "ignore"), np.uint8).astype(np.uint64)
        keys = data[:-2] * np.uint64(65_599 * 65_599) + data[1:-1] * np.uint64(65_599) + data[2:]
        return (keys * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(50)).astype(np.int64)

    def log_shares(texts: Sequence[str]) -> np.ndarray:
        counts = np.bincount(np.concatenate([slots(text) for text in texts]), minlength=SLOTS)
        return np.log((counts + 0.1) / (counts.sum() + 0.1 * SLOTS))

    odds = log_shares(good) - log_shares(bad)
    return lambda text: float(odds[slots(text)].mean())


def prepare(folder: Path, seed: int, natural: bool) -> tuple[Corpus, dict[str, Corpus], float]:
    """(corpus, held-out corpora by domain, accuracy of the annotator). natural: without junk."""
    choose, texts = np.random.default_rng(seed), {}
    for domain, whole in standard_library().items():
        pieces = [text[i : i + PIECE] for text in whole for i in range(0, len(text), PIECE)]
        pieces = [piece for piece in pieces if len(piece) == PIECE]
        texts[domain] = [pieces[i] for i in choose.permutation(len(pieces))]
    held_out = {domain: [texts[domain].pop() for _ in range(120)] for domain in texts}
    examples = [texts[domain].pop() for domain in texts for _ in range(LABELLED // 2)]
    others = [texts[domain].pop() for domain in texts for _ in range(LABELLED // 2)]
    score = annotator(examples, [spoiled(text, choose) for text in others])
    documents, right = [], 0
    for source, junk in JUNK.items():
        for _ in range(DOCUMENTS):
            clean, text = bool(choose.random() >= junk or natural), texts[DOMAIN[source]].pop()
            text = text if clean else spoiled(text, choose)
            quality = score(text)
            right += (quality > 0) == clean
            labels = {"source": source, "quality": quality, "clean": float(clean)}
            documents.append(Document(text, labels))
    accuracy = right / len(documents)
    tokenizer = Tokenizer.train([document.content for document in documents[::4]], VOCAB)
    corpus = corpora.prepare(Rows(documents), tokenizer, folder / "corpus")
    sets = {
        domain: corpora.prepare(
            Rows([Document(text, {}) for text in held]), tokenizer, folder / f"held-out-{domain}"
        )
        for domain, held in held_out.items()
    }
    return corpus, sets, accuracy


def settings_of(steps: int, seed: int, warmup: int = 20) -> SwarmSettings:
    """How every model here is trained, but for its rate."""
    return SwarmSettings(steps, OptimConfig(warmup=warmup, final=0.05), seed, held_out_rows=128)


def batches_of(
    mixtures: Sequence[Mapping[str, MixturePart]], corpus: Corpus, seed: int
) -> list[Batches]:
    """The batches of each mixture of a corpus."""
    stages = [Stage("tiny", mixture, LENGTH, BATCH, repeat_small=True) for mixture in mixtures]
    return [Batches(stage, {"all": corpus}, seed, vocab=VOCAB) for stage in stages]


def losses_of(
    model: ModelConfig,
    peak: float,
    settings: SwarmSettings,
    corpus: Corpus,
    held_out: Mapping[str, Corpus],
    mixtures: Sequence[Mapping[str, MixturePart]],
) -> dict[str, np.ndarray]:
    """Held-out losses of a model that is trained on each mixture."""
    batches = batches_of(mixtures, corpus, settings.seed)
    return swarm_losses(model, batches, [peak] * len(batches), held_out, settings)


def parts(cells: Sequence[LabelCell], shares: np.ndarray) -> dict[str, MixturePart]:
    """The mixture of a stage with these shares of the cells."""
    return {cell.name: cell.part(float(share)) for cell, share in zip(cells, shares, strict=True)}


def kept_losses(
    folder: Path,
    cells: Sequence[LabelCell],
    mixtures: np.ndarray,
    model: ModelConfig,
    peak: float,
    settings: SwarmSettings,
    corpus: Corpus,
    held_out: Mapping[str, Corpus],
) -> dict[str, np.ndarray]:
    """`losses_of` mixtures of cells, kept in a table of the folder: what is there is not
    trained again. The table's name has a digest of all that its losses follow from."""
    texts = [corpus.hash, *(each.hash for each in held_out.values())]
    causes = repr([cells, mixtures.tolist(), model, peak, settings, texts])
    digest = hashlib.sha256(causes.encode()).hexdigest()[:8]
    table = folder / f"{model.name}-{len(mixtures)}-{digest}.csv"
    if not table.exists():
        trained = [parts(cells, x) for x in mixtures]
        losses = losses_of(model, peak, settings, corpus, held_out, trained)
        write_atomically(table, mixture_search.swarm_table(cells, mixtures, losses))
    return mixture_search.read_swarm(str(table), cells)[1]


def search(
    cells: Sequence[LabelCell],
    members: int,
    corpus: Corpus,
    held_out: Mapping[str, Corpus],
    seed: int,
    folder: Path,
) -> tuple[MixtureLaw, np.ndarray, float | None]:
    """(law, proposed shares, ranks of left-out members) of a swarm over the cells."""
    mixtures = mixture_search.draw_mixtures(mixture_search.natural_shares(cells), members, seed)
    settings = settings_of(PROXY_STEPS, seed)
    losses = kept_losses(folder, cells, mixtures, PROXY, PROXY_PEAK, settings, corpus, held_out)
    law = mixture_search.fit_mixture_law(mixtures, losses)
    tokens = TARGET_STEPS * BATCH * LENGTH
    shares = mixture_search.propose(law, cells, tokens=tokens, repetitions=4, seed=seed)
    return law, shares, mixture_search.left_out_ranks(mixtures, losses)


def mean_of_sets(losses: Mapping[str, np.ndarray]) -> np.ndarray:
    """The loss of each mixture, over the held-out sets."""
    return np.mean(list(losses.values()), axis=0)


def run(folder: Path, seed: int, natural: bool, proxies: int, runs: int) -> dict[str, Any]:
    """Both searches and all arms of one seed."""
    start = time.process_time()
    corpus, held_out, accuracy = prepare(folder, seed, natural)
    cells = mixture_search.label_cells(corpus, "all", ["source"], {"quality": BANDS})
    sources = mixture_search.label_cells(corpus, "all", ["source"])
    law, shares, left_out = search(cells, proxies, corpus, held_out, seed, folder)
    _, of_sources, _ = search(sources, OF_SOURCES, corpus, held_out, seed, folder)
    natural = mixture_search.natural_shares(cells)
    unseen = mixture_search.draw_mixtures(natural, UNSEEN, 1_000 + seed)
    arms = {
        "natural": parts(cells, natural),
        "source": parts(sources, of_sources),
        "instance": parts(cells, shares),
        "oracle": {"clean": MixturePart(1.0, "all", keep={"clean": (1, None)})},
    }
    of_arms, of_unseen = [], []  # a row a run
    for number in range(runs):
        settings = settings_of(TARGET_STEPS, seed + 100 * number, TARGET_WARMUP)
        training = (TARGET, TARGET_PEAK, settings, corpus, held_out)
        of_arms.append(mean_of_sets(losses_of(*training, list(arms.values()))))
        of_unseen.append(mean_of_sets(kept_losses(folder, cells, unseen, *training)))
    losses, measured = np.mean(of_arms, axis=0), np.mean(of_unseen, axis=0)
    predicted = law.predict(unseen)
    is_best = [cell.name.endswith(f"quality {BANDS - 1}") for cell in cells]
    write_atomically(folder / "mixture.json", mixture_search.to_json(cells, shares))
    return {
        "seed": seed,
        "annotator accuracy": accuracy,
        "loss": dict(zip(arms, losses.tolist(), strict=True)),
        "spearman of left out": left_out,
        "spearman of unseen": mixture_search.rank_correlation(predicted, measured),
        "unseen": {"law": predicted.tolist(), "runs": np.array(of_unseen).tolist()},
        "share of the best band": float(shares[is_best].sum()),
        "processor seconds": time.process_time() - start,
    }


def options(about: str) -> argparse.ArgumentParser:
    """--workdir and --seeds, of an experiment on several seeds."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    return parser


def each_seed(args: argparse.Namespace, run: Callable[[Path, int], dict[str, Any]]) -> None:
    """Print run(folder, seed) for every seed; it is also written to WORKDIR/SEED.json."""
    for seed in args.seeds:
        result = run(args.workdir / str(seed), seed)
        write_atomically(args.workdir / f"{seed}.json", json.dumps(result, indent=1))
        print(json.dumps(result), flush=True)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--natural", action="store_true", help="no document is junk")
    parser.add_argument(
        "--proxies", type=int, default=PROXIES, help="members of the swarm of cells"
    )
    parser.add_argument("--runs", type=int, default=RUNS, help="of the large model on each mixture")
    args = parser.parse_args()
    sizes = [count_parameters(model).total for model in (PROXY, TARGET)]
    print(f"{sizes[0]:,} parameters of a small model, {sizes[1]:,} of the large one")
    each_seed(args, partial(run, natural=args.natural, proxies=args.proxies, runs=args.runs))


if __name__ == "__main__":
    main()
