"""The whole Qwen3 recipe on two cores, from the tokenizer to a report on the paper's claims.

    python experiments/tiny_recipe.py --workdir runs/recipe
    python experiments/tiny_recipe.py --workdir runs/five --budget 5
    python experiments/tiny_recipe.py --workdir runs/hour --budget 60 --seeds 3
    python experiments/tiny_recipe.py --workdir runs/mine --budget 1 --corpus book.txt \\
        --tasks gsm8k/train.jsonl.gz --tokenizer qwen --init-from Qwen3-0.6B-Base

A budget is in minutes on two cores; 1 is a trial of every stage whose numbers mean nothing. Seeds
can be processes of their own (--first-seed 1) in one workdir; `--seeds 3` there then only reports.
Interrupted (Ctrl-C, kill), the same command goes on where it stopped, inside a stage too. Results:
WORKDIR/report.html and report.md. Every stage is a row of STAGES; what it does is the library's
`stages.*.run` with a config, and an evaluation.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import logging
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from recipe import (  # noqa: E402
    context,
    data,
    experts,
    post_training,
    pretraining,
    report,
    students,
)
from recipe.plan import PLANS, plan  # noqa: E402
from rich.console import Console  # noqa: E402

from qwen3.run import use_compile_cache  # noqa: E402
from qwen3.train.display import duration  # noqa: E402
from qwen3.train.stop import STOPPED, Stopped  # noqa: E402


@dataclasses.dataclass(frozen=True)
class Row:
    """name: of the folder. share: of the budget that it takes. when: whether a plan has it."""

    name: str
    run: Callable
    share: float
    text: str
    when: Callable = lambda plan: True


STAGES = (
    Row("documents", data.documents, 0.02, "problem world and Python's own text"),
    Row("tokenizer", data.tokenizer, 0.01, "byte-level BPE"),
    Row("corpora", data.prepare, 0.01, "token stores"),
    Row("pretrain", pretraining.base, 0.20, "S1 general, S2 reasoning"),
    Row("long", pretraining.long_context, 0.08, "S3 long context, needles",
        lambda plan: plan.long_context),
    Row("cold_start", post_training.cold_start, 0.04, "all-hasty long-CoT cold start"),
    Row("reasoning_rl", post_training.reasoning_rl, 0.12, "GRPO"),
    Row("fusion", post_training.fusion, 0.05, "thinking-mode fusion"),
    Row("general_rl", post_training.general_rl, 0.10, "RL on locks, modes and tool calls"),
    Row("export", post_training.export, 0.01, "a Hugging Face folder to chat with"),
    Row("budgets", post_training.budgets, 0.03, "thinking budgets"),
    Row("student_base", pretraining.student_base, 0.12, "the student's pretraining",
        lambda plan: plan.students),
    Row("student", students.student, 0.15, "off-policy, then on-policy KL beside GRPO",
        lambda plan: plan.students),
    Row("experts", experts.experts, 0.07, "mixture of experts, two balance losses, GRPO",
        lambda plan: bool(plan.experts)),
    Row("cold_sizes", post_training.cold_sizes, 0.10, "cold starts of other sizes, same RL",
        lambda plan: bool(plan.cold_sizes)),
)  # fmt: skip


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=15, help=f"minutes: {sorted(PLANS)}")
    parser.add_argument("--seeds", type=int, default=1, help="runs of everything, 1 to 9")
    parser.add_argument("--first-seed", type=int, default=0)
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
        command = shlex.join(["python", "experiments/tiny_recipe.py", *(arguments or sys.argv[1:])])
        recipe(
            chosen,
            options.workdir,
            range(options.first_seed, options.first_seed + options.seeds),
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


def recipe(plan, workdir, seeds=(0,), *, exam="final", real=None, command="", console=None):
    """All stages of all seeds that are not done yet, then the report; {claim: state}."""
    real = real or {}
    workdir = Path(workdir).resolve()  # stages write their inputs' paths down
    console = console or Console(stderr=True)
    context.open_workdir(workdir, {"plan": dataclasses.asdict(plan), "exam": exam, "own": real})
    results = []
    for seed in seeds:
        run = context.Run(workdir / f"seed{seed}", plan, seed, exam, real)
        results.append(one_seed(run, console))
    facts = {
        "command": command, "minutes": plan.minutes, "exam": exam, "cores": os.cpu_count(),
        "date": datetime.date.today().isoformat(),
    }  # fmt: skip
    states = report.write(workdir, results, facts)
    context.write(workdir / "results.json", {"facts": facts, "states": states, "seeds": results})
    for name, state in states.items():
        console.print(f"{name}: {state}")
    console.print(f"{workdir / 'report.html'}")
    return states


def one_seed(run, console):
    """{stage: result, ..., "wall": {stage: seconds}}, each made or read back."""
    rows = [row for row in STAGES if row.when(run.plan)]
    left = whole = sum(row.share for row in rows)
    found = {"wall": {}}
    for number, row in enumerate(rows, 1):
        if run.result(row.name) is None:
            minutes = 60 * run.plan.minutes * left / whole
            console.print(
                f"[bold]seed {run.seed}, stage {number} of {len(rows)}: {row.name}[/bold] "
                f"({row.text}); about {duration(minutes)} left for this seed"
            )
            clock = context.Clock()
            result = row.run(run)
            run.finish(row.name, {"wall": clock.seconds, "result": result})
            console.print(f"{row.name}: {clock.seconds:.0f} s")
        left -= row.share
        # As read back also when just made: a run that went on gives the same report.
        made = run.result(row.name)
        found[row.name], found["wall"][row.name] = made["result"], made["wall"]
    return found


if __name__ == "__main__":
    sys.exit(main())
