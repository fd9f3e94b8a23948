"""The whole Qwen3 recipe on two cores, from the tokenizer to a report on the paper's claims.

    python experiments/tiny_recipe.py --workdir runs/recipe
    python experiments/tiny_recipe.py --workdir runs/five --budget 5
    python experiments/tiny_recipe.py --workdir runs/hour --budget 60 --seeds 3
    python experiments/tiny_recipe.py --workdir runs/mine --budget 1 --corpus book.txt \\
        --tasks gsm8k/train.jsonl.gz --tokenizer qwen --init-from Qwen3-0.6B-Base

A budget is in minutes on two cores; 0 is one step of every stage, 1 a few: trials whose numbers
mean nothing. Stages that do not wait for each other run side by side, one a core (--workers; 1 for
a large checkpoint).
Interrupted (Ctrl-C, kill), the same command goes on where it stopped, inside a stage too. Results:
WORKDIR/report.html and report.md. Every stage is a row of STAGES; what it does is the library's
`stages.*.run` with a config, and an evaluation.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import itertools
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

# Workers side by side cannot share an accelerator, and models this small are as fast without one.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent))

from recipe import (  # noqa: E402
    board,
    context,
    data,
    experts,
    post_training,
    pretraining,
    report,
    students,
    workers,
)
from recipe.plan import PLANS, plan  # noqa: E402
from rich.console import Console  # noqa: E402

from qwen3.run import use_compile_cache  # noqa: E402
from qwen3.train.stop import STOPPED, Stopped  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Row:
    """name: of the folder. after: stages that it reads from. share: of the work (minutes of a core
    at budget 15). when: whether a plan has it."""

    name: str
    run: Callable
    after: tuple[str, ...]
    share: float
    text: str
    when: Callable = lambda plan: True


def students_too(plan):
    return plan.students


def long_too(plan):
    return plan.long_context


STAGES = (
    Row("documents", data.documents, (), 0.1, "problem world and Python's own text"),
    Row("tokenizer", data.tokenizer, ("documents",), 0.1, "byte-level BPE"),
    Row("corpora", data.prepare, ("tokenizer",), 0.2, "token stores"),
    Row("pretrain", pretraining.base, ("corpora",), 4.4, "S1 general, S2 reasoning"),
    Row("base_exam", pretraining.base_exam, ("pretrain",), 0.2, "problems, by the base model"),
    Row("long", pretraining.long_context, ("pretrain",), 0.7, "S3 long context", long_too),
    Row("cold_start", post_training.cold_start, ("pretrain", "long"), 0.45,
        "all-hasty long-CoT cold start"),
    Row("reasoning_rl", post_training.reasoning_rl, ("cold_start",), 1.4, "GRPO"),
    Row("fusion", post_training.fusion, ("reasoning_rl",), 1.2, "thinking-mode fusion"),
    Row("general_rl", post_training.general_rl, ("fusion",), 0.9,
        "RL on locks, modes and tool calls"),
    Row("exam", post_training.exam, ("general_rl",), 1.3, "problems, by all models so far"),
    Row("student_base", pretraining.student_base, ("corpora",), 2, "the student's pretraining",
        students_too),
    Row("student", students.student, ("general_rl", "student_base"), 0.5,
        "off-policy distillation", students_too),
    Row("student_exam", students.exam, ("student",), 0.4, "hard problems, by that student",
        students_too),
    Row("student_rl", students.reinforced, ("student",), 3.8, "GRPO of the student", students_too),
    Row("student_kl", students.on_policy, ("student",), 1, "on-policy distillation", students_too),
    Row("student_control", students.control, ("student",), 1, "the same on the teacher's samples",
        lambda plan: plan.students and plan.control),
    Row("experts", experts.experts, ("corpora",), 5.9,
        "mixture of experts, two balance losses, GRPO", lambda plan: bool(plan.experts)),
    Row("export", post_training.export, ("general_rl",), 0.1,
        "a Hugging Face folder to chat with"),
    Row("budgets", post_training.budgets, ("general_rl",), 0.8, "thinking budgets"),
    Row("needles", pretraining.needles, ("long",), 1.6, "S3 with base 10,000; look-ups by length",
        long_too),
    Row("cold_sizes", post_training.cold_sizes, ("pretrain", "long"), 2.1,
        "cold starts of other sizes, same RL", lambda plan: bool(plan.cold_sizes)),
)  # fmt: skip
ROWS = {row.name: row for row in STAGES}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=15, help=f"minutes: {sorted(PLANS)}")
    parser.add_argument("--seeds", type=int, default=1, help="runs of everything, 1 to 9")
    parser.add_argument(
        "--workers", type=int, default=min(os.cpu_count() or 1, 4), help="stages side by side"
    )
    parser.add_argument(
        "--exam", choices=("final", "dev"), default="final",
        help="dev: the problems to design with; final: those of a result",
    )  # fmt: skip
    parser.add_argument("--corpus", nargs="+", default=[], help="your own text files, mixed in")
    parser.add_argument("--tasks", nargs="+", default=[], help="GSM8K or MATH files, mixed in")
    parser.add_argument("--tokenizer", default="", help="a folder; default: trained on the texts")
    parser.add_argument("--init-from", default="", help="a Hugging Face folder to start from")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    use_compile_cache()
    try:
        chosen = plan(options.budget)
        if not 1 <= options.seeds <= 9:
            raise ValueError(f"--seeds {options.seeds}: wanted 1 to 9")
        if not 1 <= options.workers <= 64:
            raise ValueError(f"--workers {options.workers}: wanted 1 to 64")
        command = shlex.join(["python", "experiments/tiny_recipe.py", *(arguments or sys.argv[1:])])
        recipe(
            chosen,
            options.workdir,
            options.seeds,
            workers=options.workers,
            exam=options.exam,
            real=own_input(options),
            command=command,
        )
    except Stopped:
        print("stopped and saved; the same command goes on", file=sys.stderr)
        return STOPPED
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except workers.Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def own_input(options):
    """The flags of the user's own input that were given. ValueError for what is not there."""
    found = {}
    for name in ("corpus", "tasks", "tokenizer", "init_from"):
        value = getattr(options, name)
        for path in [value] if isinstance(value, str) else value:
            if path and not Path(path).exists():
                raise ValueError(f"--{name.replace('_', '-')} {path}: there is no such file")
        if value:
            found[name] = value
    return found


