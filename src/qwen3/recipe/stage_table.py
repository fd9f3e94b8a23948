"""The stages of the recipe in one table: what each runs, what it waits for, when it is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from qwen3.recipe.stages import (
    mixture_of_experts,
    post_training,
    prepare_data,
    pretraining,
    students,
)


@dataclasses.dataclass(frozen=True)
class Row:
    """name: of the folder. after: stages that it reads from. share: of the work (minutes of a core
    at budget 15). when: whether a plan has it."""

    name: str
    run: Callable
    after: tuple[str, ...]
    share: float
    text: str
    when: Callable = lambda budget: True


def students_too(budget):
    return budget.students


def long_too(budget):
    return budget.long_context


STAGES = (
    Row("documents", prepare_data.write_documents, (), 0.1, "problem world and Python's own text"),
    Row("tokenizer", prepare_data.tokenizer, ("documents",), 0.1, "byte-level BPE"),
    Row("corpora", prepare_data.prepare, ("tokenizer",), 0.2, "token stores"),
    Row("pretrain", pretraining.base, ("corpora",), 4.4, "S1 general, S2 reasoning"),
    Row("base_exam", pretraining.base_exam, ("pretrain",), 0.2, "problems, by the base model"),
    Row("long", pretraining.long_context, ("pretrain",), 0.7, "S3 long context", long_too),
    Row(
        "cold_start",
        post_training.cold_start,
        ("pretrain", "long"),
        0.45,
        "all-hasty long-CoT cold start",
    ),
    Row("reasoning_rl", post_training.reasoning_rl, ("cold_start",), 1.4, "GRPO"),
    Row("fusion", post_training.fusion, ("reasoning_rl",), 1.2, "thinking-mode fusion"),
    Row(
        "general_rl",
        post_training.general_rl,
        ("fusion",),
        0.9,
        "RL on locks, modes and tool calls",
    ),
    Row("exam", post_training.exam, ("general_rl",), 1.3, "problems, by all models so far"),
    Row(
        "student_base",
        pretraining.student_base,
        ("corpora",),
        2,
        "the student's pretraining",
        students_too,
    ),
    Row(
        "student",
        students.student,
        ("general_rl", "student_base"),
        0.5,
        "off-policy distillation",
        students_too,
    ),
    Row(
        "student_exam",
        students.exam,
        ("student",),
        0.4,
        "hard problems, by that student",
        students_too,
    ),
    Row("student_rl", students.reinforced, ("student",), 3.8, "GRPO of the student", students_too),
    Row("student_kl", students.on_policy, ("student",), 1, "on-policy distillation", students_too),
    Row(
        "student_control",
        students.control,
        ("student",),
        1,
        "the same on the teacher's samples",
        lambda budget: budget.students and budget.control,
    ),
    Row(
        "experts",
        mixture_of_experts.experts,
        ("corpora",),
        5.9,
        "mixture of experts, two balance losses, GRPO",
        lambda budget: bool(budget.experts),
    ),
    Row("export", post_training.export, ("general_rl",), 0.1, "a Hugging Face folder to chat with"),
    Row("budgets", post_training.budgets, ("general_rl",), 0.8, "thinking budgets"),
    Row(
        "needles",
        pretraining.needles,
        ("long",),
        1.6,
        "S3 with base 10,000; look-ups by length",
        long_too,
    ),
    Row(
        "cold_sizes",
        post_training.cold_sizes,
        ("pretrain", "long"),
        2.1,
        "cold starts of other sizes, same RL",
        lambda budget: bool(budget.cold_sizes),
    ),
)
ROWS = {row.name: row for row in STAGES}
