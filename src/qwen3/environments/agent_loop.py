"""The agent loop: episodes of several turns, all at once, on an engine with continuous batching.

    sample a turn -> step the environment -> append its messages as forced tokens -> sample on

What was sampled is never decoded and encoded again. Tokens of the environment are forced, with
log-probability 0, so that no loss trains on them. A turn's random numbers depend on the run's seed,
its prompt, its sample and its place in the conversation only. Steps of slow worlds run beside the
engine; those of others are waited for at once, so that the order of work is the same in every run.

Thinking blocks of all turns stay in the conversation. The released chat template leaves out those
before the last user turn, and empty ones before the last answer: within one user turn a thinking
policy sees what it will see in use, without thinking it sees its empty blocks besides.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from qwen3 import hosts
from qwen3.data import chat
from qwen3.data.chat_prompt import turn_opening
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode import ANSWERED, CUT, NO_VERDICT, PARSE, cut_visibly
from qwen3.environments.observations import observation_ids
from qwen3.environments.timed_calls import CallPool, TimedCall
from qwen3.environments.world import World
from qwen3.infer.backend import TurnBackend
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import Completion, Request
from qwen3.rewards import Problem, response
from qwen3.rewards.answers import Score, ScoredAnswer, Transcript

log = logging.getLogger("qwen3")

WORKERS = 16  # slow steps at a time
MOST_MESSAGES = 64  # of one step


class Outcome(NamedTuple):
    """What an environment made of a turn: plain JSON values, as processes exchange them."""

    messages: list[dict[str, Any]]
    done: bool
    calls: int = 0
    score: Score = None  # of an episode that is done
    stop: str = ""  # one of NO_VERDICT where the environment failed


class Trajectory:
    """One episode with its tokens. `request` is that of the first turn; ValueError for one with
    stop strings, behind which a turn has no end token.
    """

    def __init__(self, number: int, world: World, problem: Problem, request: Request):
        if request.stop_strings:
            raise ValueError(f"{world.name}: a turn ends with its end token, not at stop strings")
        self.number, self.world, self.problem, self.request = number, world, problem, request
        self.completion = Completion(request)
        self.turns: list[list[int]] = []
        self.texts: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.calls = 0
        self.stop = ""
        self.score: Score = None
        self.episode = world.begin(problem)
        self.opening = ""  # what the prompt holds of the next turn

    @property
    def ids(self) -> list[int]:
        """All tokens so far."""
        return [*self.request.prompt, *self.completion.tokens]

    @property
    def tokens_left(self) -> int | None:
        """How many tokens the policy may still write; None for no limit but the turns'."""
        if self.request.max_tokens is None:
            return None
        return self.request.max_tokens - sum(end - start for start, end in self.turns)

    def next_request(self, tokenizer: Tokenizer) -> Request:
        """The request for the next turn."""
        ids, most = self.ids, self.world.limits.turn_tokens
        self.opening = turn_opening(tokenizer, ids)
        left = most if self.tokens_left is None else min(most, self.tokens_left)
        return dataclasses.replace(self.request, prompt=ids, max_tokens=left, turn=len(self.turns))

    def add_turn(self, turn: Completion, text: str) -> chat.Parsed:
        """Append what the policy wrote; returns it in its parts."""
        start = len(self.completion.tokens)
        for name in ("tokens", "log_probs", "sampling_log_probs", "forced", "versions"):
            getattr(self.completion, name).extend(getattr(turn, name))
        self.completion.finish = turn.finish
        self.turns.append([start, len(self.completion.tokens)])
        self.texts.append(text)
        self._add_experts(turn)
        parsed = chat.parse(text)
        self.messages.append(parsed.message())
        return parsed

    def _add_experts(self, turn: Completion) -> None:
        """Routing of the inputs as they were sampled: of those before this turn's first token, what
        earlier turns recorded."""
        if turn.experts is not None:
            before = self.completion.experts
            known = 0 if before is None else len(before)
            parts = ([] if before is None else [before]) + [turn.experts[known:]]
            self.completion.experts = np.concatenate(parts)

    def add_observation(self, ids: Sequence[int], messages: Sequence[dict[str, Any]]) -> None:
        """Append the environment's messages as forced tokens."""
        completion, count = self.completion, len(ids)
        completion.tokens.extend(ids)
        completion.log_probs.extend([0.0] * count)
        completion.sampling_log_probs.extend([0.0] * count)
        completion.forced.extend([True] * count)
        completion.versions.extend([completion.versions[-1]] * count)
        self.messages.extend(messages)

    def end(self, stop: str, score: Score = None) -> None:
        """Stop for a reason. What was cut or malformed scores 0; without a verdict it is None."""
        self.stop, self.score = stop, score if stop in (ANSWERED, *NO_VERDICT) else 0.0

    def answer(self, tokenizer: Tokenizer) -> ScoredAnswer:
        """The finished episode."""
        transcript = Transcript(
            self.turns, self.texts, self.stop, self.stop in CUT, self.calls, self.messages
        )
        text = tokenizer.decode(self.completion.tokens)
        return ScoredAnswer(self.problem, self.completion, text, self.score, transcript)


