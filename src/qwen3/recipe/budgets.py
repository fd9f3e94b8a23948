"""What a budget buys: steps, problems and samples of every stage, by minutes on two cores."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """One row of BUDGETS: the sizes of all stages.

    Steps are optimizer steps; those of RL and on-policy distillation are sets of rollouts.
    """

    minutes: float  # on two cores, by which the budget is named
    slots: int = 128  # answers decoded together
    answer: int = 200  # longest answer in evaluations, tokens
    rollout: int = 128  # longest answer in RL and on-policy distillation, tokens
    vocab: int = 768  # of the tokenizer that is trained
    chinese: float = 0.25  # share of Chinese among problems of several locks
    several: float = 0.2  # share of problems of several locks after pretraining
    documents: int = 5000  # of each part of the world
    general: int = 2600  # steps of S1
    reasoning: int = 3400  # steps of S2
    long: int = 400  # steps of S3
    cold_start: int = 250  # steps
    cold_problems: int = 512  # problems of the cold start
    grpo: int = 36  # reasoning RL: sets of rollouts, two steps each
    group: int = 16  # answers a prompt in RL (GRPO's G)
    prompts: int = 16  # prompts in a set of rollouts
    fusion: int = 700  # steps
    rejection: int = 768  # problems that rejection sampling asks
    general_rl: int = 12  # sets of rollouts
    student_general: int = 2000  # steps of the student's S1
    student_reasoning: int = 1400  # steps of the student's S2
    off_policy: int = 200  # steps of fine-tuning on the teacher's samples
    on_policy: int = 24  # sets of rollouts in on-policy distillation
    student_rl: int = 125  # sets of rollouts in the student's GRPO
    experts: int = 260  # steps of S1, and of S2, with and without experts; 0: not run
    expert_rl: int = 10  # sets of rollouts in the GRPO of dense model and mixture
    cold_sizes: tuple[int, ...] = (1000,)  # steps of other cold starts, compared after the same RL
    tests: int = 300  # held-out problems of an evaluation
    dialogues: int = 256  # of ThinkFollow
    needles: int = 48  # of each length
    hard: int = 500  # problems of pass@k
    samples: int = 16  # answers a hard problem; the largest k of pass@k
    long_context: bool = True  # whether S3 is run
    students: bool = True  # whether strong-to-weak distillation is run
    control: bool = True  # whether distillation on the teacher's samples is run too
    budgets: tuple[int, ...] = (0, 8, 16, 24, 32, 48, 64, 96)  # thinking budgets, tokens
    lengths: tuple[int, ...] = (80, 160, 320, 640, 1280)  # of needle documents, tokens
    model: str = "tiny"  # the teacher's size, of `model.sizes.SIZES`


BUDGETS: dict[float, Budget] = {
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


def budget_of(minutes: float) -> Budget:
    """The budget of that name. Raises ValueError, naming the known ones, for another number."""
    if minutes not in BUDGETS:
        known = ", ".join(f"{name:g}" for name in BUDGETS)
        raise ValueError(f"--budget {minutes:g}: give one of {known} (minutes)")
    return BUDGETS[minutes]
