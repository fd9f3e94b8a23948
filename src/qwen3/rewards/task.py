"""What a verifiable task is: seeded generator, scorer, oracle, random policy, worked examples.

A family writes four plain functions about the *answer*; the turn around it (think block, mode, end
token) is judged here once for all of them, so reward = format and mode AND answer.
"""

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, ClassVar, TypeAlias, TypeVar

from qwen3.rewards import response

SPLITS = ("train", "heldout")
# The report's groups of general RL (arXiv 2505.09388, 4.4), and reasoning, its third stage (4.2).
GROUPS = ("instruction", "format", "preference", "agent", "special", "reasoning")
HELD_SHARE = 10  # one content key in ten belongs to the held-out split
LONGEST = 65_536  # characters of an answer that a scorer looks at; longer ones score 0

T = TypeVar("T")

log = logging.getLogger(__name__)


class NoVerdict(Exception):
    """The verifier could not decide (it died, hung or is broken): the sample is left out, not 0."""


@dataclass(frozen=True)
class Problem:
    """One prompt with what its scorer needs. All fields are plain JSON values."""

    task: str  # name of a row of TASKS
    messages: list[dict]  # chat format; the last one is a user turn
    answer: dict[str, Any]  # the family's own record: reference answer, tests, ...
    difficulty: float = 0.0  # 0..1
    tools: list[dict] | None = None  # tools on offer, as the chat template lists them
    mode: str = "any"  # mode that the turn must obey: "any", "think" or "no_think"
    twin: str = ""  # the same text in the two problems of a pair; "" outside of pairs

    def flagged(self, mode: str) -> "Problem":
        """The same problem with the soft switch of `mode` at the end of its last user turn.

        Raises ValueError for an unknown mode and for a problem that already asks for one.
        """
        if mode not in response.REQUIRED_MODES[1:]:
            raise ValueError(f"mode {mode!r} is none of {response.REQUIRED_MODES[1:]}")
        if self.mode != "any":
            raise ValueError(f"a problem of {self.task!r} already asks for mode {self.mode!r}")
        last = dict(self.messages[-1])
        last["content"] += f" /{mode}"
        return replace(self, messages=[*self.messages[:-1], last], mode=mode)


def no_requirement() -> None:
    """Every machine can run the family."""


Make: TypeAlias = Callable[[Random, float, str], "Problem | tuple[Problem, Problem]"]


@dataclass(frozen=True)
class Task:
    """One family of problems."""

    name: str
    make: Make  # (rng, difficulty, split) -> problem; two problems, in order, if `paired`
    grade: Callable[[Problem, str], float]  # score of an answer in [0, 1]; may raise NoVerdict
    solve: Callable[[Problem], tuple[str, str]]  # (thinking, answer) that grades 1
    guess: Callable[[Problem, Random], str]  # answer of a policy that knows the form only
    examples: Sequence[tuple[Problem, str, float]] = field(repr=False)  # adversarial ones included
    require: Callable[[], None] = no_requirement  # raises where the machine cannot run the family
    group: str = "reasoning"  # of GROUPS
    paired: bool = False  # seeds 2k and 2k + 1 are twins: one answer is never right for both

    strict_turns: ClassVar[bool] = True  # whether a malformed turn scores 0, and all is in 0..1

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"task {self.name}: group {self.group!r} is none of {GROUPS}")

    @property
    def record(self) -> dict[str, type | None]:
        """Field -> type of what the answer of every problem of the family holds, by its examples;
        None where the types differ."""
        answers = [problem.answer for problem, *_ in self.examples]
        names = set.intersection(*map(set, answers)) if answers else set()
        kinds = {name: {type(answer[name]) for answer in answers} for name in sorted(names)}
        return {name: kind.pop() if len(kind) == 1 else None for name, kind in kinds.items()}

    def generate(
        self, seed: int, difficulty: float = 0.5, split: str = "train", mode: str = "any"
    ) -> Problem:
        """The problem of `seed`, difficulty in 0..1, in the wordings of `split` ("heldout" too).

        Of a paired family, seeds 2k and 2k + 1 of one difficulty give the two problems of a pair.
        Raises ValueError for an unknown split or mode, or a difficulty outside of 0..1.
        """
        if split not in SPLITS:
            raise ValueError(f"split {split!r} is none of {SPLITS}")
        if not 0 <= difficulty <= 1:
            raise ValueError(f"difficulty {difficulty!r} is not in 0..1")
        number, side = divmod(seed, 2) if self.paired else (seed, 0)
        drawn = self.make(Random(f"{self.name}/{split}/{number}"), difficulty, split)
        problem = drawn if isinstance(drawn, Problem) else drawn[side]
        if self.paired:
            problem = replace(problem, twin=f"{self.name}/{split}/{number}/{difficulty}")
        return problem if mode == "any" else problem.flagged(mode)

    def score(self, problem: Problem, text: str) -> float | None:
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

    def oracle(self, problem: Problem) -> str:
        """A turn that scores 1, in the problem's mode."""
        thinking, answer = self.solve(problem)
        return response.render("" if problem.mode == "no_think" else thinking, answer)

    def random_answer(self, problem: Problem, seed: int) -> str:
        """A well-formed turn of a policy that knows the format and nothing else."""
        answer = self.guess(problem, Random(f"guess/{self.name}/{seed}"))
        return response.render("" if problem.mode == "no_think" else "A guess.", answer)


def in_split(key: str, split: str) -> bool:
    """Whether the content `key` belongs to `split`: a fixed hash holds out one key in ten."""
    held = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) % HELD_SHARE == 0
    return held == (split == "heldout")


def draw_in_split(draw: Callable[[], T], key: Callable[[T], str], split: str) -> T:
    """The first `draw()` whose `key(value)` falls in `split`."""
    for _ in range(10_000):
        value = draw()
        if in_split(key(value), split):
            return value
    raise AssertionError(f"no content for split {split!r} in 10,000 draws")


def ask(content: str) -> list[dict]:
    """A conversation of one user turn."""
    return [{"role": "user", "content": content}]


def levels(difficulty: float, low: int, high: int) -> int:
    """Difficulty 0..1 as a whole number in low..high."""
    return low + round(difficulty * (high - low))
