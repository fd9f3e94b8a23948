"""Rewards that a user brings: a function, a file that holds one, or the name of a task.

    def reward(answer, reference):
        return float(reference in answer)

A function's parameters say what it wants, of ARGUMENTS: the prompt (last user text), the answer
(what follows the thought), the thought, the reference (the problem's answer) and the whole row.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwen3 import rewards
from qwen3.rewards import Problem, Task

Reward = Callable[..., float]
ARGUMENTS = ("prompt", "answer", "thought", "reference", "row")
DEFAULT_FUNCTION = "reward"


def register(reward: str | Reward) -> str:
    """The name, in `rewards.TASKS`, of the task that scores by `reward`.

    reward: the name of a task, "file.py" or "file.py:function", or a function. Raises ValueError
    naming what there is for an unknown task, file, function or parameter.
    """
    if callable(reward):
        return _add(reward, getattr(reward, "__name__", "reward"))
    file, _, function = reward.partition(":")
    if not file.endswith(".py"):
        rewards.get(reward).require()
        return reward
    return _add(_load(Path(file), function or DEFAULT_FUNCTION), reward)


def write_example(path: str | Path) -> Path:
    """Write a file with a reward to begin with, `example_reward`; one that is there stays."""
    from qwen3.workflows import example_reward

    path = Path(path)
    if not path.exists():
        path.write_text(inspect.getsource(example_reward), encoding="utf-8")
    return path


def _load(path: Path, name: str) -> Reward:
    """The function `name` of a file, which is run as Python runs a module."""
    if not path.is_file():
        raise ValueError(f"reward {path}: there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"reward {path}: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"reward {path}: no function {name!r}; it has {functions or 'none'}")
    return function


def _add(function: Reward, name: str) -> str:
    """Register the function as a task of its own name."""
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

    rewards.TASKS[name] = OwnTask(
        name, make=_no_generator, grade=grade, solve=_no_generator, guess=_no_generator, examples=()
    )
    return name


class OwnTask(Task):
    """A user's reward: any finite number, also for turns that a built-in task calls malformed."""

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


def _no_generator(*_: Any) -> Any:
    raise ValueError("a user's reward makes no problems; give a file of them")
