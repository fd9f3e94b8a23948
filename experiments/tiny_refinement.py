"""What the repair of OCR by a model is worth to a model that trains on the text.

Pages of the recipe's world (stories, problems, facts; some forty words and many numbers) go through
a noisy channel that breaks them as readers of scans do: letters are taken for others (m for rn, l
for 1), lost, and blanks between words too; numbers stay. A small model learns from pairs of broken
and true words of other pages which word was meant, and answers the questions of the step `refine`,
whose guards keep a piece as it was read where a repair is more than that. Models are then trained
on equal tokens of the pages as read, as refined, and as they were (the truth), and compared by
their loss on clean held-out pages.

Command:   python experiments/tiny_refinement.py --workdir runs/tiny_refinement [--seeds 0 1 2]
Hardware:  one core, a minute a seed.
Expected:  docs/log/2026-11-30-mixtures-rates-and-repairs.md
"""

from __future__ import annotations

import functools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tiny_data import Rows, each_seed, options

from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.batches import Batches
from qwen3.data.document import Document
from qwen3.data.mixture import MixturePart, Stage
from qwen3.data.rows import RowLayout, TokenSequence, fill
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.model_client import Question, Reply
from qwen3.infer.reply_store import StoredModel
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.pipeline import refinement
from qwen3.pipeline.model_steps import together
from qwen3.pipeline.proxy_swarm import SwarmSettings, swarm_losses, trained_swarm
from qwen3.pipeline.text_record import TextRecord, record_id
from qwen3.recipe.world import documents as world

PARTS = ("story", "worked", "facts", "recall")
PAGES, PAIR_PAGES, HELD_OUT, ON_PAGE = 800, 300, 100, 4  # pages, and documents of each
VOCAB, LENGTH, BATCH = 512, 128, 4  # of the models that train on the pages
MODEL = ModelConfig("reader", 2, 40, 112, 4, 2, head_dim=10, vocab=VOCAB, tied=True)
STEPS, PEAK = 300, 1e-2
OPTIM = OptimConfig(warmup=20, final=0.05)
# What readers of scans take letters for.
CONFUSIONS = {
    "m": ["rn"],
    "n": ["u", "ri"],
    "u": ["n"],
    "d": ["cl"],
    "w": ["vv"],
    "l": ["1", "i"],
    "i": ["l", "1"],
    "o": ["0", "c"],
    "e": ["c"],
    "c": ["e"],
    "h": ["b", "li"],
    "b": ["h"],
    "t": ["f"],
    "f": ["t"],
    "a": ["o"],
    "s": ["z"],
    "g": ["q"],
    "y": ["v"],
    "r": ["n"],
    "k": ["h"],
}
CONFUSED, LOST, JOINED = 0.08, 0.01, 0.02  # of letters, of letters, of blanks
WORD = re.compile(r"[^\s.,?:=]+")
LETTERS, LONGEST, CONTEXT = (
    128,
    14,
    8,
)  # ids of letters (ASCII); letters of a word, of the one before
PAIR_LENGTH = CONTEXT + LONGEST + 2  # ids of a pair: the word before, blank, the word, END
END, SURE = ord(">"), 0.8  # the id before the answer; the least probability of a repair
JOINED_PAIRS = 0.1  # of the pairs: two words without a blank, which stay as they are
PAIR_STEPS, PAIR_ROWS, PAIR_PEAK = 400, 64, 1e-2
REASONS = ("new words", "other numbers", "words lost", "too many changes", "cut")  # for a refusal
CHUNK = 256  # words that are repaired at once


