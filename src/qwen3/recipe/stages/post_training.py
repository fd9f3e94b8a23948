"""Post-training of the teacher (arXiv 2505.09388, 4.1 to 4.4) and what its models are measured by.

Stages `cold_start`, `reasoning_rl`, `fusion`, `general_rl`, `exam`, `export`, `budgets`,
`cold_sizes`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from qwen3.config import OptimConfig
from qwen3.curate.files import write_problems
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import sampling
from qwen3.losses.grpo import Grpo
from qwen3.model.sizes import ModelConfig
from qwen3.recipe.seed_run import LOG, ONE, UNTRAINED, Clock, SeedRun, execution, logged
from qwen3.recipe.stages import measures
from qwen3.recipe.world import exams, own_input, sft_data, tools
from qwen3.rewards.locks import dialogues
from qwen3.stages import grpo, sft
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.groups import NothingToLearn, Refill, Scoring
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling
from qwen3.stages.start import parameters
from qwen3.train.checkpoint import steps_in

LENGTH = 320  # tokens of a fine-tuning row: a call with its list of tools has up to 310
PROMPT, MIXED = 96, 320  # tokens of a prompt: a problem; a dialogue, or a list of tools
# Of the first step's entropy, before anything is learnt (docs/log/2026-11-29-entropy-held.md).
LEVEL = EntropyTarget(start=0.9, end=0.9, change=0.0075, most=0.15)
HARD = Share("lock", difficulty=(0.2, 1.0), modes=("think",))  # locks of two to six days


def fine_tune(
    run: SeedRun,
    model: ModelConfig,
    name: str,
    data: Sequence[str],
    steps: int,
    *,
    init_from: str | Path,
    seed: int = 0,
) -> None:
    """Supervised fine-tuning on files of conversations, into the folder of the stage."""
    config = sft.Config(
        model,
        run.tokenizer_folder,
        tuple(data),
        steps,
        OptimConfig(peak=1e-3, final=0.1, warmup=min(10, steps // 4), weight_decay=0.0),
        name=name,
        batch=8,
        length=LENGTH,
        too_long="drop",
        seed=run.seed + seed,
        init_from=str(init_from),
        mesh=ONE,
        execution=execution(model),
        log=LOG,
    )
    run.train(sft, name, config)


def cold_start(run: SeedRun) -> dict[str, Any]:
    """A small, short start on hasty traces alone: it leaves reinforcement learning its room."""
    folder = run.folder("cold_start")
    rows = sft_data.cold_start(run, run.budget.cold_problems)
    data = sft_data.write(folder / "data" / "hasty.jsonl", rows)
    fine_tune(run, run.teacher, "cold_start", [data], run.budget.cold_start, init_from=run.base)
    return {"rows": len(rows)}


def exam(run: SeedRun) -> dict[str, Any]:
    """{stage: its model's measures}: apart from the stages, so that nothing waits for it."""
    fused = {"cold_start": False, "reasoning_rl": False, "fusion": True, "general_rl": True}
    return {name: evaluated(run, name, both_modes=both) for name, both in fused.items()}


def evaluated(run: SeedRun, name: str, *, both_modes: bool) -> dict[str, Any]:
    """The measures of a stage's model; both_modes: also without thinking, ThinkFollow and tools."""
    engine = run.engine(run.teacher, run.weights(name))
    modes = ("think", "no_think") if both_modes else ("think",)
    results: dict[str, Any] = {mode: measures.mode(run, engine, mode) for mode in modes}
    results["sampled"] = measures.mode(run, engine, "think", temperature=1.0)
    if both_modes:
        results["follow"] = measures.follow(run, engine)
    if run.own.get("tasks"):
        results["own tasks"] = measures.own(run, engine)
    if both_modes:
        results["calls"] = measures.calls(run, engine)
    return results


def rejection_sampled(
    run: SeedRun, source: Path, count: int, path: Path
) -> tuple[str, dict[str, int]]:
    """Write right answers of a model to `count` training problems, one a problem, to `path`.

    They are stored token by token as sampled. Returns the path and the numbers asked and kept.
    """
    if path.exists():  # sampled before an interruption
        return str(path), {"asked": count, "kept": path.read_text().count("\n")}
    engine = run.engine(run.teacher, source)
    problems = sft_data.locks(run, count, "think", "rejection/")
    groups = measures.ask(run, engine, problems, sampling=sampling(), seed=run.seed)
    right = [group[0] for group in groups if group[0].score == 1.0]
    rows = [sft_data.from_answer(answer) for answer in right]
    return sft_data.write(path, rows), {"asked": count, "kept": len(right)}


def fusion(run: SeedRun) -> dict[str, Any]:
    """Both modes in one model: rejection samples of the RL model, direct answers, flags, tools."""
    folder = run.folder("fusion") / "data"
    count = run.budget.rejection
    think, kept = rejection_sampled(run, run.weights("reasoning_rl"), count, folder / "think.jsonl")
    left_out = "" if kept["kept"] else f"no thinking samples: none of {count} answers was right"
    data = [] if left_out else [think]
    for name, rows in {
        "direct": sft_data.direct(run, count * 3 // 4),
        "flags": sft_data.flags(count * 4, run.seed),
        "calls": sft_data.calls(count, run.seed),
    }.items():
        data.append(sft_data.write(folder / f"{name}.jsonl", rows))
    fine_tune(
        run, run.teacher, "fusion", data, run.budget.fusion, init_from=run.weights("reasoning_rl")
    )
    return {"rejection": kept, "left_out": left_out}


def reasoning_rl(run: SeedRun) -> dict[str, Any]:
    """GRPO on locks of two to six days, thinking."""
    return reinforced(run, "reasoning_rl", run.teacher, run.weights("cold_start"), run.budget.grpo)


def reinforced(
    run: SeedRun,
    name: str,
    model: ModelConfig,
    source: Path,
    phases: int,
    *,
    settings: tuple[str, float] = ("adamw", 5e-4),
    one_lock: bool = False,
    task: Share = HARD,
    entropy: EntropyTarget = LEVEL,
) -> dict[str, Any]:
    """GRPO on hard locks for `phases` sets of rollouts; returns its curve and cost.

    source: the weights that it starts from. settings: optimizer and peak rate. one_lock: without
    problems of several locks.
    """
    clock = Clock(run.path / name)
    tasks: tuple[Share, ...] = (task,)
    more: dict[str, Any] = {"refill": Refill(rounds=1), "entropy": entropy}
    listed = own_input.fitting(run, PROMPT)
    if run.budget.several and not one_lock:
        listed += exams.several_training(2000, f"rl/{run.seed}", run.budget.chinese)
    if listed:
        file = run.folder(name) / "problems.jsonl"
        write_problems(file, listed)
        share = max(run.budget.several, 0.2)
        tasks = (dataclasses.replace(task, weight=1 - share), Share("file", share))
        more["problems"] = str(file)
    config = rl_config(run, name, model, source, phases, tasks, settings, prompt=PROMPT, **more)
    left_out = learn(run, name, config)
    return {**clock.cost, "left_out": left_out, **record(run.path / name)}


def learn(run: SeedRun, name: str, config: grpo.Config) -> str:
    """Run GRPO; returns "", or why it ended before its last step.

    That is where no prompt has anything more to teach. It ends with its last checkpoint or, without
    one (a base that was trained too shortly), the model that it started from goes on
    (docs/log/2026-11-29-grpo-that-ends-early.md). A checkpoint that a stop signal asked for does
    not count: an interrupted run ends with the same model.
    """
    folder = run.folder(name)
    note = folder / UNTRAINED
    note.unlink(missing_ok=True)
    try:
        run.train(grpo, name, config)
    except NothingToLearn as error:
        steps = steps_in(folder / "checkpoints")
        if regular := [step for step in steps if step % config.save_every == 0]:
            if regular[-1] != steps[-1]:
                note.write_text(str(folder / "checkpoints" / str(regular[-1])))
            return f"ended at step {regular[-1]} of {config.steps}: {error}"
        note.write_text(config.init_from)
        return f"left out: {error}"
    return ""


def rl_config(
    run: SeedRun,
    name: str,
    model: ModelConfig,
    source: Path,
    phases: int,
    tasks: tuple[Share, ...],
    settings: tuple[str, float],
    *,
    prompt: int,
    **changes: Any,
) -> grpo.Config:
    """Two optimizer steps a set of rollouts, clip-higher, no KL penalty; rates fall to a tenth."""
    longest = run.budget.rollout
    return grpo.Config(
        model,
        run.tokenizer_folder,
        tasks,
        2 * phases,
        OptimConfig(*settings, final=0.1, warmup=2, schedule="linear", weight_decay=0.0),
        name=name,
        sampling=Sampling(run.budget.group, longest, slots=run.budget.slots),
        prompts=run.budget.prompts,
        minibatches=2,
        policy=Grpo(entropy=True, old="rollout"),
        length=prompt + longest,
        seed=run.seed,
        init_from=str(source),
        save_every=10,
        mesh=ONE,
        execution=execution(model),
        **{"scoring": Scoring(scale="group"), "entropy": LEVEL, **changes},
    )


def record(folder: Path) -> dict[str, Any]:
    """What RL or on-policy distillation has logged in its folder.

    "curve": points with reward, entropy, length in tokens and the coefficient of the entropy bonus.
    "samples": the number of answers that were sampled.
    """
    curve = [
        {
            "step": row["step"],
            "reward": row.get("score"),
            "entropy": row.get("entropy"),
            "length": row.get("answer_tokens"),
            "bonus": row.get("entropy_coef"),
        }
        for row in logged(folder)
    ]
    # A line for each answer; the last line of a file lists the prompts that were trained on.
    samples = sum(
        b'"trained"' not in line
        for path in (folder / "samples").glob("*.jsonl")
        for line in path.read_bytes().splitlines()
    )
    return {"curve": curve, "samples": samples}


def general_rl(run: SeedRun) -> dict[str, Any]:
    """GRPO on a mixture: locks in both modes, dialogues with flags, tool calls.

    Obeying the flag is paid for in part, right or wrong: on a problem that needs thinking,
    /no_think would else score 0 whatever the model does. Few last turns have a flag: with one the
    mode is hardly ever missed.
    """
    folder = run.folder("general_rl")
    problems = folder / "problems.jsonl"
    calls = [tools.problem(i, "train").flagged("no_think") for i in range(1500)]
    drawn = (Random(f"rl/{run.seed}/{i}") for i in range(6000))
    flags = [dialogues.dialogue(rng, "train", flagged=0.2) for rng in drawn]
    write_problems(problems, [*calls, *flags, *own_input.fitting(run, MIXED)])
    tasks = (
        # Without thinking more than two days are out of reach: groups that are all wrong.
        Share("lock", 0.25, (0.4, 1.0), ("think",)),
        Share("lock", 0.15, (0.0, 0.25), ("no_think",)),
        Share("file", 0.6),
    )
    clock = Clock(folder)
    config = rl_config(
        run,
        "general_rl",
        run.teacher,
        run.weights("fusion"),
        run.budget.general_rl,
        tasks,
        ("adamw", 2.5e-4),
        prompt=MIXED,
        problems=str(problems),
        refill=Refill(rounds=4),
        scoring=Scoring(scale="group", form=0.6),
    )
    left_out = learn(run, "general_rl", config)
    return {**clock.cost, "left_out": left_out, **record(folder)}


def budgets(run: SeedRun) -> dict[str, Any]:
    """Accuracy by thinking budget: one lock, and several locks with credit for each."""
    engine = run.engine(run.teacher, run.weights("general_rl"))
    swept = {"one lock": measures.sweep(run, engine, measures.problems(run))}
    if run.budget.several:
        tests = exams.several(run.budget.tests, run.exam, chinese=bool(run.budget.chinese))
        swept["several locks"] = measures.sweep(run, engine, tests, credit=exams.share_right)
    return {"swept": swept, "unfinished": measures.unfinished(run, engine)}


def export(run: SeedRun) -> dict[str, Any]:
    """The teacher as a folder in the Hugging Face layout, for `qwen3 chat` and transformers."""
    params = parameters(str(run.weights("general_rl")), run.teacher, run.mesh)
    folder = run.path / "export" / "model"
    LanguageModel(run.teacher, params, mesh=run.mesh, tokenizer=run.tokenizer).save(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"folder": str(folder.relative_to(run.path)), "bytes": size}


def cold_sizes(run: SeedRun) -> dict[str, Any]:
    """Sampled accuracy after cold starts of other lengths, and after the same RL.

    Those of the recipe's own cold start are in `cold_start` and `reasoning_rl`.
    """
    others = {steps: _cold_start_of(run, steps) for steps in run.budget.cold_sizes}
    return {"own": run.budget.cold_start, "others": others}


def _cold_start_of(run: SeedRun, steps: int) -> dict[str, Any]:
    """One cold start and its RL; a longer one than the recipe's is on careful traces."""
    name, problems, style = f"cold_sizes/{steps}", run.budget.cold_problems, "hasty"
    if steps > run.budget.cold_start:
        problems, style = 4 * problems, "careful"
    rows = sft_data.cold_start(run, problems, style)
    data = sft_data.write(run.folder(name) / "data.jsonl", rows)
    fine_tune(run, run.teacher, f"{name}/start", [data], steps, init_from=run.base)
    start = run.weights(f"{name}/start")
    reinforced(run, f"{name}/rl", run.teacher, start, run.budget.grpo)
    accuracy = {}
    for key, folder in (("cold", start), ("rl", run.weights(f"{name}/rl"))):
        engine = run.engine(run.teacher, folder)
        accuracy[key] = measures.mode(run, engine, "think", temperature=1.0)["accuracy"]
    return accuracy
