"""Stages `student` (off-policy distillation) and, from that one checkpoint and on the same prompts,
`student_kl` (on-policy distillation), `student_control` (the same on the teacher's samples) and
`student_rl` (GRPO): report, 4.5 and Table 21. Each gives pass@k, samples and seconds.
`student_exam` has pass@k of the checkpoint itself: apart, so that nothing waits for it.

GRPO is the teacher's with Muon and a smaller entropy bonus, and without more sampling for groups
that are all right or all wrong: the report names none (LOG.md has all three)."""

from __future__ import annotations

from qwen3.config import OptimConfig
from qwen3.eval import answers
from qwen3.infer.requests import sampling
from qwen3.losses.distill import Distill
from qwen3.recipe.seed_run import ONE, Clock, execution
from qwen3.recipe.stages import measures, post_training
from qwen3.recipe.stages.post_training import HARD, PROMPT, fine_tune, record
from qwen3.recipe.world import exams, sft_data
from qwen3.stages import distill
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.rollouts import Sampling

START = "student"  # the checkpoint that all three start from
# (optimizer, peak rate), of ten settings each on the development problems: LOG.md has the table of
# experiments/tune_students.py. For reward Muon at twice the rate gains half a point of pass@1 and
# loses more of pass@16; a student of 2% loses all reward at either and stops.
REWARD, KL = ("muon", 5e-4), ("muon", 2e-3)
SEQUENCES = 4  # of a step of distillation; of three students two learnt less with 16 (LOG.md)
SHARPEN = EntropyTarget(change=0.002, most=0.02)  # ten times as much gains it nothing (LOG.md)


def measured(run, name):
    return measures.passes(run, run.engine(run.student, run.weights(name)))


def student(run):
    """Fine-tuning on the teacher's own samples, in both modes, right or wrong."""
    file = run.folder(START) / "data" / "teacher.jsonl"
    if not file.exists():
        engine = run.engine(run.teacher, run.weights("general_rl"))
        count = run.budget.rejection
        asked = [
            *exams.training(2 * count // 3, f"teacher/{run.seed}"),
            *exams.training(count // 3, f"teacher/{run.seed}", "no_think"),
        ]
        found = answers.ask(
            engine, asked, how=sampling(), max_tokens=run.budget.answer, seed=run.seed
        )
        rows = [sft_data.from_answer(run.tokenizer, group[0]) for group in found]
        sft_data.write(file, rows)
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


def exam(run):
    return measured(run, START)


def reinforced(run, name="student_rl", settings=REWARD):
    """GRPO on the verifier's reward."""
    made = post_training.reinforced(
        run,
        name,
        run.student,
        run.weights(START),
        run.budget.student_rl,
        settings=settings,
        one_lock=True,
        entropy=SHARPEN,
    )
    return {**made, **measured(run, name)}


def on_policy(run):
    return by_divergence(run, "student_kl", "student")


def control(run):
    return by_divergence(run, "student_control", "teacher")


def by_divergence(run, name, sampled_by, settings=KL):
    """Half reverse, half forward KL to the teacher's full distribution, on the student's samples
    or, as control, on the teacher's; neither verifier nor reward."""
    clock, prompts = Clock(run.path / name), 8 * run.budget.prompts
    steps = prompts // SEQUENCES
    config = distill.Config(
        run.student,
        run.tokenizer_folder,
        str(run.weights("general_rl")),
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
