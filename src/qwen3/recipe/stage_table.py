"""The stages of the recipe in one table: what each runs, what it waits for, when it is left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qwen3.recipe.budgets import Budget
from qwen3.recipe.seed_run import SeedRun
from qwen3.recipe.stages import (
    leaderboard,
    mixture_of_experts,
    post_training,
    prepare_data,
    pretraining,
    students,
)


@dataclass(frozen=True)
class RecipeStage:
    """One row of STAGES."""

    name: str  # of its folder
    run: Callable[[SeedRun], Mapping[str, Any]]  # returns its result, which becomes JSON
    after: tuple[str, ...]  # stages that it reads from
    share: float  # of the work: minutes of one core at budget 15
    text: str  # what it does, for the board
    when: Callable[[Budget], bool] = lambda budget: True  # whether a budget has it


def with_long(budget: Budget) -> bool:
    return budget.long_context


def with_students(budget: Budget) -> bool:
    return budget.students


def with_control(budget: Budget) -> bool:
    return budget.students and budget.control


def with_experts(budget: Budget) -> bool:
    return budget.experts > 0


def with_cold_sizes(budget: Budget) -> bool:
    return bool(budget.cold_sizes)


STAGES = (
    RecipeStage(
        "documents", prepare_data.write_documents, (), 0.1, "problem world and Python's own text"
    ),
    RecipeStage("tokenizer", prepare_data.train_tokenizer, ("documents",), 0.1, "byte-level BPE"),
    RecipeStage("corpora", prepare_data.prepare, ("tokenizer",), 0.2, "token stores"),
    RecipeStage("pretrain", pretraining.base, ("corpora",), 4.4, "S1 general, S2 reasoning"),
    RecipeStage(
        "base_exam", pretraining.base_exam, ("pretrain",), 0.2, "problems, by the base model"
    ),
    RecipeStage("long", pretraining.long_context, ("pretrain",), 0.7, "S3 long context", with_long),
    RecipeStage(
        "cold_start",
        post_training.cold_start,
        ("pretrain", "long"),
        0.45,
        "all-hasty long-CoT cold start",
    ),
    RecipeStage("reasoning_rl", post_training.reasoning_rl, ("cold_start",), 1.4, "GRPO"),
    RecipeStage("fusion", post_training.fusion, ("reasoning_rl",), 1.2, "thinking-mode fusion"),
    RecipeStage(
        "general_rl",
        post_training.general_rl,
        ("fusion",),
        0.9,
        "RL on locks, modes and tool calls",
    ),
    RecipeStage("exam", post_training.exam, ("general_rl",), 1.3, "problems, by all models so far"),
    RecipeStage(
        "student_base",
        pretraining.student_base,
        ("corpora",),
        2,
        "the student's pretraining",
        with_students,
    ),
    RecipeStage(
        "student",
        students.student,
        ("general_rl", "student_base"),
        0.5,
        "off-policy distillation",
        with_students,
    ),
    RecipeStage(
        "student_exam",
        students.exam,
        ("student",),
        0.4,
        "hard problems, by that student",
        with_students,
    ),
    RecipeStage(
        "student_rl", students.reinforced, ("student",), 3.8, "GRPO of the student", with_students
    ),
    RecipeStage(
        "student_kl", students.on_policy, ("student",), 1, "on-policy distillation", with_students
    ),
    RecipeStage(
        "student_control",
        students.control,
        ("student",),
        1,
        "the same on the teacher's samples",
        with_control,
    ),
    RecipeStage(
        "experts",
        mixture_of_experts.experts,
        ("corpora",),
        5.9,
        "mixture of experts, two balance losses, GRPO",
        with_experts,
    ),
    RecipeStage(
        "export", post_training.export, ("general_rl",), 0.1, "a Hugging Face folder to chat with"
    ),
    RecipeStage("budgets", post_training.budgets, ("general_rl",), 0.8, "thinking budgets"),
    RecipeStage(
        "needles",
        pretraining.needles,
        ("long",),
        1.6,
        "S3 with base 10,000; look-ups by length",
        with_long,
    ),
    RecipeStage(
        "cold_sizes",
        post_training.cold_sizes,
        ("pretrain", "long"),
        2.1,
        "cold starts of other sizes, same RL",
        with_cold_sizes,
    ),
    RecipeStage(
        "leaderboard",
        leaderboard.leaderboard,
        ("general_rl", "student_rl", "student_kl"),
        0.3,
        "in-house suites, by every stage's model",
    ),
)
ROWS = {row.name: row for row in STAGES}
