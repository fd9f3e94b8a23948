"""A small reward model on public pairs of answers: accuracy by source, and where longer ones lose.

A tokenizer and a language model are made of the training pairs' better answers, the reward model of
that and of the pairs. A quarter of the questions is held out; files of `evaluation.data` are not
trained on at all. Far too little data and model for a reward model of use: this shows that the
files of the field are read, trained on and reported by source with intervals.

Command:   python experiments/public_pairs.py --workdir runs/public_pairs \
               --set 'data=["hh_rlhf.jsonl.gz", "pandalm.jsonl.gz", "dpo.jsonl.gz"]' \
               --set 'evaluation.data=["llmbar/Natural.jsonl"]'
Hardware:  two cores; seven minutes of processor time.
Expected:  no preference is learnt but that of one source: 1,423 pairs are learnt by heart, and of
           753 others 49.9% [46.4, 53.5] are right (docs/log/2026-11-30-reward-model.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.curate.files import write_conversations
from qwen3.curate.preference_pairs import Pair, read_pairs
from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import size
from qwen3.stages import reward_model, sft
from qwen3.stages.pair_evaluation import PairEvaluation, split
from qwen3.stages.problem_evaluation import records
from qwen3.train.recording import Log
from qwen3.train.state import TrainState

MODEL = size("tiny").replace(layers=2, heads=4, kv_heads=1, head_dim=32, vocab=2048)
HELD_OUT = 0.25  # share of the questions
TAUGHT = 300  # optimizer steps of the language model
CONFIG = reward_model.Config(
    model=MODEL.replace(scalar_head=True),
    tokenizer="",  # made of the training pairs in the workdir
    data=(),  # files of pairs
    steps=300,
    optim=OptimConfig(peak=1e-3, final=0.1, warmup=20, weight_decay=0.0),
    batch=8,
    length=1024,
    too_long="truncate",
    save_every=100,
    execution={"scan": False},
    log=Log(every=20),
    evaluation=PairEvaluation(every=100),
)
FROM_NOTHING = OptimConfig("muon", peak=5e-3, final=0.05, warmup=20, weight_decay=0.05)


def run(config: reward_model.Config, workdir: str) -> TrainState:
    """Teach a language model the better answers, train the reward model from it, and report."""
    data = Path(workdir) / "data"
    if not (data / "held.jsonl").exists():
        write_parts(config, data)
    config = replace(config, tokenizer=str(data / "tokenizer"), data=(str(data / "train.jsonl"),))
    stage = sft.Config(
        model=config.model.replace(scalar_head=False),
        tokenizer=config.tokenizer,
        data=(str(data / "answers.jsonl"),),
        steps=TAUGHT,
        optim=FROM_NOTHING,
        batch=config.batch,
        length=config.length,
        too_long="drop",
        seed=config.seed,
        save_every=TAUGHT,
        execution=config.execution,
        log=config.log,
    )
    start = str(Path(workdir) / "taught")
    sft.run(stage, start)
    held = (str(data / "held.jsonl"), *config.evaluation.data)
    config = replace(config, init_from=start, evaluation=replace(config.evaluation, data=held))
    state = reward_model.run(config, workdir)
    Console().print(table(workdir))
    return state


def write_parts(config: reward_model.Config, folder: Path) -> None:
    """The parts that are trained on and held out, the better answers, and their tokenizer."""
    train, held = split([pair for path in config.data for pair in read_pairs(path)], HELD_OUT)
    folder.mkdir(parents=True, exist_ok=True)
    dialogues = [[*pair.question, *pair.chosen] for pair in train]
    texts = [str(message["content"]) for messages in dialogues for message in messages]
    Tokenizer.train(texts, config.model.vocab - 32).save(folder / "tokenizer")
    write_conversations(folder / "answers.jsonl", [{"messages": m} for m in dialogues])
    write_rows(folder / "train.jsonl", rows(train))
    write_rows(folder / "held.jsonl", rows(held))


def rows(pairs: Sequence[Pair]) -> list[dict]:
    """Pairs in the form of a file, with their sources."""
    return [
        {"prompt": p.question, "chosen": p.chosen, "rejected": p.rejected, "source": p.source}
        for p in pairs
    ]


def table(workdir: str) -> Table:
    """Accuracies before the first and after the last step, with 95% intervals."""
    first, *_, last = records(workdir)
    result = Table("pairs", "n", f"step {first['step']}", f"step {last['step']}")
    for name in ("all", *last["parts"]):
        before, after = (
            row if name == "all" else {"score": row["parts"][name]["value"], **row["parts"][name]}
            for row in (first, last)
        )
        cells = (f"{r['score']:.1%} [{r['low']:.1%}, {r['high']:.1%}]" for r in (before, after))
        result.add_row(name, str(after["n"]), *cells)
    return result


if __name__ == "__main__":
    main(run, CONFIG)
