"""Post-training of the 32B flagship and of the 8B, at full size on TPU v5p (report 4). NOT YET RUN.

The stages in order are the rows of CONFIGS below. What the report gives is kept: the stages, 3,995
prompts and 170 steps of reasoning RL, many tasks in general RL (over 20 there, here all that
`rewards` and `environments` have, and open questions that a reward model scores), both modes in the
distillation. It gives no rates, batches, group sizes or lengths: those here are ours, untested at
this size. Prompt files are what `curate` writes, pairs those of `curate.preference_pairs`.

Command:   python experiments/post_training_full.py cold_start --workdir gs://BUCKET/cold_start \\
               --distributed --set init_from=gs://BUCKET/32b --set tokenizer=/data/tokenizer \\
               --set 'data=["/data/cold_start.jsonl"]'
           from every host of the slice
Hardware:  TPU v5p, 64 chips and more for the 32B (docs/plan.md has what a step needs).
Expected:  not yet run.
"""

from __future__ import annotations

import dataclasses
import sys

from qwen3.run import main
from qwen3 import environments, rewards
from qwen3.config import MeshConfig, OptimConfig
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.model.sizes import size
from qwen3.stages import distill, grpo, reward_model, sft
from qwen3.stages.curriculum import Curriculum
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.groups import Scoring
from qwen3.stages.pair_evaluation import PairEvaluation
from qwen3.stages.prompts import FILE, Share
from qwen3.stages.reward_kinds import REWARD_MODEL, FamilyReward
from qwen3.stages.rollouts import Sampling

LONGEST = 38_912  # tokens of an answer in thinking mode
LENGTH = 40_960
TOKENIZER = "/data/tokenizer"
SPLIT = MeshConfig(fsdp=-1, tensor=4)
DECODE = MeshConfig(
    data=-1, fsdp=1, tensor=8
)  # weights stay where they are: a chip holds an eighth
REMAT = {"remat": "full"}
# At 40,960 tokens attention is two fifths of the 32B's arithmetic, and what it keeps is small.
KEEP_ATTENTION = {"remat": "attention"}
KEEP_PRODUCTS = {"remat": "feed_forward"}  # and the wide products, where memory is left
FLAGGED = {"mode_following"}  # sets the mode itself


