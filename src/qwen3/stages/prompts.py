"""Prompt number i = f(seed, i): from a weighted mixture of tasks, or from a file of problems.

A run asks for prompts 0, 1, 2, ... and stores how far it got: none is lost or trained twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from qwen3 import rewards
from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.forward import MODES
from qwen3.rewards import Problem

ANY = ("any",)


@dataclass(frozen=True)
class Share:
    """A task's part in a mixture: name of rewards.TASKS ("file": the stage's file of problems),
    weight, range of difficulty, and the modes that a prompt's is drawn from: "think" and
    "no_think" put the flag behind the question, "any" leaves it as it is (thinking is the
    default then; a task that sets its own mode takes "any").
    """

    task: str
    weight: float = 1.0
    difficulty: tuple[float, float] = (0.0, 1.0)
    modes: tuple[str, ...] = ANY


@dataclass(frozen=True)
class Prompt:
    """number: of the run. problem: what the scorer needs. ids: the tokens to go on from."""

    number: int
    problem: Problem
    ids: tuple[int, ...]

    @property
    def mode(self) -> int:
        """Index into losses.rows.MODES: how the answer is expected."""
        return MODES.index("think" if chat.mode_of(self.problem.messages) else "no_think")


class Prompts:
    """`prompts[i]`. Raises ValueError for a mixture without weight, a task or mode that does not
    exist, a file where no share asks for it or the reverse, and where the machine cannot run a
    task (as its `require` says).
    """

    def __init__(
        self,
        shares: Sequence[Share],
        tokenizer: Tokenizer,
        *,
        seed: int,
        problems: Sequence[Problem] = (),
        split: str = "train",
    ):
        self._shares = [share for share in shares if share.weight > 0]
        if not self._shares or any(share.weight < 0 for share in shares):
            raise ValueError(f"a mixture needs weights above 0, these are {list(shares)}")
        for share in self._shares:
            _check(share)
        if bool(problems) != any(share.task == "file" for share in self._shares):
            raise ValueError(
                f'{len(problems)} problems of a file, and shares {shares}: "file" is '
                "the name of their share"
            )
        self._problems, self._tokenizer = list(problems), tokenizer
        self._seed, self._split = seed, split
        for name in {problem.task for problem in problems if problem.task}:
            rewards.get(name).require()

    def __getitem__(self, number: int) -> Prompt:
        rng = Random(f"prompt/{self._seed}/{number}")
        share = rng.choices(self._shares, [share.weight for share in self._shares])[0]
        if share.task == "file":
            problem = self._from_file(number)
        else:
            low, high = share.difficulty
            task, seed = rewards.get(share.task), rng.getrandbits(40)
            problem = task.generate(seed, rng.uniform(low, high), self._split)
        mode = rng.choice(share.modes)
        problem = problem if mode == "any" or problem.mode != "any" else problem.flagged(mode)
        return Prompt(number, problem, tuple(prompt_ids(problem, self._tokenizer)))

    def _from_file(self, number: int) -> Problem:
        """Every problem once before any comes again, whatever else the mixture holds."""
        # Which of the file's prompts this is cannot be counted without the mixture's history, so
        # the number itself runs through the file: with other shares some come later, none twice.
        epoch, place = divmod(number, len(self._problems))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._problems))
        return self._problems[order[place]]


def _check(share: Share) -> None:
    if share.task != "file":
        rewards.get(share.task).require()
    low, high = share.difficulty
    if not 0 <= low <= high <= 1:
        raise ValueError(f"difficulty {share.difficulty} of {share.task!r} is no range in 0..1")
    unknown = sorted(set(share.modes) - {*ANY, *MODES})
    if unknown or not share.modes:
        raise ValueError(f"modes {share.modes} of {share.task!r}: choose from {(*ANY, *MODES)}")


def prompt_ids(problem: Problem, tokenizer: Tokenizer) -> list[int]:
    """The problem's messages and the opening of the answer, control tokens in texts as text."""
    ids, _ = chat.render_tokens(
        tokenizer,
        problem.messages,
        tools=problem.tools,
        add_generation_prompt=True,
        literal_roles=("system", "user", "tool"),
    )
    return ids