def advance(trajectory: Trajectory, turn: chat.Parsed) -> Outcome:
    """Step the environment, and ask for its verdict where it is done. Runs in a thread."""
    step, world = trajectory.episode.step(turn), trajectory.world
    messages = [dict(message) for message in step.messages]
    if len(messages) > MOST_MESSAGES:
        raise ValueError(f"{len(messages)} messages in one step; at most {MOST_MESSAGES} are shown")
    for message in messages:
        message["content"] = cut_visibly(message["content"], world.limits.observation_chars)
    if not step.done and not messages:
        raise ValueError("a step without messages that is not the last")
    score = trajectory.episode.verdict() if step.done else None
    return Outcome(messages, step.done, step.calls, score)


def outcome_of(trajectory: Trajectory, call: TimedCall) -> Outcome:
    """The outcome of a step; a failure of the environment is logged by name, and is no verdict."""
    name = trajectory.world.name
    try:
        return call.result()
    except TimeoutError as error:
        log.error("environment %s: %s; its episode has no verdict", name, error)
        return Outcome([], True, stop="tool_time")
    except Exception as error:
        log.error("environment %s failed; its episode has no verdict", name, exc_info=error)
        return Outcome([], True, stop="env_error")


class AgentLoop:
    """Episodes on their way to an end; see the module's docstring. `run` takes some to theirs; who
    has the backend work on other requests too calls `begin`, and `go_on` after its steps.
    """

    def __init__(
        self, backend: TurnBackend, tokenizer: Tokenizer, *, enable_thinking: bool | None = None
    ):
        self._backend, self._tokenizer = backend, tokenizer
        self._enable_thinking = enable_thinking
        self._sampling: dict[RequestState, Trajectory] = {}
        self._pool = CallPool(WORKERS)
        self._steps: list[tuple[Trajectory, chat.Parsed]] = []  # turns that wait for their step

    def run(self, trajectories: Sequence[Trajectory]) -> None:
        """Go on until every trajectory has stopped. Raises RuntimeError for a turn that the
        backend could not finish.
        """
        try:
            self.begin(trajectories)
            while self._sampling or len(self._pool):
                if self._sampling:
                    self._backend.step()
                self.go_on()
        finally:
            self._backend.abort(list(self._sampling))

    @property
    def decoding(self) -> bool:
        """Whether the backend works on a turn."""
        return bool(self._sampling)

    def turn_of(self, trajectory: Trajectory) -> RequestState | None:
        """The turn of a trajectory that is being decoded; None while it waits for its world."""
        states = (state for state, owner in self._sampling.items() if owner is trajectory)
        return next(states, None)

    def go_on(self, *, wait: bool = True) -> None:
        """After a step of the backend: turns that are finished go to their environments, and what
        these have answered goes on. wait: for an answer, where no turn is being decoded.
        """
        for state in [state for state in self._sampling if state.done]:
            self._take(self._sampling.pop(state), state.completion)
        for trajectory, outcome in self._outcomes(wait):
            self._observe(trajectory, outcome)

    def begin(self, trajectories: Sequence[Trajectory]) -> None:
        """Submit the next turn of each."""
        requests = [trajectory.next_request(self._tokenizer) for trajectory in trajectories]
        states = self._backend.submit(requests)
        self._sampling.update(zip(states, trajectories, strict=True))

    def _take(self, trajectory: Trajectory, turn: Completion) -> None:
        """A finished turn: to the environment, or the end."""
        if turn.error:
            raise RuntimeError(
                f"turn {len(trajectory.turns) + 1} of answer {turn.request.sample} to prompt "
                f"{turn.request.prompt_id}: {turn.error}"
            )
        text = trajectory.opening + self._tokenizer.decode(turn.tokens)
        parsed = trajectory.add_turn(turn, text)
        form = response.read(text)
        if turn.finish == "length":
            is_full = len(trajectory.ids) >= self._backend.max_length
            trajectory.end("context" if is_full else "tokens")
        elif (
            turn.tokens[-1] != self._tokenizer.im_end
            or form is None
            or not form.obeys(trajectory.problem.mode)
        ):
            trajectory.end(PARSE)
        else:
            self._steps.append((trajectory, parsed))

    def _outcomes(self, wait: bool) -> list[tuple[Trajectory, Outcome]]:
        """What environments answered by now, in a fixed order where no slow world is among them."""
        steps, self._steps = self._steps, []
        if jax.process_count() > 1:
            return _agreed(steps) if steps else []
        outcomes = []
        for trajectory, turn in steps:
            call = _timed(trajectory, turn)
            if trajectory.world.slow:
                self._pool.add(trajectory, call)
            else:
                call.start()
                outcomes.append((trajectory, outcome_of(trajectory, call)))
        late = self._pool.finished(block=wait and not self._sampling and not outcomes)
        return outcomes + [(owner, outcome_of(owner, call)) for owner, call in late]

    def _observe(self, trajectory: Trajectory, outcome: Outcome) -> None:
        """Append the environment's answer and sample on, unless the episode ends here."""
        trajectory.calls += outcome.calls
        if outcome.done:
            trajectory.end(outcome.stop or ANSWERED, outcome.score)
        elif stop := reached_limit(trajectory):
            trajectory.end(stop)
        elif (ids := self._observation(trajectory, outcome)) is None:
            trajectory.end("env_error")
        elif len(trajectory.ids) + len(ids) >= self._backend.max_length:
            trajectory.end("context")
        else:
            trajectory.add_observation(ids, outcome.messages)
            self.begin([trajectory])

    def _observation(self, trajectory: Trajectory, outcome: Outcome) -> list[int] | None:
        """The tokens of the environment's messages; None for messages that are none, logged."""
        try:
            return observation_ids(
                self._tokenizer, outcome.messages, enable_thinking=self._enable_thinking
            )
        except ValueError as error:
            name = trajectory.world.name
            log.error("environment %s: %s; its episode has no verdict", name, error)
            return None


