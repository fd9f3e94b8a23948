"""Strong-to-weak distillation beside RL, from one student (arXiv 2505.09388, 4.5 and Table 21).

Stage `student` is off-policy distillation. From that one checkpoint and on the same prompts start
`student_kl` (on-policy distillation), `student_control` (the same on the teacher's samples) and
`student_rl` (GRPO); each reports pass@k, samples and seconds. `student_exam` has pass@k of the
checkpoint itself: apart, so that nothing waits for it.

The student's GRPO is the teacher's with Muon, a smaller entropy bonus, and without more sampling
for groups that are all right or all wrong, of which the report says nothing
(docs/log/2026-11-28-dynamic-sampling.md).
"""

from __future__ import annotations

from typing import Any

from qwen3.config import OptimConfig
from qwen3.infer.requests import sampling
from qwen3.losses.distill import Distill
from qwen3.recipe.seed_run import ONE, Clock, SeedRun, execution
from qwen3.recipe.stages import measures, post_training
from qwen3.recipe.stages.post_training import HARD, PROMPT, fine_tune, record
from qwen3.recipe.world import exams, sft_data
from qwen3.stages import distill
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.rollouts import Sampling

START = "student"  # the checkpoint that all three start from
# (optimizer, peak rate), of ten settings each on the development problems:
# docs/log/2026-11-29-rates-tuned-alike.md has the table of experiments/tune_students.py. For reward
# Muon at twice the rate gains half a point of pass@1 and loses more of pass@16; a student of 2%
# loses all reward at either and stops.
REWARD, KL = ("muon", 5e-4), ("muon", 2e-3)
# Sequences of a step of distillation; of three students two learnt less with 16
# (docs/log/2026-11-28-distillation-in-small-steps.md).
SEQUENCES = 4
# Ten times as much gains the student nothing (docs/log/2026-11-28-student-lacks-operations.md).
SHARPEN = EntropyTarget(change=0.002, most=0.02)


def measured(run: SeedRun, name: str) -> dict[str, Any]:
    """pass@k of the student of a stage."""
    return measures.passes(run, run.engine(run.student, run.weights(name)))


def student(run: SeedRun) -> dict[str, Any]:
    """Fine-tuning on the teacher's own samples, in both modes, right or wrong."""
    file = run.folder(START) / "data" / "teacher.jsonl"
    if not file.exists():
        engine = run.engine(run.teacher, run.weights("general_rl"))
        count = run.budget.rejection
        problems = [
            *exams.training(2 * count // 3, f"teacher/{run.seed}"),
            *exams.training(count // 3, f"teacher/{run.seed}", "no_think"),
        ]
        groups = measures.ask(run, engine, problems, sampling=sampling(), seed=run.seed)
        sft_data.write(file, [sft_data.from_answer(group[0]) for group in groups])
    fine_tune(
        run,
        run.student,
        START,
        [str(file)],
        run.budget.off_policy,
        init_from=run.weights("student_base"),
        seed=1000,
    )
    return {"rows": file.read_text().count("\n")}


def exam(run: SeedRun) -> dict[str, Any]:
    return measured(run, START)


def reinforced(
    run: SeedRun, name: str = "student_rl", settings: tuple[str, float] = REWARD
) -> dict[str, Any]:
    """GRPO on the verifier's reward. settings: optimizer and peak rate."""
    trained = post_training.reinforced(
        run,
        name,
        run.student,
        run.weights(START),
        run.budget.student_rl,
        settings=settings,
        one_lock=True,
        entropy=SHARPEN,
    )
    return {**trained, **measured(run, name)}


def on_policy(run: SeedRun) -> dict[str, Any]:
    return by_divergence(run, "student_kl", "student")


def control(run: SeedRun) -> dict[str, Any]:
    return by_divergence(run, "student_control", "teacher")


def by_divergence(
    run: SeedRun, name: str, sampled_by: str, settings: tuple[str, float] = KL
) -> dict[str, Any]:
    """Half reverse, half forward KL to the teacher's full distribution, on the student's samples
    or, as control, on the teacher's; neither verifier nor reward."""
    clock, prompts = Clock(run.path / name), 8 * run.budget.prompts
    steps = prompts // SEQUENCES
    config = distill.Config(
        run.student,
        run.tokenizer_folder,
        (HARD,),
        steps * run.budget.on_policy,
        OptimConfig(
            *settings,
            final=0.1,
            warmup=min(8, run.budget.on_policy),
            schedule="linear",
            weight_decay=0.0,
        ),
        name=name,
        teacher=str(run.weights("general_rl")),
        divergence=Distill("mix", forward_weight=0.5),
        sampled_by=sampled_by,
        sampling=Sampling(samples=1, max_tokens=run.budget.rollout, slots=run.budget.slots),
        prompts=prompts,
        minibatches=steps,
        length=PROMPT + run.budget.rollout,
        seed=run.seed,
        init_from=str(run.weights(START)),
        save_every=5 * steps,
        mesh=ONE,
        execution=execution(run.student),
    )
    run.train(distill, name, config)
    return {**clock.cost, **record(run.path / name), **measured(run, name)}
