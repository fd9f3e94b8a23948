"""Prompt number i = f(seed, i): from a weighted mixture of tasks, or from a file of problems.

A run asks for prompts 0, 1, 2, ... and stores how far it got: none is lost or trained on twice.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import numpy as np

from qwen3 import environments, rewards
from qwen3.curate.files import read_problems
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.forward import MODES
from qwen3.rewards import Problem
from qwen3.rewards.answers import prompt_ids

__all__ = [
    "ANY",
    "FILE",
    "TOO_LONG",
    "Prompt",
    "Prompts",
    "Share",
    "fitting_problems",
    "in_mode",
    "prompt_ids",
]

log = logging.getLogger("qwen3")

Band: TypeAlias = Callable[[str, tuple[float, float]], tuple[float, float]]

ANY = ("any",)
REASONING = "reasoning"  # the group of families that general RL must not forget
FILE = "file"  # the task of a share that takes the problems of the stage's file
TOO_LONG = ("error", "drop")


@dataclass(frozen=True)
class Share:
    """A task's part in a mixture of prompts.

    "think" and "no_think" put the flag behind the question; "any" leaves it as it is, so that a
    model thinks unless the task sets a mode itself.
    """

    task: str  # of rewards.TASKS or environments.WORLDS, or "file" for the stage's file of problems
    weight: float = 1.0  # chance of the task, relative to the other shares'
    difficulty: tuple[float, float] = (0.0, 1.0)  # range that a problem's is drawn from
    modes: tuple[str, ...] = ANY  # modes that a prompt's is drawn from
    twins: bool = False  # both problems of a pair are drawn, one right after the other

    @property
    def generates_twins(self) -> bool:
        return self.twins and self.task != FILE


@dataclass(frozen=True)
class Prompt:
    """A problem as it is put to a model."""

    number: int  # of the run
    problem: Problem  # with what its scorer needs
    ids: tuple[int, ...]  # tokens to go on from


class Prompts:
    """`prompts[i]`.

    Raises ValueError for a mixture without weight, a task or mode that does not exist, a file
    without a share for it or the reverse, and where the machine cannot run a task (as its `require`
    says). reasoning: part of the prompts that reasoning families give, whatever the weights are;
    None leaves it to these. band(family, difficulty): the range within a share's that difficulties
    are drawn from.

    Twins (`Share.twins`) are neighbours among the prompts, or among those of reasoning or of the
    others where `reasoning` deals these out, so that both are in one phase but for its borders.
    """

    def __init__(
        self,
        shares: Sequence[Share],
        tokenizer: Tokenizer,
        *,
        seed: int,
        problems: Sequence[Problem] = (),
        reasoning: float | None = None,
        band: Band = lambda family, whole: whole,
    ):
        self._shares = [share for share in shares if share.weight > 0]
        if not self._shares or any(share.weight < 0 for share in shares):
            raise ValueError(f"a mixture needs weights above 0, these are {list(shares)}")
        for share in self._shares:
            _check(share)
        if bool(problems) != any(share.task == FILE for share in self._shares):
            raise ValueError(
                f'{len(problems)} problems of a file, and shares {shares}: "{FILE}" is '
                "the name of their share"
            )
        self._problems, self._tokenizer, self._seed = list(problems), tokenizer, seed
        is_paired = any(share.task == FILE and share.twins for share in self._shares)
        self._units = _units(self._problems, is_paired)
        self._reasoning, self._band = reasoning, band
        self._pools = {} if reasoning is None else self._of_reasoning(reasoning)
        for name in {problem.task for problem in problems if problem.task}:
            environments.get(name).require()

    def __getitem__(self, number: int) -> Prompt:
        share, rng, side = self._share(number)
        if share.task == FILE:
            problem = self._from_file(number)
        else:
            low, high = self._band(share.task, share.difficulty)
            task, seed = environments.get(share.task), rng.getrandbits(40)
            if share.twins:
                seed = seed // 2 * 2 + side
            problem = task.generate(seed, rng.uniform(low, high), "train")
        problem = in_mode(problem, rng.choice(share.modes))
        return Prompt(number, problem, tuple(prompt_ids(problem, self._tokenizer)))

    def _share(self, number: int) -> tuple[Share, Random, int]:
        """(share of prompt `number`, random numbers to go on with, which of two twins it is).

        Prompts of a pool are dealt out by twos: where the first is of a share that draws twins, the
        second has its random numbers; else it is of a share that does not, which leaves the weights
        as they are.
        """
        pool, first = self._pool(number), self._first_of_two(number)
        if first != number:
            share, rng = self._chosen(first, pool)
            if share.generates_twins:
                return share, rng, 1
            pool = [share for share in pool if not share.generates_twins]
        return *self._chosen(number, pool), 0

    def _chosen(self, number: int, pool: Sequence[Share]) -> tuple[Share, Random]:
        rng = Random(f"prompt/{self._seed}/{number}")
        return rng.choices(pool, [share.weight for share in pool])[0], rng

    def _first_of_two(self, number: int) -> int:
        """The prompt whose twin prompt `number` may be, or `number` itself."""
        pool = self._pool(number)
        if not any(share.generates_twins for share in pool):
            return number
        place = number  # in the pool
        if self._reasoning is not None:
            of_reasoning = math.floor(number * self._reasoning)
            place = of_reasoning if pool is self._pools[True] else number - of_reasoning
        if place % 2 == 0:
            return number
        return next(i for i in range(number - 1, -1, -1) if self._pool(i) is pool)

    def _of_reasoning(self, part: float) -> dict[bool, list[Share]]:
        """The shares of reasoning families, and the others. Raises ValueError where a part of the
        prompts is asked for that no share gives."""
        pools: dict[bool, list[Share]] = {True: [], False: []}
        for share in self._shares:
            tasks = {p.task for p in self._problems} if share.task == FILE else {share.task}
            pools[all(task and group_of(task) == REASONING for task in tasks)].append(share)
        if not (0 < part < 1 and pools[True] and pools[False]):
            raise ValueError(
                f"reasoning {part}: wanted a part of the prompts between 0 and 1, and shares of "
                f"both kinds; there are {len(pools[True])} of reasoning and {len(pools[False])} "
                "others"
            )
        return pools

    def _pool(self, number: int) -> list[Share]:
        """The shares that prompt `number` is drawn from: of any n prompts in a row, n x reasoning
        (rounded up or down) are of reasoning families."""
        if self._reasoning is None:
            return self._shares
        part = self._reasoning
        return self._pools[math.floor((number + 1) * part) > math.floor(number * part)]

    def _from_file(self, number: int) -> Problem:
        """Every problem once before any comes again, whatever else the mixture holds."""
        # Which of the file's prompts this is cannot be counted without the mixture's history, so
        # the number itself runs through the file: with other shares some come later, none twice.
        epoch, place = divmod(number, len(self._problems))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._units))
        if len(self._units) < len(self._problems):
            return [problem for unit in order for problem in self._units[unit]][place]
        return self._units[order[place]][0]


def _units(problems: Sequence[Problem], is_paired: bool) -> list[list[Problem]]:
    """Problems that are drawn together: twins, in their order, or every problem alone."""
    units: dict[str | int, list[Problem]] = {}
    for number, problem in enumerate(problems):
        units.setdefault((is_paired and problem.twin) or number, []).append(problem)
    if is_paired and len(units) == len(problems):
        raise ValueError(f"twins: no two of the file's {len(problems)} problems are twins")
    return list(units.values())


def group_of(task: str) -> str:
    """The report's group of a family (rewards.task.GROUPS); worlds are of "agent"."""
    return "agent" if task in environments.WORLDS else rewards.get(task).group


