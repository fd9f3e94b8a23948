"""General RL over families of problems (report 4.4) in small: one model, one mixture, one run.

A fresh 0.3M model is fine-tuned on the oracles' answers to easy problems of 14 families, two of
them worlds of several turns, and on looking up words, which every family needs. GRPO on the
mixture of all families, twins of a pair drawn together, follows. What is printed are scores at
temperature 1 on problems that neither training saw, per family and in the mean, before and after,
with the 95% interval of their difference over problems, and the share of pairs of which both
problems are right. `right` below 1 teaches answers of policies that know the form only besides.

Command:   python experiments/tiny_families.py --workdir runs/families [--set seed=1]
Hardware:  two cores.
Expected:  not yet run to its end (docs/log/2026-11-30-families-without-look-ups.md).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from qwen3.run import main
from qwen3 import environments
from qwen3.config import OptimConfig
from qwen3.curate.files import write_problems
from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments import World
from qwen3.environments.episode_answers import ask
from qwen3.environments.scripted import dialogue
from qwen3.eval import intervals
from qwen3.infer.requests import PRESETS
from qwen3.losses.grpo_config import Grpo
from qwen3.rewards import Problem, Task
from qwen3.rewards.pairs import pair_accuracy
from qwen3.rewards.task import in_split
from qwen3.stages import grpo, sft
from qwen3.stages.prompts import Share, group_of
from qwen3.stages.rollouts import Sampling
from qwen3.train.state import TrainState

import tiny_lock

FAMILIES = (
    *("length_control", "answer_language"),  # instruction
    "exact_stop",  # format
    "planted_style",  # preference
    *("tool_call", "irrelevant_tool", "missing_argument", "key_value", "late_requests"),  # agent
    *("grounded_answer", "abstention", "counterfactual_context"),  # special
    *("lock_digits", "bracket_completion"),  # reasoning
)
LONGEST = 200  # characters of an oracle's answer to a problem of one turn
LENGTH = 512  # tokens of a row: an episode with its tools


@dataclass(frozen=True)
class Config(grpo.Config):
    """Settings of GRPO, and of what it starts from and is measured by."""

    families: tuple[str, ...] = FAMILIES  # of the mixture
    examples: int = 800  # of each family for fine-tuning
    look_ups: int = 8000  # examples of looking up words besides
    taught: int = 2000  # steps of fine-tuning
    right: float = 1.0  # share of the families' answers that are right
    drawn: int = 200  # problems of each family for RL
    held: int = 96  # problems of each family that are measured
    measured: int = 1  # answers to each of them


CONFIG = Config(
    name="families",
    model=tiny_lock.MODEL.replace(kv_heads=2, vocab=1280, rope_theta=1e4),
    tokenizer="",  # made in the workdir
    tasks=(Share("file", twins=True),),
    steps=40,
    optim=OptimConfig(peak=5e-4, final=0.1, warmup=2, schedule="linear", weight_decay=0.0),
    policy=Grpo(old="rollout"),
    sampling=Sampling(samples=8, max_tokens=160, slots=128),
    prompts=28,
    minibatches=2,
    length=LENGTH,
    save_every=20,
    execution=tiny_lock.EXECUTION,
)


def units(name: str, split: str, seed: int) -> Iterator[list[Problem]]:
    """Easy problems of a family in English, twins together, without end. The splits share no
    problem, but the wordings, which are those of training."""
    family = environments.get(name)
    size = 1 + family.paired
    for number in range(seed * 10**6, (seed + 1) * 10**6):
        unit = [family.generate(size * number + side, 0.0) for side in range(size)]
        texts = [str((problem.messages, problem.tools)) for problem in unit]
        if in_split(str(texts), split) and all(map(_fits, unit)):
            yield [_in_mode(problem) for problem in unit]


def _fits(problem: Problem) -> bool:
    family = environments.get(problem.task)
    content = " ".join(message["content"] for message in problem.messages)
    if isinstance(family, World):
        return content.isascii()
    answer = family.solve(problem)[1]
    return content.isascii() and len(answer) <= LONGEST


def _in_mode(problem: Problem) -> Problem:
    """Episodes with thinking; single answers without, unless the problem asks for a mode."""
    is_world = problem.task in environments.WORLDS
    if problem.mode != "any":
        return problem
    return problem.flagged("think" if is_world else "no_think")


def problems(config: Config, split: str, seed: int, count: int) -> list[Problem]:
    """At least `count` problems of each family, twins together."""
    drawn: list[Problem] = []
    for name in config.families:
        size = 1 + environments.get(name).paired
        for unit in islice(units(name, split, seed), -(-count // size)):
            drawn += unit
    return drawn


def answered(problem: Problem, rng: Random, is_right: bool) -> dict[str, Any]:
    """A conversation with the oracle's answer, or one of a policy that knows the form only."""
    family = environments.get(problem.task)
    if isinstance(family, World):
        script = family.solve(problem) if is_right else family.guess(problem, rng)
        return dialogue(family, problem, script, "Next.").conversation()
    thinking, answer = family.solve(problem)
    if not is_right:
        answer = _wrong(family, problem, rng)
    reply = {"role": "assistant", "content": answer}
    if problem.mode == "think":
        reply["reasoning_content"] = thinking
    return {"messages": [*problem.messages, reply], "tools": problem.tools}


