"""Long-CoT cold start (report 4.1) in small: a short fine-tuning on hasty traces of lock problems.

A base is made first, in WORKDIR/base: a fresh 0.25M model on careful traces, which stand for its
pretraining; --set init_from=... takes another run's instead. Hasty traces leave states out, so the
model then answers often wrong: the room that RL fills.

Command:   python experiments/tiny_cold_start.py --workdir runs/cold_start [--set steps=150]
Hardware:  one core; 111 s with AVX-512.
Expected:  on held-out locks at temperature 1, 52% right for the base and 23% after the cold start
           (docs/log/2026-11-28-tiny-post-training.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.curate.filters import cold_start_filters, sift
from qwen3.rewards import get, response
from qwen3.rewards.answers import ScoredAnswer
from qwen3.stages import sft
from qwen3.train.state import TrainState

import tiny_lock

CONFIG = sft.Config(
    model=tiny_lock.MODEL,
    tokenizer="",  # made in the workdir
    data=(),
    steps=150,
    optim=OptimConfig(peak=1e-3, final=0.1, warmup=10, weight_decay=0.0),
    name="cold_start",
    batch=4,
    length=tiny_lock.LENGTH,
    execution=tiny_lock.EXECUTION,
    log=tiny_lock.LOG,
)
BASE = replace(CONFIG, name="base", steps=2000, optim=tiny_lock.FROM_NOTHING, save_every=500)


def hasty(count: int) -> list[dict[str, Any]]:
    """Conversations that the filters of the cold start let through."""
    task, answers = get("lock"), []
    for number, problem in enumerate(tiny_lock.problems(count, 1)):
        sample = tiny_lock.answered(problem, "hasty", number)
        reply = sample["messages"][-1]
        text = response.render(reply["reasoning_content"], reply["content"])
        answers.append(ScoredAnswer.from_text(problem, text, task.score(problem, text)))
    held_out = tiny_lock.problems(200, 8, "heldout")
    validation = [problem.messages[-1]["content"] for problem in held_out]
    return [answer.conversation() for answer in sift(answers, cold_start_filters(validation))[0]]


def careful(count: int) -> list[dict[str, Any]]:
    """Traces with every state, and as many diaries of three to six days to a question that only
    names the start: they have the most turns of a lock a token."""
    task, conversations = get("lock"), []
    for number, problem in enumerate(tiny_lock.problems(count, 6)):
        conversations.append(tiny_lock.answered(problem, "careful", number))
        longer = task.generate(7 * 10**6 + number, 0.4 + 0.6 * (number % 100) / 100)
        question, diary = tiny_lock.answered(longer, "careful", number)["messages"]
        start = question["content"].split(". ")[0] + "."
        conversations.append({"messages": [{"role": "user", "content": start}, diary]})
    return conversations


def run(config: sft.Config, workdir: str) -> TrainState:
    """The base, where none is named, then the cold start."""
    folder = Path(workdir)
    words, start = str(folder / "tokenizer"), config.init_from
    tiny_lock.tokenizer(words)
    if not start:
        start = str(folder / "base")
        fine_tune(BASE, start, words, careful, 12_000, tiny_lock.fresh(folder / "fresh", BASE))
    return fine_tune(config, workdir, words, hasty, 1_500, start)


def fine_tune(
    config: sft.Config,
    workdir: str,
    words: str,
    make: Callable[[int], list[dict[str, Any]]],
    count: int,
    start: str,
) -> TrainState:
    """Fine-tune the model in `start` on `make(count)`; words: the tokenizer's folder."""
    data = tiny_lock.once(f"{workdir}/data/{make.__name__}.jsonl", lambda: make(count))
    return sft.run(replace(config, tokenizer=words, data=(data,), init_from=start), workdir)


if __name__ == "__main__":
    main(run, CONFIG)