def pages(count: int, seed: int, held: bool = False) -> list[str]:
    """Clean pages in English, of documents of all parts."""
    by_part = [
        world.documents(part, count * ON_PAGE // len(PARTS), seed, chinese=0.0, held=held)
        for part in PARTS
    ]
    texts = [row["text"] for rows in zip(*by_part, strict=True) for row in rows]
    return ["\n\n".join(texts[i : i + ON_PAGE]) for i in range(0, len(texts), ON_PAGE)]


def broken(word: str, choose: random.Random) -> str:
    """A word as it is read; numbers stay."""
    if word.isdigit():
        return word
    result = ""
    for letter in word:
        chance = choose.random()
        if chance < CONFUSED and letter in CONFUSIONS:
            letter = choose.choice(CONFUSIONS[letter])
        elif CONFUSED <= chance < CONFUSED + LOST:
            letter = ""
        result += letter
    return result


def read(page: str, choose: random.Random) -> str:
    """A page as it is read."""
    text = WORD.sub(lambda match: broken(match[0], choose), page)
    return re.sub(
        r"(?<=[a-z]) (?=[a-z])", lambda match: "" if choose.random() < JOINED else " ", text
    )


class Denoiser:
    """A small model that tells which word of a closed list was meant, by its letters and the word
    before it, both as they were read. What it is not sure of stays, and what no guard would let
    through by itself (of a one-letter word nothing is left)."""

    def __init__(self, clean: Sequence[str], seed: int):
        words = Counter(word for page in clean for word in WORD.findall(page))
        self.words = sorted(word for word in words if not word.isdigit())
        rows = -(-(LETTERS + len(self.words) + 1) // 8) * 8  # the last answer: leave it as it is
        self.model = ModelConfig("denoiser", 2, 48, 128, 4, 2, head_dim=12, vocab=rows, tied=True)
        self._pages, self._seed = clean, seed
        settings = SwarmSettings(PAIR_STEPS, OPTIM, seed)
        self.params = trained_swarm(self.model, [self], [PAIR_PEAK], settings)
        self._likeliest = jax.jit(
            functools.partial(_likeliest, transformer.bind(self.model, Execution()))
        )

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """A batch of pairs; the loss is that of the word alone."""
        choose = random.Random(f"{self._seed} {step}")
        sequences: list[TokenSequence] = []
        while len(sequences) < PAIR_ROWS:
            words = WORD.findall(choose.choice(self._pages))
            place = choose.randrange(len(words))
            before = broken(words[place - 1], choose) if place else ""
            word, answer = words[place], len(self.words)
            if word.isdigit():
                continue
            if choose.random() < JOINED_PAIRS:
                word += choose.choice(self.words)
            else:
                answer = self.words.index(word)
            ids = pair(before, broken(word, choose))
            sequences.append(TokenSequence(np.array([*ids, LETTERS + answer]), _last(len(ids) + 1)))
        return _batch(sequences)

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        for i, question in enumerate(questions):
            yield i, Reply(json.dumps({"text": self.repaired(question.messages[-1]["content"])}))

    def repaired(self, text: str) -> str:
        """A text with the words that the model is sure of in place of those that were read."""
        words = WORD.findall(text)
        meant = dict(enumerate(words))
        asked = [i for i, w in enumerate(words) if not w.isdigit() and len(w) <= LONGEST]
        for first in range(0, len(asked), CHUNK):
            places = asked[first : first + CHUNK]
            pairs = [pair(words[i - 1] if i else "", words[i]) for i in places]
            pairs += [pair("", "")] * (CHUNK - len(pairs))
            batch = _batch(
                [TokenSequence(np.array([*ids, 0]), _last(len(ids) + 1)) for ids in pairs]
            )
            for i, best, chance in zip(places, *self._likeliest(self.params, batch), strict=False):
                if chance >= SURE and best < len(self.words):
                    meant[i] = self._repair(words[i], self.words[int(best)])
        replies = iter(meant.values())
        return WORD.sub(lambda match: next(replies), text)

    @staticmethod
    @functools.cache
    def _repair(read: str, meant: str) -> str:
        reason = refinement.objection(read, meant)
        return read if reason in ("new words", "other numbers") else meant


def pair(before: str, word: str) -> list[int]:
    """The ids that the model reads."""
    text = f"{before[-CONTEXT:]} {word[:LONGEST]}"
    return [min(ord(letter), LETTERS - 1) for letter in text] + [END]


def _last(count: int) -> np.ndarray:
    return np.eye(1, count, count - 1, dtype=np.float32)[0]


def _batch(sequences: Sequence[TokenSequence]) -> dict[str, np.ndarray]:
    count = len(sequences)
    where = RowLayout(np.arange(count), np.zeros(count, np.int64), count)
    return fill(sequences, where, PAIR_LENGTH, pad=0, rows=count)


def _likeliest(apply: Any, params: Any, batch: dict) -> tuple[jax.Array, jax.Array]:
    """(number of the likeliest word, its probability) for each row."""
    params = jax.tree.map(lambda leaf: leaf[0], params)
    output = apply(params, batch["tokens"], batch["positions"], batch["segment_ids"])
    last = jnp.argmax(batch["weights"], 1)
    hidden = jnp.take_along_axis(output.hidden_BTD, last[:, None, None], 1)[:, 0]
    chances = jax.nn.softmax(hidden @ output.head_VD[LETTERS:].T, -1)
    return jnp.argmax(chances, -1), jnp.max(chances, -1)


def refined(folder: Path, denoiser: Denoiser, texts: Sequence[str]) -> tuple[list[str], Counter]:
    """(the texts after the step `refine`, how many pieces came out how)."""
    step = refinement.build({"model": "denoiser", "store": str(folder / "answers.sqlite")})
    ask = StoredModel(lambda: denoiser, step.choice.model, step.choice.store)
    records = [TextRecord(record_id(t, "pages", {}), t, "pages", {}) for t in texts]
    results = together(ask, [step.talk(record) for record in records])
    for result in results:
        if isinstance(result, Exception):
            raise result
    history = " ".join(event for record in results for event in record.history)
    counts: Counter = Counter()
    outcomes = "|".join(["repaired(?: but for [a-z ]+)?", "unchanged", *REASONS])
    for number, outcome in re.findall(rf"(\d+) ({outcomes})", history):
        counts[outcome] += int(number)
    return [record.text for record in results], counts


def right_words(texts: Sequence[str], truth: Sequence[str]) -> float:
    """Share of the true words that stand in the texts."""
    shared = total = 0
    for text, true in zip(texts, truth, strict=True):
        words = Counter(WORD.findall(true))
        shared += (words & Counter(WORD.findall(text))).total()
        total += words.total()
    return shared / total


def run(folder: Path, seed: int) -> dict[str, Any]:
    """Reading, repair and all arms of one seed."""
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    others, truth = pages(PAIR_PAGES, 1_000 + seed), pages(PAGES, seed)
    choose = random.Random(seed)
    raw = [read(page, choose) for page in truth]
    repaired, outcomes = refined(folder, Denoiser(others, seed), raw)
    arms = {"raw": raw, "refined": repaired, "truth": truth}
    tokenizer = Tokenizer.train([*others, *(read(page, choose) for page in others)], VOCAB)
    rows = [Document(text, {"arm": arm}) for arm, texts in arms.items() for text in texts]
    corpus = corpora.prepare(Rows(rows), tokenizer, folder / "corpus")
    held = [Document(page, {}) for page in pages(HELD_OUT, seed, held=True)]
    held_out = {"clean": corpora.prepare(Rows(held), tokenizer, folder / "held-out")}
    parts = [MixturePart(1.0, "all", keep={"arm": [arm]}) for arm in arms]
    stages = [Stage("tiny", {"all": p}, LENGTH, BATCH, repeat_small=True) for p in parts]
    batches = [Batches(stage, {"all": corpus}, seed, vocab=VOCAB) for stage in stages]
    settings = SwarmSettings(STEPS, OPTIM, seed, held_out_rows=128)
    losses = swarm_losses(MODEL, batches, [PEAK] * len(arms), held_out, settings)["clean"]
    loss = dict(zip(arms, losses.tolist(), strict=True))
    return {
        "seed": seed,
        "right words": {arm: right_words(texts, truth) for arm, texts in arms.items()},
        "pieces": dict(outcomes),
        "loss": loss,
        "recovered": (loss["raw"] - loss["refined"]) / (loss["raw"] - loss["truth"]),
        "processor seconds": time.process_time() - start,
    }


if __name__ == "__main__":
    each_seed(options(__doc__).parse_args(), run)
