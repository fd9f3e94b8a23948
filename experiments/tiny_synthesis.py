"""Verified synthetic maths in a quarter of the tokens, against none of it and unverified maths.

An author that is wrong in four of ten word problems ("Ann has 7 pens and buys 5.") writes one for
each seed; solvers who are wrong as often solve it anew, and the step `synthesize` keeps what its
check lets through. Small models are trained on equal tokens: of the standard library's prose alone,
and of three quarters prose with a quarter of all that was written, of what was verified, and of
what is right (the oracle). Accuracy is the share of held-out problems, none of which a seed tells,
whose whole answer the model writes greedily after the question; the sums themselves do occur.

Command:   python experiments/tiny_synthesis.py --workdir runs/tiny_synthesis [--seeds 0 1 2]
Hardware:  one core, 250 processor seconds a seed.
Expected:  docs/log/2026-11-30-mixtures-rates-and-repairs.md
"""

from __future__ import annotations

import json
import operator
import random
import re
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_data import PIECE, VOCAB, Rows, batches_of, each_seed, options, settings_of
from tiny_pretrain import standard_library

from qwen3.data import corpora
from qwen3.data.corpora import Corpus
from qwen3.data.document import Document
from qwen3.data.mixture import MixturePart
from qwen3.data.rows import RowLayout, TokenSequence, fill
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.model_client import Question, Reply
from qwen3.infer.reply_store import StoredModel
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.pipeline.model_steps import ModelChoice, together
from qwen3.pipeline.proxy_swarm import held_out_losses, trained_swarm
from qwen3.pipeline.synthesis import INSTRUCTIONS, KINDS, Unverified, Writer
from qwen3.pipeline.text_record import TextRecord, record_id

SOLVER = ModelConfig("solver", 2, 40, 112, 4, 2, head_dim=10, vocab=VOCAB, tied=True)
SEEDS, HELD_OUT, PROSE = 3_000, 400, 1_500  # problems; documents of prose
STEPS, PEAK = 1_500, 1e-2
ANSWER_LENGTH = 48  # tokens of a problem with its answer, at most
WRONG = 0.4  # share of the author's and the solvers' answers
SYNTHETIC = 0.25  # share of the tokens
NAMES = "Ann Ben Eva Ida Jim Kim Leo Mia Ned Sam Tom Uma".split()
THINGS = "pens cups hats keys nuts eggs maps coins books cards shells stamps".split()
VERBS = {"buys": operator.add, "loses": operator.sub}
STORY = re.compile(r"has (\d+) \w+ and (\w+) (\d+)")


class FallibleModel:
    """Writes and solves problems; the seed of a question decides whether the answer is wrong."""

    def __init__(self, wrong: float):
        self.wrong = wrong

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        for i, question in enumerate(questions):
            instruction, text = (message["content"] for message in question.messages)
            solution = f"It is \\boxed{{{self.answer(text, question.seed)}}}."
            if instruction == INSTRUCTIONS["maths"]:
                solution = json.dumps({"problem": asked(text), "solution": solution})
            yield i, Reply(solution)

    def answer(self, text: str, seed: int | None) -> int:
        choose, right = random.Random(seed), value(text)
        return right if choose.random() >= self.wrong else choose.randint(0, 18)


def value(text: str) -> int:
    """The right answer of a problem."""
    match = STORY.search(text)
    assert match is not None, text
    return VERBS[match[2]](int(match[1]), int(match[3]))


def asked(story: str) -> str:
    """The problem of a story."""
    return f"{story} How many now?"


def stories(choose: random.Random, count: int) -> list[str]:
    """Different stories, whose answers are 0 to 18."""
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        first, second = choose.randint(0, 9), choose.randint(0, 9)
        verb = choose.choice(list(VERBS))
        if verb == "loses":
            first, second = max(first, second), min(first, second)
        name, thing = choose.choice(NAMES), choose.choice(THINGS)
        drawn[f"{name} has {first} {thing} and {verb} {second}."] = None
    return list(drawn)


def written(folder: Path, seeds: Sequence[str]) -> list[Document]:
    """The author's problems, labelled by whether the check of the step lets them through."""
    choice = ModelChoice("fallible", str(folder / "answers.sqlite"))
    ask = StoredModel(lambda: FallibleModel(WRONG), choice.model, choice.store)
    records = []
    for number, text in enumerate(seeds):
        labels = {"number": number}
        records.append(TextRecord(record_id(text, "seeds", labels), text, "seeds", labels))
    checked = together(ask, [KINDS["maths"](Writer(r, choice, True)) for r in records])
    drafts = together(ask, [KINDS["maths"](Writer(r, choice, False)) for r in records])
    documents = []
    for record, draft, result in zip(records, drafts, checked, strict=True):
        if isinstance(result, Exception) and not isinstance(result, Unverified):
            raise result
        right = f"{{{value(record.text)}}}" in str(draft)
        labels = {"verified": float(isinstance(result, str)), "right": float(right), "prose": 0.0}
        documents.append(Document(str(draft), labels))
    return documents