def in_mode(problem: Problem, mode: str) -> Problem:
    """With the flag of `mode`, unless the problem asks for a mode itself."""
    return problem if mode == "any" or problem.mode != "any" else problem.flagged(mode)


def _check(share: Share) -> None:
    if share.task != FILE:
        environments.get(share.task).require()
        if share.twins and not environments.get(share.task).paired:
            raise ValueError(f"twins: {share.task!r} is no family of pairs")
    low, high = share.difficulty
    if not 0 <= low <= high <= 1:
        raise ValueError(f"difficulty {share.difficulty} of {share.task!r} is no range in 0..1")
    unknown = sorted(set(share.modes) - {*ANY, *MODES})
    if unknown or not share.modes:
        raise ValueError(f"modes {share.modes} of {share.task!r}: choose from {(*ANY, *MODES)}")


def fitting_problems(
    path: str,
    shares: Sequence[Share],
    tokenizer: Tokenizer,
    *,
    most: int,
    too_long: str,
    scored: bool,
) -> list[Problem]:
    """The problems of a file whose prompt has at most `most` tokens in every mode of its shares.

    too_long "error": ValueError for one that has more, "drop": it is left out, with a warning that
    names it. scored: ValueError for a problem without a task. [] for no path. All of it is looked
    at when a run begins: prompts are f(seed, number), and one that could not be sampled would end
    the run when it is drawn, maybe after days, and again after every restart.
    """
    if too_long not in TOO_LONG:
        raise ValueError(f"too_long {too_long!r} is none of {', '.join(TOO_LONG)}")
    problems = read_problems(path) if path else []
    bare = [number for number, problem in enumerate(problems, 1) if not problem.task]
    if scored and bare:
        raise ValueError(
            f"{path}: {len(bare)} of {len(problems)} problems have no task to score their answers "
            f"by; the first is problem {bare[0]}"
        )
    modes = sorted({mode for share in shares if share.task == FILE for mode in share.modes})
    lengths = [max(_prompt_lengths(problem, modes, tokenizer), default=0) for problem in problems]
    longer = [number for number, length in enumerate(lengths, 1) if length > most]
    if not longer:
        return problems
    message = (
        f"{path}: the prompts of {len(longer)} of {len(problems)} problems have more than {most} "
        f"tokens and leave no room for an answer: {_some(longer)}"
    )
    if too_long == "error" or len(longer) == len(problems):
        raise ValueError(f'{message}. Raise the length, or leave them out with too_long="drop"')
    log.warning("%s. They are left out", message)
    return [problem for problem, length in zip(problems, lengths, strict=True) if length <= most]


def _prompt_lengths(problem: Problem, modes: Sequence[str], tokenizer: Tokenizer) -> Iterator[int]:
    for mode in modes:
        yield len(prompt_ids(in_mode(problem, mode), tokenizer))


def _some(numbers: Sequence[int], count: int = 10) -> str:
    shown = ", ".join(f"problem {number}" for number in numbers[:count])
    return shown if len(numbers) <= count else f"{shown}, ..."