def recipe(plan, workdir, seeds=1, *, workers=1, exam="final", real=None, command=""):
    """All stages of all seeds that are not done yet, then the report; {claim: state}."""
    real, console = real or {}, Console(stderr=True)
    workdir = Path(workdir).resolve()  # stages write their inputs' paths down
    runs = [context.Run(workdir / f"seed{n}", plan, n, exam, real) for n in range(seeds)]
    settings = {"plan": dataclasses.asdict(plan), "exam": exam, "own": real}
    context.open_workdir(workdir, settings, sum(run.needed for run in runs))
    clock = context.Clock()
    try:
        make(runs, workers, console)
    finally:  # an interrupted start counts too
        elapsed = context.add_time(workdir / "elapsed.json", clock.seconds)
    facts = {
        "command": command, "minutes": plan.minutes, "exam": exam, "cores": os.cpu_count(),
        "workers": workers, "date": datetime.date.today().isoformat(), "elapsed": elapsed,
    }  # fmt: skip
    results = [found(run) for run in runs]
    states = report.write(workdir, results, facts)
    context.write(workdir / "results.json", {"facts": facts, "states": states, "seeds": results})
    for name, state in states.items():
        console.print(f"{name}: {state}")
    console.print(f"{workdir / 'report.html'}")
    return states


def make(runs, count, console):
    """What is not made yet, `count` stages at once; those with the most work behind them first."""
    jobs, shares, done = {}, {}, []
    order = sorted(itertools.product(rows_of(runs[0]), runs), key=lambda pair: -behind(pair[0]))
    for row, run in order:
        name = label(run, row.name)
        shares[name] = row.share
        if run.result(row.name) is not None:
            done.append(name)
            continue
        after = tuple(label(run, each) for each in row.after)
        jobs[name] = ((run, row.name), after, run.path / "logs" / f"{row.name}.txt")
    with board.Board(console, shares, len(runs) * runs[0].plan.minutes, done) as shown:
        workers.run(jobs, perform, count, shown, fresh=runs[0].large)


def behind(row):
    """The longest chain of work from this stage to the end."""
    return row.share + max((behind(each) for each in STAGES if row.name in each.after), default=0)


def label(run, name):
    return f"seed {run.seed} {name} ({ROWS[name].text})"


def rows_of(run):
    return [row for row in STAGES if row.when(run.plan)]


KEPT = {}  # runs of this process by folder, with their tokenizers and engines


def perform(run, name):
    """One stage, in this process; its result is written last."""
    run, clock = KEPT.setdefault(run.path, run), context.Clock()
    result = ROWS[name].run(run)
    run.finish(name, {"wall": clock.seconds, "result": result})


def found(run):
    """{stage: result, ..., "wall": {stage: seconds}}, read back; each has its part of `exam`."""
    made = {row.name: run.result(row.name) for row in rows_of(run)}
    results = {name: each["result"] for name, each in made.items()}
    for name, measured in results.pop("exam").items():
        results[name] |= measured
    return {**results, "wall": {name: each["wall"] for name, each in made.items()}}


if __name__ == "__main__":
    sys.exit(main())