def prose(seed: int) -> list[str]:
    """Pieces of the standard library's prose, PROSE to train on and 120 to hold out."""
    pieces = [
        text[i : i + PIECE]
        for text in standard_library()["prose"]
        for i in range(0, len(text), PIECE)
    ]
    order = np.random.default_rng(seed).permutation(len(pieces))[: PROSE + 120]
    return [pieces[i] for i in order]


def answer_rows(tokenizer: Tokenizer, held: Sequence[str], length: int) -> dict[str, np.ndarray]:
    """A batch of a problem and its answer a row; the weights mark the answer."""
    sequences = []
    for story in held:
        question = f"{asked(story)}\n\nIt is \\boxed{{"
        start = tokenizer.encode(question)
        tokens = tokenizer.encode(f"{question}{value(story)}}}.")
        assert tokens[: len(start)] == start, story
        weights = np.arange(len(tokens)) >= len(start)
        sequences.append(TokenSequence(np.array(tokens), weights.astype(np.float32)))
    count = len(sequences)
    where = RowLayout(np.arange(count), np.zeros(count, np.int64), count)
    return fill(sequences, where, length, pad=tokenizer.pad, rows=count)


def accuracies(params: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Share of the rows that each member answers, float64 [members].

    Greedy decoding writes the answer if, and only if, each of its tokens is the likeliest after
    those before it.
    """
    apply = transformer.bind(SOLVER, Execution())

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def right(params: Any, batch: dict) -> jax.Array:
        output = apply(params, batch["tokens"], batch["positions"], batch["segment_ids"])
        likeliest = jnp.argmax(output.hidden_BTD @ output.head_VD.T, -1)
        return jnp.all((likeliest == batch["targets"]) | (batch["weights"] == 0), 1).mean()

    return np.asarray(right(params, batch), np.float64)


def prepare(
    folder: Path, seed: int
) -> tuple[Corpus, Corpus, dict[str, np.ndarray], list[Document]]:
    """(corpus of all documents, held-out prose, held-out problems, what the author wrote)."""
    drawn = stories(random.Random(seed), SEEDS + HELD_OUT)
    problems, held = written(folder, drawn[HELD_OUT:]), drawn[:HELD_OUT]
    pieces = prose(seed)
    labels = {"verified": 0.0, "right": 0.0, "prose": 1.0}
    base = [Document(text, labels) for text in pieces[120:]]
    texts = [document.content for document in [*base[::4], *problems[::8]]]
    tokenizer = Tokenizer.train(texts, VOCAB)
    corpus = corpora.prepare(Rows([*base, *problems]), tokenizer, folder / "corpus")
    others = [Document(text, {}) for text in pieces[:120]]
    held_prose = corpora.prepare(Rows(others), tokenizer, folder / "held-out")
    return corpus, held_prose, answer_rows(tokenizer, held, ANSWER_LENGTH), problems


def run(folder: Path, seed: int) -> dict[str, Any]:
    """All arms of one seed."""
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    corpus, held_prose, rows, problems = prepare(folder, seed)
    base = MixturePart(1 - SYNTHETIC, "all", keep={"prose": (1, None)})
    kinds = {"as written": {"prose": (None, 0)}}
    kinds |= {name: {name: (1, None)} for name in ("verified", "right")}
    arms = {"prose alone": {"prose": base}} | {
        name: {"prose": base, "maths": MixturePart(SYNTHETIC, "all", keep=keep)}
        for name, keep in kinds.items()
    }
    settings, batches = settings_of(STEPS, seed), batches_of(list(arms.values()), corpus, seed)
    params = trained_swarm(SOLVER, batches, [PEAK] * len(arms), settings)
    losses = held_out_losses(SOLVER, params, {"prose": held_prose}, batches[0].stage.length, 128)
    verified = [d for d in problems if d.labels["verified"]]
    answers = [value(d.content) for d in problems]
    return {
        "seed": seed,
        "right as written": float(np.mean([d.labels["right"] for d in problems])),
        "right of verified": float(np.mean([d.labels["right"] for d in verified])),
        "share verified": len(verified) / len(problems),
        "commonest answer": max(np.bincount(answers)) / len(answers),
        "accuracy": dict(zip(arms, accuracies(params, rows).tolist(), strict=True)),
        "loss of prose": dict(zip(arms, losses["prose"].tolist(), strict=True)),
        "processor seconds": time.process_time() - start,
    }


if __name__ == "__main__":
    each_seed(options(__doc__).parse_args(), run)
