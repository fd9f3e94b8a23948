"""What a budget buys: steps, problems and samples of every stage, by minutes on two cores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One row of PLANS. Steps are optimizer steps for supervised stages, rollout batches for RL.

    slots: answers decoded together; answer, rollout: tokens of one at most, in evaluations and in
    training. documents: of each part of the world. students, experts: whether the second half of
    the recipe (strong-to-weak distillation, mixtures of experts) is run. tests: held-out problems
    of an evaluation; hard: those of pass@k, with `samples` samples each. several: share of problems
    of several locks after pretraining; chinese: of these, in Chinese.
    """

    minutes: float
    slots: int = 128
    answer: int = 200
    rollout: int = 128
    vocab: int = 768
    chinese: float = 0.25
    several: float = 0.2
    documents: int = 5000
    general: int = 2600
    reasoning: int = 3400
    long: int = 400
    cold_start: int = 250
    cold_problems: int = 512
    grpo: int = 36
    group: int = 16
    prompts: int = 16
    fusion: int = 700
    rejection: int = 768
    general_rl: int = 12
    student_general: int = 2000
    student_reasoning: int = 1400
    off_policy: int = 200
    on_policy: int = 24
    student_rl: int = 125
    experts: int = 260
    expert_rl: int = 10
    cold_sizes: tuple[int, ...] = (1000,)
    tests: int = 300
    dialogues: int = 256
    needles: int = 48
    hard: int = 500
    samples: int = 16
    long_context: bool = True
    students: bool = True
    control: bool = True
    budgets: tuple[int, ...] = (0, 8, 16, 24, 32, 48, 64, 96)
    lengths: tuple[int, ...] = (80, 160, 320, 640, 1280)
    model: str = "tiny"


BUDGETS = {
    # One step of every stage and answers of 16 tokens: for a large checkpoint, and for tests.
    0: Budget(
        0,
        slots=8,
        answer=16,
        rollout=16,
        documents=200,
        general=1,
        reasoning=1,
        long=1,
        cold_start=1,
        cold_problems=24,
        grpo=1,
        group=4,
        prompts=4,
        fusion=1,
        rejection=12,
        general_rl=1,
        student_general=1,
        student_reasoning=1,
        off_policy=1,
        on_policy=1,
        student_rl=1,
        experts=1,
        expert_rl=1,
        cold_sizes=(2,),
        tests=4,
        dialogues=4,
        needles=2,
        hard=2,
        samples=2,
        budgets=(0, 2, 4, 8, 12),
        lengths=(128, 640),
    ),
    # A trial: a few steps of every stage, for new input or a new machine. Its numbers mean nothing.
    1: Budget(
        1,
        documents=300,
        general=10,
        reasoning=10,
        long=4,
        cold_start=6,
        cold_problems=48,
        grpo=1,
        group=4,
        prompts=4,
        fusion=6,
        rejection=24,
        general_rl=1,
        student_general=6,
        student_reasoning=6,
        off_policy=4,
        on_policy=1,
        student_rl=1,
        experts=0,
        cold_sizes=(),
        control=False,
        tests=12,
        dialogues=8,
        needles=4,
        hard=4,
        samples=4,
        budgets=(0, 8, 16, 24, 32),
        lengths=(160, 640),
    ),
    5: Budget(
        5,
        chinese=0.0,
        several=0.0,
        documents=2500,
        general=1500,
        reasoning=1200,
        cold_start=150,
        grpo=15,
        fusion=120,
        rejection=384,
        general_rl=6,
        tests=150,
        dialogues=128,
        long_context=False,
        students=False,
        experts=0,
        cold_sizes=(),
        budgets=(0, 12, 24, 48, 96),
    ),
    15: Budget(15),
    60: Budget(
        60,
        chinese=0.2,
        several=0.3,
        documents=12_000,
        general=5000,
        reasoning=10_000,
        long=600,
        cold_start=400,
        grpo=100,
        fusion=800,
        rejection=1536,
        general_rl=60,
        student_general=3000,
        student_reasoning=2400,
        on_policy=48,
        student_rl=300,
        experts=2500,
        cold_sizes=(60, 1200),
        tests=600,
        dialogues=512,
        needles=256,
        hard=500,
    ),
}


def budget_of(budget: float) -> Budget:
    """The row of `budget` minutes. ValueError naming those there are."""
    if budget not in BUDGETS:
        raise ValueError(f"--budget {budget:g}: there are {', '.join(map(str, BUDGETS))} (minutes)")
    return BUDGETS[budget]
