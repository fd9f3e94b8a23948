"""Synthetic maths that was verified against the same maths as it was written, on equal tokens.

An author that is wrong in four of ten problems writes one for each seed, a small sum or product;
solvers who are wrong as often solve it anew. The step `synthesize` keeps what its check lets
through. Small models are trained on what was verified, on all of it, and on what is right (the
oracle), and compared by their loss on held-out problems with right answers.

Command:   python experiments/tiny_synthesis.py --workdir runs/tiny_synthesis [--seeds 0 1 2]
Hardware:  one core, about a minute a seed.
Expected:  docs/log/2026-11-30-steps-that-ask-a-model.md
"""

from __future__ import annotations

import argparse
import json
import operator
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tiny_data import TARGET, Rows, losses_of

from qwen3.data import corpora
from qwen3.data.atomic import write_atomically
from qwen3.data.document import Document
from qwen3.data.mixture import MixturePart
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.model_client import Question, Reply
from qwen3.infer.reply_store import StoredModel
from qwen3.pipeline.model_steps import ModelChoice, together
from qwen3.pipeline.synthesis import INSTRUCTIONS, KINDS, Unverified, Writer
from qwen3.pipeline.text_record import TextRecord, record_id

SEEDS, HELD_OUT, STEPS = 2_000, 300, 150
IDS = 300  # of the tokenizer; the texts are of few words
WRONG = 0.4  # share of the author's and the solvers' answers
OPERATIONS = {"plus": operator.add, "minus": operator.sub, "times": operator.mul}
PROBLEM = re.compile(r"(\d+) (plus|minus|times) (\d+)")


class FallibleModel:
    """Writes and solves problems; the seed of a question decides whether the answer is wrong."""

    def __init__(self, wrong: float):
        self.wrong = wrong

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        for i, question in enumerate(questions):
            instruction, text = (message["content"] for message in question.messages)
            answer = f"It is \\boxed{{{self.answer(text, question.seed)}}}."
            if instruction == INSTRUCTIONS["maths"]:
                answer = json.dumps({"problem": f"What is {text}?", "solution": answer})
            yield i, Reply(answer)

    def answer(self, text: str, seed: int | None) -> int:
        choose, right = random.Random(seed), value(text)
        return right if choose.random() >= self.wrong else choose.randint(-9, 81)


def value(text: str) -> int:
    """The right answer of a problem."""
    match = PROBLEM.search(text)
    assert match is not None, text
    return OPERATIONS[match[2]](int(match[1]), int(match[3]))


def problems(choose: random.Random, count: int) -> list[str]:
    names = list(OPERATIONS)
    return [
        f"{choose.randint(0, 9)} {choose.choice(names)} {choose.randint(0, 9)}"
        for _ in range(count)
    ]


def written(folder: Path, seed: int) -> list[Document]:
    """The author's problems, labelled by whether the check of the step lets them through."""
    choice = ModelChoice("fallible", str(folder / "answers.sqlite"))
    ask = StoredModel(lambda: FallibleModel(WRONG), choice.model, choice.store)
    records = []
    for number, text in enumerate(problems(random.Random(seed), SEEDS)):
        labels = {"number": number}
        records.append(TextRecord(record_id(text, "seeds", labels), text, "seeds", labels))
    checked = together(ask, [KINDS["maths"](Writer(r, choice, True)) for r in records])
    drafts = together(ask, [KINDS["maths"](Writer(r, choice, False)) for r in records])
    documents = []
    for record, draft, result in zip(records, drafts, checked, strict=True):
        if isinstance(result, Exception) and not isinstance(result, Unverified):
            raise result
        right = f"{{{value(record.text)}}}" in str(draft)
        labels = {"verified": float(isinstance(result, str)), "right": float(right)}
        documents.append(Document(str(draft), labels))
    return documents


def run(folder: Path, seed: int) -> dict[str, Any]:
    """All arms of one seed."""
    start = time.process_time()
    folder.mkdir(parents=True, exist_ok=True)
    documents = written(folder, seed)
    tokenizer = Tokenizer.train([document.content for document in documents], IDS)
    corpus = corpora.prepare(Rows(documents), tokenizer, folder / "corpus")
    held = [
        f"What is {text}?\n\nIt is \\boxed{{{value(text)}}}."
        for text in problems(random.Random(1_000 + seed), HELD_OUT)
    ]
    held_out = corpora.prepare(
        Rows([Document(text, {}) for text in held]), tokenizer, folder / "held-out"
    )
    arms = {
        "as written": {"all": MixturePart(1.0, "all")},
        "verified": {"kept": MixturePart(1.0, "all", keep={"verified": (1, None)})},
        "right": {"right": MixturePart(1.0, "all", keep={"right": (1, None)})},
    }
    losses = losses_of(TARGET, list(arms.values()), STEPS, corpus, {"right": held_out}, seed)
    verified = [d for d in documents if d.labels["verified"]]
    return {
        "seed": seed,
        "right as written": float(np.mean([d.labels["right"] for d in documents])),
        "right of verified": float(np.mean([d.labels["right"] for d in verified])),
        "share verified": len(verified) / len(documents),
        "loss": dict(zip(arms, losses["right"].tolist(), strict=True)),
        "processor seconds": time.process_time() - start,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    for seed in args.seeds:
        result = run(args.workdir / str(seed), seed)
        write_atomically(args.workdir / f"{seed}.json", json.dumps(result, indent=1))
        print(json.dumps(result))


if __name__ == "__main__":
    main()
