"""Answers on their way from a sampler that goes on from phase to phase: single ones and episodes.

Each prompt's answers are a group, which is scored when the last of them has ended. Turns of
episodes and single answers are decoded beside each other; an episode begins with the weights that
its first turn is submitted to, and goes on over new ones, as a single answer does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from qwen3 import environments, hosts
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.agent_loop import AgentLoop, Trajectory
from qwen3.infer.backend import TurnBackend
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import Completion, Request
from qwen3.rewards.answers import ScoredAnswer, Scorer, scored_answers
from qwen3.stages.prompts import Prompt

PAUSE = 0.002  # seconds between two looks at environments, where there is nothing to decode


class GroupInFlight(Protocol):
    """The answers to one prompt on their way."""

    @property
    def done(self) -> bool:
        """Whether all have ended."""
        ...

    @property
    def so_far(self) -> Iterator[ScoredAnswer]:
        """What there is of them, without score; nothing where routing is recorded, which is told
        of finished answers alone.
        """
        ...

    def answers(self) -> list[ScoredAnswer]:
        """All of them, with their scores."""
        ...


class SingleAnswers:
    """Answers of one turn, scored together."""

    def __init__(
        self, prompt: Prompt, states: list[RequestState], tokenizer: Tokenizer, score: Scorer
    ):
        self._prompt, self._states = prompt, states
        self._tokenizer, self._score = tokenizer, score

    @property
    def done(self) -> bool:
        return all(state.done for state in self._states)

    @property
    def so_far(self) -> Iterator[ScoredAnswer]:
        for state in self._states:
            if not state.expert_ids:
                yield ScoredAnswer(self._prompt.problem, state.completion, "")

    def answers(self) -> list[ScoredAnswer]:
        completions = [state.completion for state in self._states]
        owners = [self._prompt.problem] * len(completions)
        return scored_answers(self._tokenizer, owners, completions, score=self._score)


class Episodes:
    """Episodes of several turns, judged by their worlds."""

    def __init__(self, trajectories: list[Trajectory], loop: AgentLoop, tokenizer: Tokenizer):
        self._trajectories, self._loop, self._tokenizer = trajectories, loop, tokenizer

    @property
    def done(self) -> bool:
        return all(trajectory.stop for trajectory in self._trajectories)

    @property
    def so_far(self) -> Iterator[ScoredAnswer]:
        for trajectory in self._trajectories:
            turn = self._loop.turn_of(trajectory)
            recorded = turn is not None and turn.expert_ids
            if not recorded and trajectory.completion.experts is None:
                now = copied(trajectory.completion, None if turn is None else turn.completion)
                yield ScoredAnswer(trajectory.problem, now, "")

    def answers(self) -> list[ScoredAnswer]:
        return [trajectory.answer(self._tokenizer) for trajectory in self._trajectories]


class AnswersInFlight:
    """Begins groups on a backend, and has it work on them."""

    def __init__(self, backend: TurnBackend, tokenizer: Tokenizer, score: Scorer):
        self._backend, self._tokenizer, self._score = backend, tokenizer, score
        self._loop = AgentLoop(backend, tokenizer)
        self._states: list[RequestState] = []  # single answers that have not ended
        self._begun = 0  # episodes so far

    def begin(self, prompt: Prompt, requests: list[Request]) -> GroupInFlight:
        """The group of answers to these requests. ValueError for one that cannot be served."""
        task = prompt.problem.task
        if task not in environments.WORLDS:
            states = self._backend.submit(requests)
            self._states += states
            return SingleAnswers(prompt, states, self._tokenizer, self._score)
        world, first = environments.WORLDS[task], self._begun
        self._begun += len(requests)
        trajectories = [
            Trajectory(first + i, world, prompt.problem, request)
            for i, request in enumerate(requests)
        ]
        self._loop.begin(trajectories)
        return Episodes(trajectories, self._loop, self._tokenizer)

    def step(self, *, wait: bool) -> None:
        """A block of tokens, and what environments have answered by then. wait: for one of them,
        where there is nothing to decode.
        """
        self._states = [state for state in self._states if not state.done]
        if self._states or self._loop.decoding:
            self._backend.step()
        else:
            hosts.alive()
            time.sleep(0.0 if wait else PAUSE)
        self._loop.go_on(wait=wait and not any(not state.done for state in self._states))


def copied(completion: Completion, more: Completion | None = None) -> Completion:
    """What there is of an answer now; more: of the turn that it goes on with."""
    now = replace(
        completion,
        tokens=list(completion.tokens),
        log_probs=list(completion.log_probs),
        forced=list(completion.forced),
        versions=list(completion.versions),
    )
    if more is not None:
        now.tokens += more.tokens
        now.log_probs += more.log_probs
        now.forced += more.forced
        now.versions += more.versions
    return now