def reached_limit(trajectory: Trajectory) -> str:
    """The limit that keeps the policy from another turn, one of episode.CUT; "" for none."""
    limits, left = trajectory.world.limits, trajectory.tokens_left
    reached = {
        "calls": trajectory.calls > limits.calls,
        "turns": len(trajectory.turns) >= limits.turns,
        "tokens": left is not None and left < 1,
    }
    return next((stop for stop, is_reached in reached.items() if is_reached), "")


def _timed(trajectory: Trajectory, turn: chat.Parsed) -> TimedCall:
    return TimedCall(partial(advance, trajectory, turn), trajectory.world.limits.step_seconds)


def _agreed(steps: Sequence[tuple[Trajectory, chat.Parsed]]) -> list[tuple[Trajectory, Any]]:
    """The outcomes on many hosts: each steps the environments of its share, and all hear of all.

    An episode's environment lives in one process. Every engine must be given the same requests in
    the same order, so the hosts wait for each other's steps, slow ones too.
    """
    count, own = jax.process_count(), jax.process_index()
    mine = [(c, _timed(c, turn)) for c, turn in steps if c.number % count == own]
    for _, call in mine:
        call.start()
    told = json.dumps([(c.number, *outcome_of(c, call)) for c, call in mine])
    rows = [row for text in hosts.gathered_words(told) for row in json.loads(text)]
    outcomes = {number: Outcome(*fields) for number, *fields in rows}
    return [(trajectory, outcomes[trajectory.number]) for trajectory, _ in steps]
