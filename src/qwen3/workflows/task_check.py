"""`qwen3 task check my_tasks.py`: whether a user's rewards and tasks keep the contract of a family.

    qwen3 task check my_tasks.py
    qwen3 task check my_reward.py --problems gsm8k.jsonl --column prompt=question
    qwen3 task check key_value  # a built-in family or world

What the file holds is checked in a process of its own, so that a function which never returns is
reported and not waited for.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import math
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import rich
from rich.table import Table

from qwen3 import environments, rewards
from qwen3.environments import World, world_contract
from qwen3.rewards import Problem, Task
from qwen3.rewards.contract import CHECKS, CheckResult, NotGiven, Sizes, outcomes
from qwen3.rewards.task import in_split
from qwen3.workflows import own_problems, own_rewards

ASLEEP = 60  # times the limit on processor time: a check that takes so long by the clock is stuck
STATES = {"holds": "green", "broken": "red", "not given": "yellow"}


@dataclass(frozen=True)
class Checked:
    """What is to be checked, and for how long."""

    path: Path
    problems: str | None = None  # file of problems; None: the file's own generator
    columns: Mapping[str, str] | None = None  # of that file, as `own_problems.read` takes them
    fuzzed: int = 100  # mangled answers
    limit_s: float = 60.0  # longest processor time of one check, seconds


def add_parser(subparsers: Any) -> None:
    """Registers `task check`."""
    parser = subparsers.add_parser("task", help="check your own rewards and tasks")
    commands = parser.add_subparsers(dest="verb", required=True)
    check = commands.add_parser("check", help="which promises of a family they keep")
    check.add_argument(
        "file", type=Path, help="a file with rewards or tasks, or the name of a built-in one"
    )
    check.add_argument("--problems", help="file of problems, instead of the file's generator")
    check.add_argument("--column", action="append", default=[], metavar="kind=column")
    check.add_argument("--fuzzed", type=int, default=100, help="mangled answers")
    check.add_argument("--limit", type=float, default=60.0, help="processor seconds of one check")
    check.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the file and print what holds. 1 if something does not, 0 otherwise."""
    columns = dict(column.split("=", 1) for column in args.column if "=" in column)
    if len(columns) < len(args.column):
        raise ValueError(f"--column {' '.join(args.column)}: wanted kind=column")
    checked = Checked(args.file, args.problems, columns, args.fuzzed, args.limit)
    results = {name: list(check(checked, name, task)) for name, task in tasks(checked).items()}
    rich.print(table(results))
    for name, result in results.items():
        for outcome in result:
            if outcome.what:
                print(f"{name}, {outcome.check}: {outcome.state}: {outcome.what}")
    return int(any(outcome.state == "broken" for result in results.values() for outcome in result))


def tasks(checked: Checked) -> dict[str, Task | World]:
    """The Tasks and Worlds of a file by name, or else its function `reward`; or a built-in one.

    Raises ValueError for a file without any.
    """
    is_built_in = str(checked.path) in {**rewards.TASKS, **environments.WORLDS}
    if is_built_in and not checked.path.exists():
        return {str(checked.path): environments.get(str(checked.path))}
    parts = own_rewards.load(checked.path)
    result: dict[str, Task | World] = {
        value.name: value for value in parts.values() if isinstance(value, Task | World)
    }
    if not result and inspect.isfunction(parts.get(own_rewards.DEFAULT_FUNCTION)):
        name = own_rewards.register(str(checked.path))
        result = {name: rewards.TASKS[name]}
    if not result:
        names = [name for name in parts if not name.startswith("_")]
        raise ValueError(f"{checked.path}: neither a Task nor a function 'reward' in {names}")
    rewards.TASKS.update({name: task for name, task in result.items() if isinstance(task, Task)})
    if checked.problems:
        result = {name: _with_problems(task, checked) for name, task in result.items()}
    return result


def _with_problems(task: Task | World, checked: Checked) -> Task | World:
    """The task with the problems of a file in place of a generator, one prompt in ten held out."""
    assert checked.problems is not None
    problems = own_problems.read(checked.problems, task.name, columns=checked.columns)
    parts = {
        split: [p for p in problems if in_split(repr(p.messages), split)]
        for split in ("train", "heldout")
    }

    def make(rng: Random, difficulty: float, split: str) -> Problem:
        if not parts[split]:
            raise NotGiven(f"{len(problems)} problems are too few: none of them is {split}")
        return rng.choice(parts[split])

    return replace(task, make=make)


def checks_of(task: Task | World) -> Mapping[str, Callable[[Any, Sizes], None]]:
    """The contract that a task or a world is held to."""
    return world_contract.CHECKS if isinstance(task, World) else CHECKS


def check(checked: Checked, name: str, task: Task | World) -> Iterator[CheckResult]:
    """The outcome of every check of one task, by a process that the kernel ends if it hangs."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(send, checked, name), daemon=True)
    process.start()
    send.close()
    waiting = list(checks_of(task))
    with contextlib.suppress(EOFError):  # of a process that is gone
        receive.recv()  # it has started, which takes as long as it takes
        while waiting and receive.poll(ASLEEP * checked.limit_s):
            yield receive.recv()
            waiting.pop(0)
    process.kill()
    process.join()
    if waiting:
        what = f"no end after {checked.limit_s:g} s, or it ended the process"
        yield CheckResult(waiting.pop(0), "broken", what)
    yield from (
        CheckResult(left, "not given", "not run, as the one before hangs") for left in waiting
    )


def _report(send: Connection, checked: Checked, name: str) -> None:
    """In the process of the checks: send one outcome after the other."""
    task, sizes = tasks(checked)[name], Sizes(fuzzed=checked.fuzzed)
    send.send("ready")
    _limit_processor_time(checked.limit_s)
    for outcome in outcomes(task, sizes, checks_of(task)):
        send.send(outcome)
        _limit_processor_time(checked.limit_s)


def _limit_processor_time(seconds: float) -> None:
    """End this process after so many seconds more, also within one call of a C function."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def table(results: Mapping[str, list[CheckResult]]) -> Table:
    """A row for each check, a column for each task."""
    result = Table("promise", *results)
    states = {name: {o.check: o.state for o in result} for name, result in results.items()}
    for name in dict.fromkeys(check for held in states.values() for check in held):
        cells = (states[task].get(name) for task in results)
        result.add_row(name, *(f"[{STATES[cell]}]{cell}[/]" if cell else "" for cell in cells))
    return result
