"""Answers to problems of tasks and of worlds alike: sampled, scored, in the problems' order.

What `rewards.answers` does for one turn, for a mixture that holds episodes of several turns too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwen3 import environments
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.agent_loop import AgentLoop, Trajectory
from qwen3.infer.backend import RolloutBackend, TurnBackend
from qwen3.infer.requests import PRESETS, Request, SamplingParams
from qwen3.rewards import Problem, answers
from qwen3.rewards.answers import ScoredAnswer, Scorer, requests_for


def ask(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    sampling: SamplingParams = PRESETS["greedy"],
    samples: int = 1,
    enable_thinking: bool | None = None,
    seed: int = 0,
    **options: Any,
) -> list[list[ScoredAnswer]]:
    """`samples` scored answers to each problem, in the problems' order.

    enable_thinking False: the hard switch of the template. options: further fields of
    `infer.requests.Request` (budget, thinking, ...); max_tokens are those of all turns of an
    episode together. Raises as `sample_answers` does.
    """
    switch = {"enable_thinking": enable_thinking}
    requests = requests_for(tokenizer, problems, sampling=sampling, seed=seed, **switch, **options)
    scored = sample_answers(
        backend, tokenizer, problems, requests, samples=samples, score=answers.score, **switch
    )
    return [scored[i : i + samples] for i in range(0, len(scored), samples)]


def sample_answers(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    requests: Sequence[Request],
    *,
    samples: int,
    score: Scorer,
    enable_thinking: bool | None = None,
) -> list[ScoredAnswer]:
    """`samples` answers to each request in turn, those to problems of a world as episodes.

    Single answers are sampled first, then all episodes together. score: of single answers; an
    episode is judged by its environment. enable_thinking: as the prompts were rendered. Raises as
    `rewards.answers.sample_answers` does, and ValueError for episodes on a backend that takes no
    requests on the way.
    """
    is_world = [problem.task in environments.WORLDS for problem in problems]
    worlds = [i for i, several in enumerate(is_world) if several]
    tasks = [i for i, several in enumerate(is_world) if not several]
    scored: dict[int, list[ScoredAnswer]] = {}
    if tasks:
        single = answers.sample_answers(
            backend,
            tokenizer,
            [problems[i] for i in tasks],
            [requests[i] for i in tasks],
            samples=samples,
            score=score,
        )
        scored |= {i: single[k * samples : (k + 1) * samples] for k, i in enumerate(tasks)}
    if worlds:
        copies = [(problems[i], copy) for i in worlds for copy in requests[i].samples(samples)]
        played = play(backend, tokenizer, copies, enable_thinking=enable_thinking)
        scored |= {i: played[k * samples : (k + 1) * samples] for k, i in enumerate(worlds)}
    return [answer for i in range(len(problems)) for answer in scored[i]]


def play(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    starts: Sequence[tuple[Problem, Request]],
    *,
    enable_thinking: bool | None = None,
) -> list[ScoredAnswer]:
    """An episode for each (problem, request of its first turn), in their order."""
    if not isinstance(backend, TurnBackend):
        raise ValueError(
            f"{type(backend).__name__} has no submit, step, abort and max_length, which episodes "
            f"of several turns need ({starts[0][0].task})"
        )
    trajectories = [
        Trajectory(number, environments.WORLDS[problem.task], problem, request)
        for number, (problem, request) in enumerate(starts)
    ]
    AgentLoop(backend, tokenizer, enable_thinking=enable_thinking).run(trajectories)
    return [trajectory.answer(tokenizer) for trajectory in trajectories]
