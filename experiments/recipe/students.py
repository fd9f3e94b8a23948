"""Stage `student`: off-policy distillation, then from that one checkpoint on-policy distillation
beside GRPO (report, 4.5 and Table 21), on the same prompts."""

from __future__ import annotations

from qwen3.config import OptimConfig
from qwen3.eval import answers
from qwen3.infer.requests import sampling
from qwen3.losses.distill import Distill
from qwen3.stages import distill
from qwen3.stages.rollouts import Sampling
from recipe import conversations, exams, measures
from recipe.context import EXECUTION, ONE, SLOTS, Clock
from recipe.post_training import HARD, LONGEST, MOST, fine_tune, record, reinforced


def student(run):
    """pass@k, samples and seconds of the start, of both methods, and of the control."""
    off_policy(run)
    found = {"start": measured(run, "student/off_policy")}
    found["kl"] = by_divergence(run, "student/kl", "student")
    if run.plan.control:
        found["control"] = by_divergence(run, "student/control", "teacher")
    clock = Clock()
    made = reinforced(
        run, "student/rl", run.student, run.path / "student" / "off_policy", run.plan.student_rl,
        peak=2.5e-4, evaluate=False, one_lock=True,
    )  # fmt: skip
    found["rl"] = {**made, "seconds": clock.seconds, **measured(run, "student/rl")}
    return found


def measured(run, name):
    return measures.passes(run, run.engine(run.student, run.weights(name)))


def off_policy(run):
    """Fine-tuning on the teacher's own samples, in both modes, right or wrong."""
    folder = run.path / "student" / "data"
    file = folder / "teacher.jsonl"
    if not file.exists():
        engine = run.engine(run.teacher, run.weights("general_rl"))
        count = run.plan.rejection
        asked = [*exams.training(2 * count // 3, f"teacher/{run.seed}"),
                 *exams.training(count // 3, f"teacher/{run.seed}", "no_think")]  # fmt: skip
        found = answers.ask(engine, asked, how=sampling(), max_tokens=measures.MOST, seed=run.seed)
        rows = [conversations.from_answer(run.tokenizer, group[0]) for group in found]
        conversations.write(file, rows)
    fine_tune(
        run, run.student, "student/off_policy", [str(file)], run.plan.off_policy,
        init_from=run.path / "student_base", seed=1000,
    )  # fmt: skip


def by_divergence(run, name, sampled_by):
    """Half reverse, half forward KL to the teacher's full distribution, on the student's samples
    or, as control, on the teacher's; neither verifier nor reward."""
    clock = Clock()
    config = distill.Config(
        run.student, run.tokenizer_folder, str(run.weights("general_rl")), (HARD,),
        8 * run.plan.on_policy,
        OptimConfig(peak=1e-3, final=0.1, warmup=min(8, run.plan.on_policy), schedule="linear",
                    weight_decay=0.0),
        name=name, divergence=Distill("mix", forward_weight=0.5), sampled_by=sampled_by,
        sampling=Sampling(samples=1, max_tokens=MOST, slots=SLOTS), prompts=128, minibatches=8,
        length=LONGEST, seed=run.seed, init_from=str(run.path / "student" / "off_policy"),
        save_every=40, mesh=ONE, execution=EXECUTION,
    )  # fmt: skip
    distill.run(config, str(run.folder(name)))
    return {"seconds": clock.seconds, **record(run.path / name), **measured(run, name)}
