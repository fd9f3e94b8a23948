"""Long-CoT cold start (report 4.1) in small: a fresh 0.2M model on hasty traces of lock problems.

    python experiments/tiny_cold_start.py --workdir runs/cold_start [--set steps=600]

Hasty traces leave states out, so the model answers often wrong: the room that RL fills. Two cores,
some minutes. Expected: cross-entropy falls below 0.5 nats a token; figures in LOG.
"""

from dataclasses import replace
from pathlib import Path

import tiny_lock

from qwen3.config import OptimConfig
from qwen3.curate.candidates import Candidate
from qwen3.curate.filters import sift
from qwen3.rewards import get, response
from qwen3.run import main
from qwen3.stages import sft

CONFIG = sft.Config(
    model=tiny_lock.MODEL,
    tokenizer="",  # made in the workdir
    data=(),
    steps=1500,
    optim=OptimConfig(peak=3e-3, final=0.05, warmup=50, weight_decay=0.05),
    name="cold_start",
    batch=4,
    length=tiny_lock.LENGTH,
    save_every=500,
    log=tiny_lock.LOG,
)


def hasty(count):
    """Conversations that the six filters of the cold start let through."""
    task, found = get("lock"), []
    for seed, problem in enumerate(tiny_lock.problems(count, 1)):
        sample = tiny_lock.answered(problem, "hasty", seed)
        reply = sample["messages"][-1]
        text = response.render(reply["reasoning_content"], reply["content"])
        found.append(Candidate(problem, text, task.score(problem, text)))
    return [candidate.conversation() for candidate in sift(found)[0]]


def run(config, workdir):
    folder = Path(workdir)
    words = str(folder / "tokenizer")
    tiny_lock.tokenizer(words)
    data = tiny_lock.once(folder / "data" / "hasty.jsonl", lambda: hasty(12_000))
    return sft.run(replace(config, tokenizer=words, data=(data,)), workdir)


if __name__ == "__main__":
    main(run, CONFIG)