def _wrong(family: Task, problem: Problem, rng: Random) -> str:
    if family.name == "length_control":  # guesses run to 200 words: one of any other length
        n = max(1, round(problem.answer["n"] * rng.uniform(0.3, 1.7)))
        return family.solve(replace(problem, answer={**problem.answer, "n": n}))[1]
    return family.guess(problem, rng)


def conversations(config: Config) -> list[dict[str, Any]]:
    """For fine-tuning, in a mixed order."""
    rng = Random(f"conversations/{config.seed}")
    every = problems(config, "train", 3 * config.seed + 1, config.examples)
    taught = [answered(problem, rng, rng.random() < config.right) for problem in every]
    words = words_of(every)
    taught += [look_up(rng, words) for _ in range(config.look_ups)]
    rng.shuffle(taught)
    return taught


def words_of(problems: Sequence[Problem]) -> list[str]:
    """All words that the problems' messages hold."""
    text = " ".join(m["content"] for problem in problems for m in problem.messages)
    return sorted(set(re.findall(r"[A-Za-z]+", text)))


def look_up(rng: Random, words: Sequence[str]) -> dict[str, Any]:
    """Pairs of words and numbers, to be said in another order: every word of the answer is one
    that must be looked up, which a new model learns from sooner than from one word in a text."""
    keys = rng.sample(words, rng.randint(3, 7))
    pairs = {key: rng.choice((rng.choice(words), str(rng.randint(0, 999)))) for key in keys}
    order = rng.sample(keys, len(keys))
    listed = ", ".join(f"{key} {value}" for key, value in pairs.items())
    said = ", ".join(f"{key} {pairs[key]}" for key in order)
    question = f"{listed}. What about {', '.join(order)}? /no_think"
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return {"messages": messages, "tools": None}


def tokenizer(config: Config, folder: Path) -> str:
    """The folder of a tokenizer, trained on 100 conversations of each family if it is not there."""
    if not (folder / "tokenizer.json").exists():
        part = conversations(replace(config, examples=100, look_ups=500))
        texts = [chat.render(each["messages"], tools=each["tools"]) for each in part]
        Tokenizer.train(texts, config.model.vocab).save(folder)
    return str(folder)


def taught(config: Config, folder: Path) -> str:
    """A new model, fine-tuned on answers half of which are right."""
    stage = sft.Config(
        model=config.model,
        tokenizer=config.tokenizer,
        data=(tiny_lock.once(folder / "taught.jsonl", lambda: conversations(config)),),
        steps=config.taught,
        optim=replace(tiny_lock.FROM_NOTHING, eps=1e-3, warmup=min(50, config.taught // 4)),
        name="taught",
        batch=4,
        length=config.length,
        seed=config.seed,
        execution=config.execution,
        log=tiny_lock.LOG,
        save_every=200,
    )
    fresh = tiny_lock.fresh(folder / "fresh", stage)
    sft.run(replace(stage, init_from=fresh), str(folder / "taught"))
    return str(folder / "taught")


Scored = list[tuple[Problem, float]]  # a problem and the mean score of its answers


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
    """Fine-tune, measure, GRPO, measure; print the rows of `compared`, also in families.json."""
    folder = Path(workdir)
    config = replace(config, tokenizer=tokenizer(config, folder / "tokenizer"))
    start = config.init_from or taught(config, folder)
    path = folder / "problems.jsonl"
    if not path.exists():
        write_problems(path, problems(config, "train", 3 * config.seed + 2, config.drawn))
    held = problems(config, "heldout", 3 * config.seed + 3, config.held)
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
