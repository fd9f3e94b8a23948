"""Stages from `cold_start` to `budgets`, post-training of the teacher (report, 4.1 to 4.4), and
`exam`, of their models."""

from __future__ import annotations

import dataclasses
from random import Random

from qwen3.config import OptimConfig
from qwen3.curate.files import write_problems
from qwen3.eval import answers
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import sampling
from qwen3.losses.grpo import Grpo
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

LENGTH = 320  # slots of a fine-tuning row: a call with its list of tools has up to 310


def fine_tune(run: SeedRun, model, name, data, steps, *, init_from, peak=1e-3, seed=0):
    """Supervised fine-tuning of all of `data` (files) into the stage's folder."""
    config = sft.Config(
        model,
        run.tokenizer_folder,
        tuple(data),
        steps,
        OptimConfig(peak=peak, final=0.1, warmup=min(10, steps // 4), weight_decay=0.0),
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


def cold_start(run):
    """A small, short start on hasty traces alone: it leaves reinforcement learning its room."""
    folder = run.folder("cold_start")
    rows = sft_data.cold_start(run, run.budget.cold_problems)
    data = sft_data.write(folder / "data" / "hasty.jsonl", rows)
    fine_tune(run, run.teacher, "cold_start", [data], run.budget.cold_start, init_from=run.base)
    return {"rows": len(rows)}


def exam(run):
    """{stage: its model's measures}: apart from the stages, so that nothing waits for it."""
    one, both = {"thinks": ("think",)}, {"follow": True, "calls": True}
    asked = {"cold_start": one, "reasoning_rl": one, "fusion": both, "general_rl": both}
    return {name: evaluated(run, name, **options) for name, options in asked.items()}


def evaluated(run, name, *, thinks=("think", "no_think"), follow=False, calls=False):
    """The measures of a stage's last checkpoint."""
    engine = run.engine(run.teacher, run.weights(name))
    found = {each: measures.mode(run, engine, each) for each in thinks}
    found["sampled"] = measures.mode(run, engine, "think", temperature=1.0)
    if follow:
        found["follow"] = measures.follow(run, engine)
    if run.own.get("tasks"):
        found["own tasks"] = measures.own(run, engine)
    if calls:
        found["calls"] = measures.calls(run, engine)
    return found


def rejection_sampled(run, source, count, path):
    """Right answers of a model to training problems, token by token, one a problem."""
    if path.exists():  # sampled before an interruption
        return str(path), {"asked": count, "kept": path.read_text().count("\n")}
    engine = run.engine(run.teacher, source)
    asked = sft_data.locks(run, count, "think", "rejection/")
    found = answers.ask(engine, asked, how=sampling(), max_tokens=run.budget.answer, seed=run.seed)
    kept = [group[0] for group in found if group[0].score == 1.0]
    rows = [sft_data.from_answer(run.tokenizer, each) for each in kept]
    return sft_data.write(path, rows), {"asked": count, "kept": len(kept)}


def fusion(run):
    """Both modes in one model: rejection samples of the RL model, direct answers, flags, tools."""
    folder = run.folder("fusion") / "data"
    count = run.budget.rejection
    think, kept = rejection_sampled(run, run.weights("reasoning_rl"), count, folder / "think.jsonl")
    left_out = "" if kept["kept"] else f"no thinking samples: none of {count} answers was right"
    data = [] if left_out else [think]
    for name, made in {
        "direct": sft_data.direct(run, count * 3 // 4),
        "flags": sft_data.flags(count * 4, run.seed),
        "calls": sft_data.calls(count, run.seed),
    }.items():
        data.append(sft_data.write(folder / f"{name}.jsonl", made))
    fine_tune(
        run, run.teacher, "fusion", data, run.budget.fusion, init_from=run.weights("reasoning_rl")
    )
    return {"rejection": kept, "left_out": left_out}


def reasoning_rl(run):
    """GRPO on locks of two to six days, thinking."""
    return reinforced(run, "reasoning_rl", run.teacher, run.weights("cold_start"), run.budget.grpo)


PROMPT, MIXED = 96, 320  # tokens of a prompt: a problem; a dialogue, or a list of tools
# Of the first step's entropy, before anything is learnt.
LEVEL = EntropyTarget(start=0.9, end=0.9, change=0.0075, most=0.15)
HARD = Share("lock", difficulty=(0.2, 1.0), modes=("think",))


def reinforced(
    run,
    name,
    model,
    source,
    phases,
    *,
    settings=("adamw", 5e-4),
    one_lock=False,
    task=HARD,
    entropy=LEVEL,
):
    """GRPO on hard locks for `phases` sets of rollouts; its curve and cost. one_lock:
    none of several locks."""
    clock = Clock(run.path / name)
    tasks, more = (task,), {"refill": Refill(rounds=1), "entropy": entropy}
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


def learn(run, name, config):
    """GRPO; "". Where no prompt has anything more to teach, why: it ends with its last checkpoint,
    or, without one (a base that was trained too shortly), the model that it started from goes on.
    """
    folder = run.folder(name)
    note = folder / UNTRAINED
    note.unlink(missing_ok=True)
    try:
        run.train(grpo, name, config)
    except NothingToLearn as error:
        if trained := steps_in(folder / "checkpoints"):
            return f"ended at step {trained[-1]} of {config.steps}: {error}"
        note.write_text(config.init_from)
        return f"left out: {error}"
    return ""


def rl_config(run, name, model, source, phases, tasks, settings, *, prompt, **changes):
    """Two optimizer steps a phase, clip-higher, no KL; rates fall to a tenth."""
    most = run.budget.rollout
    return grpo.Config(
        model,
        run.tokenizer_folder,
        tasks,
        2 * phases,
        OptimConfig(*settings, final=0.1, warmup=2, schedule="linear", weight_decay=0.0),
        name=name,
        sampling=Sampling(run.budget.group, most, slots=run.budget.slots),
        prompts=run.budget.prompts,
        minibatches=2,
        policy=Grpo(entropy=True, old="rollout"),
        length=prompt + most,
        seed=run.seed,
        init_from=str(source),
        save_every=10,
        mesh=ONE,
        execution=execution(model),
        **{"scoring": Scoring(scale="group"), "entropy": LEVEL, **changes},
    )


def record(folder):
    """{"curve": points with reward, entropy, length and the coefficient of the entropy bonus;
    "samples": answers that were sampled}."""
    curve = [
        {
            "step": x["step"],
            "reward": x.get("score"),
            "entropy": x.get("entropy"),
            "length": x.get("answer_tokens"),
            "bonus": x.get("entropy_coef"),
        }
        for x in logged(folder)
    ]
    samples = sum(
        '"trained"' not in line
        for path in (folder / "samples").glob("*.jsonl")
        for line in path.open(encoding="utf-8")
    )
    return {"curve": curve, "samples": samples}


def general_rl(run):
    """RL on a mixture: locks in both modes, dialogues with flags, tool calls. Obeying the flag is
    paid for in part, right or wrong: on a problem that needs thinking, /no_think would else score 0
    whatever the model does. Few last turns have a flag: with one the mode is hardly ever missed."""
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


def budgets(run):
    """Accuracy by thinking budget: one lock, and several locks with credit for each."""
    engine = run.engine(run.teacher, run.weights("general_rl"))
    found = {"one lock": measures.sweep(run, engine, measures.problems(run))}
    if run.budget.several:
        asked = exams.several(run.budget.tests, run.exam, chinese=bool(run.budget.chinese))
        found["several locks"] = measures.sweep(run, engine, asked, credit=exams.share_right)
    return {"swept": found, "unfinished": measures.unfinished(run, engine)}


def export(run):
    """The teacher as a folder in the Hugging Face layout, for `qwen3 chat` and transformers."""
    params = parameters(str(run.weights("general_rl")), run.teacher, run.mesh)
    folder = run.path / "export" / "model"
    LanguageModel(run.teacher, params, mesh=run.mesh, tokenizer=run.tokenizer).save(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    return {"folder": str(folder.relative_to(run.path)), "bytes": size}


def cold_sizes(run):
    """Cold starts of other lengths (longer ones with careful traces), then the same RL as after the
    recipe's own, which `cold_start` and `reasoning_rl` have."""
    found = {}
    for steps in run.budget.cold_sizes:
        name = f"cold_sizes/{steps}"
        careful = steps > run.budget.cold_start
        rows = sft_data.cold_start(
            run,
            run.budget.cold_problems * (4 if careful else 1),
            style="careful" if careful else "hasty",
        )
        data = sft_data.write(run.folder(name) / "data.jsonl", rows)
        fine_tune(run, run.teacher, f"{name}/start", [data], steps, init_from=run.base)
        start = run.weights(f"{name}/start")
        reinforced(run, f"{name}/rl", run.teacher, start, run.budget.grpo)
        found[steps] = {
            key: measures.mode(run, run.engine(run.teacher, folder), "think", temperature=1.0)[
                "accuracy"
            ]
            for key, folder in (("cold", start), ("rl", run.weights(f"{name}/rl")))
        }
    return {"own": run.budget.cold_start, "others": found}
