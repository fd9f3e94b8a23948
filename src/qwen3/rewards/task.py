"""What a verifiable task is: seeded generator, scorer, oracle, random policy, worked examples.

A family writes four plain functions about the *answer*; the turn around it (think block, mode, end
token) is judged here once for all of them, so reward = format and mode AND answer.
"""

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from qwen3.rewards import response

SPLITS = ("train", "heldout")
HELD_SHARE = 10  # one content key in ten belongs to the held-out split
LONGEST = 65_536  # characters of an answer that a scorer looks at; longer ones score 0

log = logging.getLogger(__name__)


class NoVerdict(Exception):
    """The verifier could not decide (it died, hung or is broken): the sample is left out, not 0."""


@dataclass(frozen=True)
class Problem:
    """One prompt with what its scorer needs. All fields are plain JSON values.

    messages: chat format, ends with a user turn. answer: the family's own record.
    mode: "any", or the mode the turn must obey: "think", "no_think".
    """

    task: str
    messages: list[dict]
    answer: dict[str, Any]
    difficulty: float = 0.0
    tools: list[dict] | None = None
    mode: str = "any"

    def flagged(self, mode):
        """The same problem with the soft switch of `mode` at the end of its last user turn."""
        if mode not in response.MODES[1:]:
            raise ValueError(f"mode {mode!r} is none of {response.MODES[1:]}")
        if self.mode != "any":
            raise ValueError(f"a problem of {self.task!r} already asks for mode {self.mode!r}")
        last = dict(self.messages[-1])
        last["content"] += f" /{mode}"
        return replace(self, messages=[*self.messages[:-1], last], mode=mode)


@dataclass(frozen=True)
class Task:
    """One family of problems.

    make(rng, difficulty, split) -> Problem. grade(problem, answer) -> [0, 1], may raise NoVerdict.
    solve(problem) -> (thinking, answer) that grades 1. guess(problem, rng) -> an answer of a policy
    that knows the form only. examples: (problem, response, score), adversarial ones included.
    require(): raises where the machine cannot run the family (code without a sandbox).
    """

    name: str
    make: Callable[[Random, float, str], Problem]
    grade: Callable[[Problem, str], float]
    solve: Callable[[Problem], tuple[str, str]]
    guess: Callable[[Problem, Random], str]
    examples: tuple = field(repr=False)
    require: Callable[[], None] = lambda: None

    def generate(self, seed, difficulty=0.5, split="train", mode="any"):
        """The problem of `seed` (int), difficulty in 0..1, in the wordings of `split`."""
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {SPLITS}")
        if not 0 <= difficulty <= 1:
            raise ValueError(f"difficulty {difficulty!r} is not in 0..1")
        problem = self.make(Random(f"{self.name}/{split}/{seed}"), difficulty, split)
        return problem if mode == "any" else problem.flagged(mode)

    def score(self, problem, text):
        """Reward of the turn `text` in [0, 1]; None if there is no verdict."""
        turn = response.read(text)
        if turn is None or not turn.obeys(problem.mode):
            return 0.0
        if not turn.answer or len(turn.answer) > LONGEST:
            return 0.0
        try:
            value = float(self.grade(problem, turn.answer))
        except NoVerdict as error:
            log.warning("%s: no verdict: %s", self.name, error)
            return None
        assert math.isfinite(value) and 0 <= value <= 1, (self.name, value)
        return value

    def oracle(self, problem):
        """A turn that scores 1, in the problem's mode."""
        thinking, answer = self.solve(problem)
        return response.render("" if problem.mode == "no_think" else thinking, answer)

    def random_answer(self, problem, seed):
        """A well-formed turn of a policy that knows the format and nothing else."""
        answer = self.guess(problem, Random(f"guess/{self.name}/{seed}"))
        return response.render("" if problem.mode == "no_think" else "A guess.", answer)


def in_split(key, split):
    """Whether the content `key` (any str) belongs to `split`: a fixed hash holds out one in ten."""
    held = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % HELD_SHARE == 0
    return held == (split == "heldout")


def draw_in_split(draw, key, split):
    """The first `draw()` whose `key(value)` falls in `split`."""
    for _ in range(10_000):
        value = draw()
        if in_split(key(value), split):
            return value
    raise AssertionError(f"no content for split {split!r} in 10,000 draws")


def ask(content):
    """A dialogue of one user turn."""
    return [{"role": "user", "content": content}]


def levels(difficulty, low, high):
    """Difficulty 0..1 as a whole number in low..high."""
    return low + round(difficulty * (high - low))
