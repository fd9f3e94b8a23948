"""General RL over families of problems (report 4.4) in small: one model, one mixture, one run.

A model of 0.3M parameters reads right answers to easy problems of 15 families (`tiny_problems`),
two of them worlds of several turns, and lists of look-ups, which every family needs; then it is
fine-tuned on careless answers, of which the share `right` is right. With `recipe` it starts from
the base model of a seed of `qwen3 recipe`, which can look up already, in place of a new one. GRPO
on the mixture of all families, twins of a pair drawn together, follows. What is printed are scores
at temperature 1 on problems that no training saw, per family and in the mean, before and after,
with the 95% interval of their difference over problems, and the share of pairs of which both
problems are right.

Command:   python experiments/tiny_families.py --workdir runs/families [--set seed=1]
           [--set recipe=runs/recipe/seed0]
Hardware:  two cores, about twenty minutes if free (by its rates; 43 to 62 beside other work).
Expected:  from a recipe's model the mean rises by 34 to 39 points, 13 or 14 of 15 families by 15 or
           more, in three seeds (docs/log/2026-11-30-families-read-longer.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.curate.files import write_problems
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import ask
from qwen3.eval import intervals
from qwen3.infer.requests import PRESETS
from qwen3.losses.grpo_config import Grpo
from qwen3.rewards import Problem
from qwen3.rewards.pairs import pair_accuracy
from qwen3.stages import grpo, sft
from qwen3.stages.groups import Scoring
from qwen3.stages.prompts import Share, group_of
from qwen3.stages.rollouts import Sampling
from qwen3.train.state import TrainState

import tiny_lock
import tiny_problems


@dataclass(frozen=True)
class Config(grpo.Config):
    """Settings of GRPO, and of what it starts from and is measured by."""

    families: tuple[str, ...] = tuple(tiny_problems.EASY)  # of the mixture
    examples: int = 600  # of each family for pretraining, all right
    look_ups: int = 6000  # lists of look-ups for pretraining
    pretrained: int = 4000  # steps of pretraining; after 1,200 a third of the answers is right
    recipe: str = ""  # seed of a run of the recipe whose base model is trained on; "": a new model
    careless: int = 100  # of each family for fine-tuning
    right: float = 0.75  # share of right answers among those
    taught: int = 60  # steps of fine-tuning; 0: none
    drawn: int = 200  # problems of each family for RL
    held: int = 56  # problems of each family that are measured
    measured: int = 2  # answers to each of them


CONFIG = Config(
    name="families",
    model=tiny_lock.MODEL.replace(kv_heads=2, vocab=1536, rope_theta=1e4),
    tokenizer="",  # made in the workdir
    tasks=(Share("file", twins=True),),
    steps=160,
    optim=OptimConfig(peak=1e-3, final=0.1, warmup=4, schedule="linear", weight_decay=0.0),
    policy=Grpo(old="rollout"),
    scoring=Scoring(scale="family"),
    sampling=Sampling(samples=8, max_tokens=128, slots=128),
    prompts=60,
    minibatches=2,
    length=256,
    save_every=20,
    execution=tiny_lock.EXECUTION,
)


def conversations(config: Config, seed: int, count: int, right: float) -> list[dict[str, Any]]:
    """`count` training problems of each family with answers, of which a share is right."""
    rng = Random(f"conversations/{config.seed}/{seed}")
    drawn = problems(config, "train", seed, count)
    return [tiny_problems.answered(problem, rng, rng.random() < right) for problem in drawn]


def pretrained(config: Config, folder: Path) -> str:
    """A model that has read right answers with their questions, and lists of look-ups."""
    words = Tokenizer.load(config.tokenizer)

    def texts() -> list[dict[str, Any]]:
        right = conversations(config, 0, config.examples, 1.0)
        return tiny_problems.documents(words, right, config.look_ups, config.seed)

    stage = sft.Config(
        model=config.model,
        tokenizer=config.tokenizer,
        data=(tiny_lock.once(folder / "pretrained.jsonl", texts),),
        steps=config.pretrained,
        optim=replace(
            tiny_lock.FROM_NOTHING,
            peak=3e-3,
            # Rare words move by it (docs/log/2026-11-28-adam-eps-and-rare-words.md).
            eps=1e-8 if config.recipe else 1e-3,
            warmup=min(50, config.pretrained // 4),
        ),
        name="pretrained",
        batch=8,
        length=config.length,
        seed=config.seed,
        execution=config.execution,
        log=tiny_lock.LOG,
        save_every=500,
    )
    if config.recipe:
        start = tiny_problems.with_words(folder / "start", Path(config.recipe), words)
    else:
        start = tiny_lock.fresh(folder / "start", stage)
    sft.run(replace(stage, init_from=start), str(folder / "pretrained"))
    return str(folder / "pretrained")


def taught(config: Config, folder: Path) -> str:
    """That model, fine-tuned on careless answers: the start of RL."""

    def careless() -> list[dict[str, Any]]:
        samples = conversations(config, 1, config.careless, config.right)
        Random(config.seed).shuffle(samples)
        return samples

    stage = sft.Config(
        model=config.model,
        tokenizer=config.tokenizer,
        data=(tiny_lock.once(folder / "taught.jsonl", careless),),
        steps=config.taught,
        optim=OptimConfig(peak=1e-3, final=0.1, warmup=min(10, config.taught // 4)),
        name="taught",
        batch=8,
        length=config.length,
        seed=config.seed,
        init_from=pretrained(config, folder),
        execution=config.execution,
        log=tiny_lock.LOG,
    )
    sft.run(stage, str(folder / "taught"))
    return str(folder / "taught")


Scored = list[tuple[Problem, float]]  # a problem and the mean score of its answers


def problems(config: Config, split: str, seed: int, count: int) -> list[Problem]:
    """Problems of every family, of a seed of their own."""
    return tiny_problems.problems(config.families, split, 4 * config.seed + seed, count)


def measure(
    config: Config, source: str, held: Sequence[Problem], store: Path
) -> tuple[Scored, dict[str, float]]:
    """(scores of held-out problems, pair accuracy by family) of the model of a run, kept in the
    file `store`."""
    if not store.exists():
        store.write_text(json.dumps(_scores(config, source, held)))
    scores = json.loads(store.read_text())
    means = [float(np.mean(group)) for group in scores]
    pairs = {}
    for name in config.families:
        flat = [(p, s) for p, group in zip(held, scores, strict=True) for s in group]
        share = pair_accuracy(pair for pair in flat if pair[0].task == name)
        if share is not None:
            pairs[name] = share
    return list(zip(held, means, strict=True)), pairs


def _scores(config: Config, source: str, held: Sequence[Problem]) -> list[list[float]]:
    """Of the answers to each problem."""
    words = Tokenizer.load(config.tokenizer)
    engine = tiny_lock.engine(source, words, slots=config.sampling.slots, length=config.length)
    options: dict[str, Any] = {"sampling": PRESETS["model"], "samples": config.measured}
    answers = ask(engine, words, held, max_tokens=config.sampling.max_tokens, **options)
    return [[float(answer.score or 0.0) for answer in group] for group in answers]


def compared(config: Config, before: Any, after: Any) -> list[dict[str, Any]]:
    """A row for each family, and for the mean of all problems, from what `measure` gave twice."""
    rows = []
    for name in (*config.families, "all"):
        first, second = (
            [score for problem, score in scored if name in (problem.task, "all")]
            for scored, _ in (before, after)
        )
        rise = intervals.paired(first, second)
        rows.append(
            {
                "family": name,
                "group": "" if name == "all" else group_of(name),
                "before": float(np.mean(first)),
                "after": float(np.mean(second)),
                "rise": rise.value,
                "low": rise.low,
                "high": rise.high,
                "n": rise.n,
                "pairs": [pairs.get(name) for _, pairs in (before, after)],
            }
        )
    return rows


def run(config: Config, workdir: str) -> TrainState:
    """Pretrain, fine-tune, measure, GRPO, measure; print the rows of `compared`, also in
    families.json."""
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "tokenizer"
    if not words.exists():
        part = conversations(config, 0, config.examples, 1.0)[::3]
        tiny_problems.tokenizer(words, part, config.model.vocab)
    config = replace(config, tokenizer=str(words))
    start = config.init_from or (taught if config.taught else pretrained)(config, folder)
    path = folder / "problems.jsonl"
    if not path.exists():
        write_problems(path, problems(config, "train", 2, config.drawn))
    held = problems(config, "heldout", 3, config.held)
    before = measure(config, start, held, folder / "before.json")
    state = grpo.run(replace(config, init_from=start, problems=str(path)), workdir)
    after = measure(config, workdir, held, folder / "after.json")
    rows = compared(config, before, after)
    (folder / "families.json").write_text(json.dumps(rows, indent=1))
    for row in rows:
        pairs = "" if None in row["pairs"] else "  pairs {:.0%} -> {:.0%}".format(*row["pairs"])
        print(
            "{family:24} {group:12} {before:6.1%} -> {after:6.1%}  rise {rise:+.1%} "
            "[{low:+.1%}, {high:+.1%}] of {n}".format(**row)
            + pairs
        )
    return state


if __name__ == "__main__":
    main(run, CONFIG)
