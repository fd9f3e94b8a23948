"""A reward model learns a planted preference, and RL against it raises the rule that planted it.

The world is the family `planted_style`: a guest, a pilot and a pirate each like one style of
answer, and the rule that says which is known. A model is taught to answer in any of the styles; a
reward model learns from pairs alone which answer each reader prefers; RL then sees the reward
model's scores only. The rule's own score is measured beside them: it is the truth.

Command:   python experiments/tiny_reward_model.py --workdir runs/planted_style [--set seed=1]
Hardware:  one core.
Expected:  accuracy of the reward model on held-out pairs 88% to 95%; the rule's score on held-out
           problems rises from 41, 41 and 48% to 64, 89 and 74% in three seeds. Earlier forms
           lowered it or gave it back (docs/log/2026-11-30-reward-model.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.curate.files import write_conversations, write_problems
from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.grpo_config import Grpo
from qwen3.model.sizes import size
from qwen3.rewards import Problem
from qwen3.rewards.instruction import planted_style
from qwen3.stages import grpo, reward_model, sft
from qwen3.stages.pair_evaluation import PairEvaluation
from qwen3.stages.problem_evaluation import ProblemEvaluation, records
from qwen3.stages.prompts import Share
from qwen3.stages.reward_kinds import FamilyReward
from qwen3.stages.rollouts import Sampling
from qwen3.train.recording import Log
from qwen3.train.state import TrainState

MODEL = size("tiny").replace(layers=2, heads=4, kv_heads=1, head_dim=32, vocab=384)
FAMILY = "planted_style"
KL = 0.05  # coefficient of the KL to the model that RL starts from
ANSWERS, PAIRS, HELD_OUT = 1024, 1024, 128
CONFIG = grpo.Config(
    model=MODEL,
    tokenizer="",  # made of the world's words in the workdir
    tasks=(Share("file"),),
    steps=48,
    optim=OptimConfig(peak=5e-4, final=0.1, warmup=2, schedule="linear", weight_decay=0.0),
    name="general_rl",
    policy=Grpo(old="rollout"),
    sampling=Sampling(samples=8, max_tokens=32, slots=128),
    prompts=16,
    length=112,
    init_from="",  # a model that answers in any style, made in the workdir
    save_every=24,
    execution={"scan": False},
    log=Log(every=5),
    evaluation=ProblemEvaluation(every=12, temperature=1.0),
)
FROM_NOTHING = OptimConfig("muon", peak=5e-3, final=0.05, warmup=20, weight_decay=0.05)
PREFERENCE = OptimConfig(peak=1e-3, final=0.1, warmup=10, weight_decay=0.0)


def run(config: grpo.Config, workdir: str) -> TrainState:
    """Teach the form, train the reward model, then RL against it; print what came of both."""
    folder = Path(workdir)
    data = folder / "data"
    config = replace(
        config,
        tokenizer=_once(data / "tokenizer", _tokenizer),
        problems=_once(data / "train.jsonl", lambda p: write_problems(p, problems(512, "train"))),
    )
    held = _once(data / "held.jsonl", lambda p: write_problems(p, problems(HELD_OUT, "heldout")))
    config = replace(config, evaluation=replace(config.evaluation, problems=held))
    start = config.init_from or taught(config, folder)
    scorer = preferring(config, start, folder)
    # The only reward: the rule is measured, and not trained on.
    rewards = (FamilyReward(FAMILY, ("reward_model",)),)
    config = replace(config, init_from=start, reward_model=scorer, rewards=rewards)
    # A KL to the start keeps the policy where the reward model has seen answers.
    policy = replace(config.policy, kl="k2", kl_coef=KL)
    config = replace(config, policy=policy, reference=start)
    state = grpo.run(config, workdir)
    for name, path in (("reward model, pairs", Path(scorer)), ("RL, rule", folder)):
        for record in records(path):
            bounds = f"[{record['low']:.1%}, {record['high']:.1%}]"
            print(f"{name}: step {record['step']}: {record['score']:.1%} {bounds} of {record['n']}")
    return state


def problems(count: int, split: str, start: int = 0) -> list[Problem]:
    """Questions in English about one fact, without the guide that tells the rule."""
    made: list[Problem] = []
    seed = start
    while len(made) < count:
        problem = planted_style.planted_style.generate(seed, 0.0, split)
        seed += 1
        record = problem.answer
        if record["language"] == "en":
            # Held out are readers, names, things and colours together, not the wording.
            problem = planted_style.problem(
                [tuple(fact) for fact in record["facts"]], 0, record["style"]
            )
            made.append(replace(problem, messages=problem.messages[1:]))
    return made


def taught(config: grpo.Config, folder: Path) -> str:
    """A new model fine-tuned on the right fact, half of the time in a style of its own choice."""
    rng = Random(f"styles/{config.seed}")
    samples = [
        {"messages": [*problem.messages, _reply(problem, _style(problem, rng))]}
        for problem in problems(ANSWERS, "train", 100_000)
    ]
    stage = sft.Config(
        model=config.model,
        tokenizer=config.tokenizer,
        data=(_once(folder / "data" / "form.jsonl", lambda p: write_conversations(p, samples)),),
        steps=200,
        optim=FROM_NOTHING,
        batch=8,
        length=config.length,
        seed=config.seed,
        save_every=200,
        execution=config.execution,
        log=config.log,
    )
    sft.run(stage, str(folder / "taught"))
    return str(folder / "taught")


def preferring(config: grpo.Config, start: str, folder: Path) -> str:
    """A reward model, made of the taught model and of pairs that the planted rule prefers."""
    rng = Random(f"pairs/{config.seed}")
    rows = []
    for problem in problems(PAIRS, "train", 200_000):
        chosen, other_style = planted_style.preference(problem, rng)
        # Wrong facts too, and such as are wrong in one word, or the policy would find those.
        misses = (planted_style.guess(problem, rng), near_miss(problem, rng))
        rejected = rng.choice((other_style, *misses))
        rows.append({"prompt": problem.messages, "chosen": chosen, "rejected": rejected})
    stage = reward_model.Config(
        model=config.model.replace(scalar_head=True),
        tokenizer=config.tokenizer,
        data=(_once(folder / "data" / "pairs.jsonl", lambda p: write_rows(p, rows)),),
        steps=200,
        optim=PREFERENCE,
        batch=8,
        length=2 * config.length,
        seed=config.seed,
        init_from=start,
        save_every=200,
        execution=config.execution,
        log=config.log,
        evaluation=PairEvaluation(held_out=0.15, every=100),
    )
    reward_model.run(stage, str(folder / "reward_model"))
    return str(folder / "reward_model")


def near_miss(problem: Problem, rng: Random) -> str:
    """The answer that the reader prefers, but of another person, thing or colour."""
    record, language = problem.answer, "en"
    others = {
        "name": planted_style.NAMES,
        "thing": planted_style.THINGS[language],
        "colour": planted_style.COLOURS[language],
    }
    part = "colour" if record["style"] == "brief" else rng.choice(sorted(others))
    word = rng.choice([word for word in others[part] if word != record["fact"][part]])
    changed = replace(problem, answer={**record, "fact": {**record["fact"], part: word}})
    return planted_style.styled(changed, record["style"])


STYLES = list(planted_style.STYLES["en"])


def _style(problem: Problem, rng: Random) -> str:
    """The reader's style for every second answer: of the others one in three has it by chance."""
    return problem.answer["style"] if rng.random() < 0.25 else rng.choice(STYLES)


def _reply(problem: Problem, style: str) -> dict[str, Any]:
    return {"role": "assistant", "content": planted_style.styled(problem, style)}


def _tokenizer(folder: Path) -> None:
    """A tokenizer of the world's words."""
    texts: list[str] = ["user\nassistant\nsystem\n"]
    for problem in problems(400, "train"):
        texts += [problem.messages[-1]["content"]]
        texts += [planted_style.styled(problem, style) for style in STYLES]
    Tokenizer.train(texts, MODEL.vocab - 32).save(folder)


def _once(path: Path, make: Callable[[Path], Iterable | None]) -> str:
    """The path as text, made if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    return str(path)


if __name__ == "__main__":
    main(run, CONFIG)