def fine_tuning(
    name: str, model: str, steps: int, peak: float, init_from: str, execution: dict[str, str]
) -> sft.Config:
    return sft.Config(
        size(model),
        TOKENIZER,
        (f"/data/{name}.jsonl",),
        steps,
        OptimConfig(peak=peak, final=0.1, warmup=min(50, steps // 10)),
        name=name,
        batch=128,
        microbatches=8,  # one row at a time on each four chips
        length=LENGTH,
        too_long="drop",
        init_from=init_from,
        save_every=200,
        mesh=SPLIT,
        execution=execution,
    )


REASONING = grpo.Config(
    model=size("32b"),
    tokenizer=TOKENIZER,
    tasks=(Share("file"),),
    problems="/data/prompts.jsonl",  # 3,995, by curate.selection
    steps=4 * 170,
    optim=OptimConfig(peak=1e-6, schedule="constant", warmup=0, weight_decay=0.0),
    name="reasoning_rl",
    policy=Grpo(tis_cap=2.0, entropy=True),
    scoring=Scoring(binarise=1.0, overlong=4096),
    sampling=Sampling(samples=16, max_tokens=LONGEST, slots=256),
    entropy=EntropyTarget(start=1.0, end=1.2),
    prompts=256,
    minibatches=4,
    microbatches=64,  # one answer of full length at a time on each four chips
    length=LENGTH,
    init_from="gs://BUCKET/cold_start",
    mesh=SPLIT,
    rollout_mesh=DECODE,
    execution=KEEP_ATTENTION,
)
PREFERENCES = reward_model.Config(
    model=size("32b").replace(scalar_head=True),
    tokenizer=TOKENIZER,
    data=("/data/pairs.jsonl",),
    steps=1000,
    optim=OptimConfig(peak=5e-6, final=0.1, warmup=50),
    batch=64,
    microbatches=4,
    length=16_384,  # pairs of answers without thoughts
    too_long="truncate",
    init_from="gs://BUCKET/fusion",
    save_every=100,
    mesh=SPLIT,
    execution=KEEP_PRODUCTS,
    evaluation=PairEvaluation(held_out=0.02, every=100),
)
BOTH = ("think", "no_think")
GENERAL = grpo.Config(
    **{
        **{name: getattr(REASONING, name) for name in REASONING.__dataclass_fields__},
        "name": "general_rl",
        # Graded rewards are kept as they are, and each family's advantages have one size.
        "scoring": Scoring(scale="family"),
        "tasks": (
            *(
                Share(name, modes=("any",) if name in FLAGGED else BOTH)
                for name in sorted([*rewards.TASKS, *environments.WORLDS])
            ),
            Share(FILE, 4.0, modes=BOTH),
        ),
        "reasoning": 0.5,  # so that the other families do not cost reasoning (Table 22)
        "curriculum": Curriculum(step=0.1),
        "problems": "/data/open_questions.jsonl",  # without a task: only the reward model scores
        "rewards": (FamilyReward("", (REWARD_MODEL,)),),
        "reward_model": "gs://BUCKET/reward_model",
        "steps": 4 * 100,
        "init_from": "gs://BUCKET/fusion",
    }
)
ON_POLICY = distill.Config(
    model=size("8b"),
    tokenizer=TOKENIZER,
    teacher="gs://BUCKET/general_rl",
    tasks=(Share("file", modes=BOTH),),
    problems="/data/prompts.jsonl",
    steps=200,
    optim=OptimConfig(peak=5e-6, schedule="constant", warmup=0, weight_decay=0.0),
    name="on_policy",
    sampling=Sampling(samples=4, max_tokens=LONGEST, slots=256),
    prompts=256,
    microbatches=64,  # as above
    length=LENGTH,
    init_from="gs://BUCKET/off_policy",
    mesh=SPLIT,
    rollout_mesh=DECODE,
    execution=KEEP_PRODUCTS,
)


def of_experts(
    model: str, rows: int, execution: dict[str, str], **layout: MeshConfig
) -> grpo.Config:
    """Reasoning RL of a mixture of experts: ratios of whole answers (GSPO, arXiv 2507.18071), which
    do not depend on how single tokens were routed."""
    return dataclasses.replace(
        REASONING,
        model=size(model),
        name=f"reasoning_rl_{model}",
        policy=preset("gspo", entropy=True),
        init_from=f"gs://BUCKET/cold_start_{model}",
        microbatches=REASONING.prompts
        // REASONING.minibatches
        * REASONING.sampling.samples
        // rows,
        # Where experts are divided, tokens go to them: in the rollouts.
        execution=execution | {"transport": "ring"},
        **layout,
    )


CONFIGS = {
    config.name: config
    for config in (
        fine_tuning("cold_start", "32b", 500, 1e-5, "gs://BUCKET/32b", KEEP_ATTENTION),
        REASONING,
        fine_tuning("fusion", "32b", 1000, 1e-5, "gs://BUCKET/reasoning_rl", KEEP_ATTENTION),
        PREFERENCES,
        GENERAL,
        fine_tuning("off_policy", "8b", 4000, 2e-5, "gs://BUCKET/8b", KEEP_PRODUCTS),
        ON_POLICY,
        of_experts(
            "30b-a3b",
            16,
            KEEP_PRODUCTS,
            rollout_mesh=MeshConfig(data=-1, fsdp=1, expert=8, tensor=4),
        ),
        of_experts(
            "235b-a22b",
            32,
            REMAT,
            mesh=MeshConfig(fsdp=-1, context=4, tensor=4),
            rollout_mesh=MeshConfig(data=-1, fsdp=1, expert=16, tensor=4),
        ),
    )
}
TOPOLOGIES = {name: "v5p:4x4x4" for name in CONFIGS}  # for `qwen3 plan`
TOPOLOGIES["reasoning_rl_235b-a22b"] = "v5p:8x8x8"
TEACHERS = {"on_policy": "32b"}  # sizes of the teachers, for `qwen3 plan`
CONFIG = REASONING
RUNS = {
    sft.Config: sft.run,
    reward_model.Config: reward_model.run,
    grpo.Config: grpo.run,
    distill.Config: distill.run,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in CONFIGS:
        sys.exit(f"which stage? one of {', '.join(CONFIGS)}")
    chosen = CONFIGS[sys.argv[1]]
    main(RUNS[type(chosen)], chosen, sys.argv[2:])
