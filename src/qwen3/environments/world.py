"""What a world is: seeded problems, tools on a state, a grader, and scripts that play it.

A world writes plain functions about its state; turns, calls and their errors are handled here once
for all. Like a task (`rewards.task`) it has an oracle, a policy that knows the form only, and
policies that cheat; these are scripts, which read what the environment says and give the next turn.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeAlias

from qwen3.data.chat import Parsed
from qwen3.environments.episode import EnvironmentStep, Episode, EpisodeLimits
from qwen3.environments.tool_functions import Tool, call_tool
from qwen3.rewards import NoVerdict, Problem
from qwen3.rewards.task import SPLITS, Make, no_requirement
from qwen3.rewards.tool_call import write_call

log = logging.getLogger(__name__)

# Yields the text of a turn behind its thought, and is sent the contents of the messages to it.
Script: TypeAlias = Generator[str, list[str], None]
Turns: TypeAlias = Sequence[Parsed]


def no_reply(problem: Problem, state: Any, turns: Turns) -> Sequence[str]:
    """The user says nothing more: the first turn without a call ends the episode."""
    return ()


@dataclass(frozen=True)
class World:
    """One family of problems that are solved over several turns."""

    name: str
    make: Make  # (rng, difficulty, split) -> problem; two problems, in order, if `paired`
    tools: Sequence[Tool]
    start: Callable[[dict[str, Any]], Any]  # state of an episode, from the problem's own record
    grade: Callable[[Problem, Any, Turns], float]  # (problem, state, turns) -> score in [0, 1]
    solve: Callable[[Problem], Script]  # scores 1
    guess: Callable[[Problem, Random], Script]  # knows the form only
    hacks: Mapping[str, Callable[[Problem], Script]] = field(repr=False)  # all score 0
    limits: EpisodeLimits = EpisodeLimits()
    # (problem, state, turns) -> what the user says to a turn without a call; () for the end.
    reply: Callable[[Problem, Any, Turns], Sequence[str]] = no_reply
    slow: bool = False  # whether steps may take long, so that the engine does not wait for them
    require: Callable[[], None] = no_requirement  # raises where the machine cannot run the world
    paired: bool = False  # seeds 2k and 2k + 1 are twins: acting alike is never right for both

    @property
    def record(self) -> dict[str, type | None]:
        """Field -> type of what the answer of every problem of the world holds."""
        return {name: type(value) for name, value in self.generate(0).answer.items()}

    def generate(
        self, seed: int, difficulty: float = 0.5, split: str = "train", mode: str = "any"
    ) -> Problem:
        """The problem of `seed`, difficulty in 0..1, in the wordings of `split` ("heldout" too).

        Of a paired world, seeds 2k and 2k + 1 of one difficulty give the two problems of a pair.
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
        if problem.tools is None:
            problem = replace(problem, tools=[tool.listed for tool in self.tools])
        return problem if mode == "any" else problem.flagged(mode)

    def begin(self, problem: Problem) -> Episode:
        """A new episode of a problem, with a state of its own."""
        return ToolEpisode(self, problem)


class ToolEpisode:
    """An episode of a `World`: calls become tool messages, other turns go to the user."""

    def __init__(self, world: World, problem: Problem):
        self.world, self.problem = world, problem
        self.state = world.start(copy.deepcopy(problem.answer))
        self.turns: list[Parsed] = []
        self._tools = {tool.name: tool for tool in world.tools}

    def step(self, turn: Parsed) -> EnvironmentStep:
        """Execute the turn's calls in their order, or let the user speak."""
        self.turns.append(turn)
        calls = len(turn.tool_calls) + len(turn.malformed)
        if not calls:
            more = self.world.reply(self.problem, self.state, self.turns)
            return EnvironmentStep(
                [{"role": "user", "content": text} for text in more], done=not more
            )
        most = self.world.limits.calls_per_turn
        results = [call_tool(self._tools, self.state, call) for call in turn.tool_calls[:most]]
        if len(turn.tool_calls) > most:
            results.append(f"error: only the first {most} calls of a turn are executed")
        if turn.malformed:
            results.append(
                'error: not a call {"name": ..., "arguments": {...}} between <tool_call> and '
                f"</tool_call>: {turn.malformed[0][:80]!r}"
            )
        return EnvironmentStep([{"role": "tool", "content": text} for text in results], calls=calls)

    def verdict(self) -> float | None:
        """The world's grade."""
        try:
            value = float(self.world.grade(self.problem, self.state, self.turns))
        except NoVerdict as error:
            log.warning("%s: no verdict: %s", self.world.name, error)
            return None
        if not (math.isfinite(value) and 0 <= value <= 1):
            raise ValueError(f"{self.world.name} graded {value!r}; a score is in 0..1")
        return value


# --- scripts --------------------------------------------------------------------------------------
def calls(*named: tuple[str, dict[str, Any]]) -> str:
    """A turn that calls (name, arguments) one after the other."""
    return "\n".join(write_call(name, arguments) for name, arguments in named)


def fixed(*turns: str) -> Script:
    """The same turns, whatever the environment says."""
    for text in turns:
        _ = yield text  # what is sent is not looked at
