"""Rewards that a user brings: a function, a file that holds one, or the name of a task.

    def reward(answer, reference):
        return float(reference in answer)

A function's parameters say what it wants, of ARGUMENTS: the prompt (last user text), the answer
(what follows the thought), the thought, the reference (the problem's answer) and the whole row.
What else a file may hold (PARTS) is for checking the reward: `qwen3 task check`.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from qwen3 import rewards
from qwen3.rewards import Problem, Task
from qwen3.rewards.contract import NotGiven
from qwen3.rewards.task import draw_in_split
from qwen3.workflows import own_problems

Reward = Callable[..., float]
ARGUMENTS = ("prompt", "answer", "thought", "reference", "row")
DEFAULT_FUNCTION = "reward"
# What a file may hold beside its rewards, and what it says.
PARTS = {
    "generate": "generate(rng, difficulty) -> a row, as in a file of problems",
    "solve": "solve(row) -> the right answer",
    "guess": "guess(row, rng) -> an answer of the right form, at random",
    "EXAMPLES": "EXAMPLES = [(row, answer, score), ...], one right and five that score 0",
}


def register(reward: str | Reward) -> str:
    """The name, in `rewards.TASKS`, of the task that scores by `reward`.

    reward: the name of a task, "file.py" or "file.py:function" (or the name of a Task there), or a
    function. Raises ValueError naming what there is for an unknown task, file, function or
    parameter.
    """
    if callable(reward):
        return _add_function(reward, getattr(reward, "__name__", "reward"))
    file, _, name = reward.partition(":")
    if not file.endswith(".py"):
        rewards.get(reward).require()
        return reward
    parts = load(Path(file))
    value = parts.get(name or DEFAULT_FUNCTION)
    if isinstance(value, Task):
        value.require()
        rewards.TASKS[value.name] = value
        return value.name
    if not callable(value):
        functions = [key for key, part in parts.items() if inspect.isfunction(part)]
        raise ValueError(
            f"reward {file}: no function {name or DEFAULT_FUNCTION!r}; it has {functions or 'none'}"
        )
    return _add_function(value, reward, parts)


def write_example(path: str | Path) -> Path:
    """Write a file with a reward to begin with, `example_reward`; one that is there stays."""
    from qwen3.workflows import example_reward

    path = Path(path)
    if not path.exists():
        path.write_text(inspect.getsource(example_reward), encoding="utf-8")
    return path


def load(path: Path) -> dict[str, Any]:
    """The names of a file, which is run as Python runs a module. Raises ValueError naming it."""
    if not path.is_file():
        raise ValueError(f"reward {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"reward {path}: {type(error).__name__}: {error}") from error
    return vars(module)


def _add_function(function: Reward, name: str, parts: Mapping[str, Any] | None = None) -> str:
    """Register the task `name` that scores by `function`, with the PARTS of its file."""
    parameters = inspect.signature(function).parameters
    if unknown := [key for key in parameters if key not in ARGUMENTS]:
        raise ValueError(
            f"reward {name} takes {', '.join(unknown)}; a reward may take {', '.join(ARGUMENTS)}"
        )

    def grade(problem: Problem, answer: str, thought: str = "") -> float:
        values = {
            "prompt": problem.messages[-1]["content"],
            "answer": answer,
            "thought": thought,
            "reference": problem.answer.get("reference"),
            "row": problem.answer.get("row", {}),
        }
        value = float(function(**{key: values[key] for key in parameters}))
        if not math.isfinite(value):
            raise ValueError(f"reward {name} gave {value} for the answer {answer[:80]!r}")
        return value

    given = parts or {}
    task = OwnTask(
        name,
        make=_generator(given.get("generate"), name),
        grade=grade,
        solve=_solver(given.get("solve")),
        guess=_guesser(given.get("guess")),
        examples=(),
    )
    rewards.TASKS[name] = task  # problems, those of the examples too, name a task that there is
    rewards.TASKS[name] = replace(task, examples=_examples(given.get("EXAMPLES", ()), name))
    return name


def _problem(row: Mapping[str, Any], name: str) -> Problem:
    return own_problems.read([row], name)[0]


def _generator(generate: Callable[..., Any] | None, name: str) -> Callable[..., Problem]:
    """Problems of the user's rows; one prompt in ten is held out, by its hash."""

    def make(rng: Random, difficulty: float, split: str) -> Problem:
        if generate is None:
            raise NotGiven(
                f"a user's reward makes no problems; give a file of them, or {PARTS['generate']}"
            )
        return draw_in_split(
            lambda: _problem(generate(rng, difficulty), name), lambda p: repr(p.messages), split
        )

    return make


def _solver(solve: Callable[..., str] | None) -> Callable[[Problem], tuple[str, str]]:
    def solved(problem: Problem) -> tuple[str, str]:
        if solve is None:
            raise NotGiven(PARTS["solve"])
        return "A thought.", solve(problem.answer["row"])

    return solved


def _guesser(guess: Callable[..., str] | None) -> Callable[[Problem, Random], str]:
    def guessed(problem: Problem, rng: Random) -> str:
        if guess is None:
            raise NotGiven(PARTS["guess"])
        return guess(problem.answer["row"], rng)

    return guessed


def _examples(rows: Any, name: str) -> Sequence[tuple[Problem, str, float]]:
    try:
        return [(_problem(row, name), answer, float(score)) for row, answer, score in rows]
    except (TypeError, ValueError) as error:
        raise ValueError(f"reward {name}: wanted {PARTS['EXAMPLES']}: {error}") from None


class OwnTask(Task):
    """A user's reward: any finite number, also for turns that a built-in task calls malformed."""

    strict_turns: ClassVar[bool] = False

    @property
    def record(self) -> dict[str, type | None]:
        """Nothing is asked of the record of a problem: the function says what it reads."""
        return {}

    def score(self, problem: Problem, text: str) -> float | None:
        """The reward of the turn `text`; errors of the user's function pass, naming it."""
        thought, answer = split_turn(text)
        return self.grade(problem, answer, thought)  # type: ignore[call-arg]  # made by _add


def split_turn(text: str) -> tuple[str, str]:
    """(thought, answer) of an assistant turn; what never closes its block is thought alone."""
    for end in ("<|im_end|>", "<|endoftext|>"):
        text = text.removesuffix(end)
    if "<think>" not in text and "</think>" not in text:
        return "", text.strip()
    thought, closed, answer = text.partition("</think>")
    return thought.removeprefix("<think>").strip(), answer.strip() if closed else ""
