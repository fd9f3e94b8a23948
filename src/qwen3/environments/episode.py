"""What an environment of several turns is: an episode is stepped with turns and gives a verdict.

An episode sees parsed turns of the policy and answers with messages; it never sees tokens. The
problem is its first observation: messages and tools as the prompt shows them. `agent_loop` keeps
the tokens, the limits and the reasons why an episode stops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from qwen3.data.chat import Parsed

ANSWERED = "answered"  # the environment says that it is done: only then is there a verdict to pay
# An episode that is cut by one of its limits scores 0, as an answer without an end does.
CUT = ("turns", "tokens", "context", "calls")
PARSE = "parse"  # a malformed turn, one in another mode than was asked for, or without <|im_end|>
# The environment raised, or took longer than its limit: nothing is known about the policy.
NO_VERDICT = ("env_error", "tool_time")
STOPS = (ANSWERED, *CUT, PARSE, *NO_VERDICT)


@dataclass(frozen=True)
class EpisodeLimits:
    """Where an episode is cut. ValueError for a limit below 1."""

    turns: int = 8  # turns of the policy
    turn_tokens: int = 512  # of one turn, thinking included
    calls: int = 32  # tool calls of the whole episode
    calls_per_turn: int = 8  # calls beyond are not executed, and told so
    observation_chars: int = 2_000  # of one message of the environment, the rest is cut visibly
    step_seconds: float = 30.0  # of one step of the environment, all its calls together

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1 and name != "step_seconds" or value <= 0:
                raise ValueError(f"{name} {value} of an episode: wanted at least 1")


@dataclass(frozen=True)
class EnvironmentStep:
    """What an environment says to a turn."""

    messages: Sequence[Mapping[str, Any]] = ()  # of roles "tool", "user" or "system"
    done: bool = False  # the episode is over; messages are not shown any more
    calls: int = 0  # tool calls that the turn made, valid or not


class Episode(Protocol):
    """One conversation with its own state, which depends on nothing but its problem and turns."""

    def step(self, turn: Parsed) -> EnvironmentStep:
        """The answer to a turn. What the policy does wrong is told in messages; an exception is a
        fault of the environment and ends the episode without a verdict.
        """
        ...

    def verdict(self) -> float | None:
        """Score in [0, 1] of a finished episode; None for no verdict. It is judged by the state and
        the policy's own turns: text of observations never earns anything.
        """
        ...


def cut_visibly(text: str, most: int) -> str:
    """The text's first `most` characters, and how many are left out; what has no UTF-8 is "?"."""
    text = text.encode("utf-8", "replace").decode()
    left_out = len(text) - most
    if left_out <= 0:
        return text
    return f"{text[:most]}\n[cut: {left_out:,} of {len(text):,} characters left out]"
