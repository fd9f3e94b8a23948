"""Asynchronous phases: answers for the next phases are sampled while this one is trained on.

    sampler    | block | block | weights | block | block | weights | ...
    trainer    |     step      |      step       |      step       | ...

A phase of M optimizer steps that begins at step s trains only on tokens that weights of step
s + M - 1 - staleness or later have sampled, because its prompts are submitted no earlier. Phases
take groups in the order of their prompts, not as they finish, so that short answers are not
preferred; a group without a difference is replaced by one new prompt. Answers that are unfinished
when weights arrive go on over their KV cache, and each token keeps its version (in-flight updates,
PipelineRL, arXiv 2509.19128; bounded staleness, AReaL, arXiv 2505.24298). So does an episode of
several turns: what comes after is sampled by newer weights, what an environment says has the
version of the turn before it.

One thread does it all: JAX only queues a step, and until its devices are done with it, the engine
works on devices of its own. Where both have the same devices nothing overlaps, but no phase waits
for the longest answer of the next one.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.backend import RolloutBackend, TurnBackend
from qwen3.rewards.answers import Scorer
from qwen3.stages.answers_in_flight import AnswersInFlight, GroupInFlight, copied
from qwen3.stages.phases import Collect, Group, Method, Phase, PromptSource
from qwen3.stages.prompts import Prompt
from qwen3.stages.rollout_metrics import PhaseMetrics
from qwen3.stages.rollouts import Rollout, Sampling, by_prompt, request_for
from qwen3.train import across
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

PROBES = 4  # answers that the trainer's log-probabilities are compared on


class StreamingSampler(NamedTuple):
    """A sampler that new requests and new weights reach while it works."""

    begin: Callable[[TrainState], RolloutBackend]  # with the weights of that state
    weights: Callable[[TrainState], Any]  # that state's, as the backend takes them
    sampling: Sampling
    score: Scorer
    overlaps: bool  # whether it has devices of its own


class AsyncCollect(Collect):
    """As `Collect`, with answers in flight from one phase to the next.

    staleness: most optimizer steps between the weights that sample a token and the step that trains
    on it; at least `least`, the number of minibatches. Its memory has also the prompts in flight,
    which a restart samples again, and the answers since the last phase that are not trained on.
    """

    def __init__(
        self,
        prompts: PromptSource,
        sampler: StreamingSampler,
        method: Method,
        *,
        staleness: int,
        wanted: int,
        least: int,
        tokenizer: Tokenizer,
        work: Workdir,
        report: PhaseMetrics,
        times: Callable[[], dict[str, float]] = dict,
    ):
        super().__init__(
            prompts,
            _refuse,
            method,
            wanted=wanted,
            least=least,
            tokenizer=tokenizer,
            work=work,
            report=report,
            times=times,
        )
        self._sampler, self._steps = sampler, least
        # Optimizer steps that a token may be old when its phase begins.
        self._bound = staleness - (least - 1)
        self._backend: TurnBackend | None = None
        self._answers: AnswersInFlight | None = None  # what the backend works on
        self._flying: dict[int, GroupInFlight] = {}
        self._again: list[int] = []  # prompts that were in flight when the run ended
        self._aside: list[Rollout] = []  # since the last phase, and not to be trained on
        self._flat: Counter[str] = Counter()
        self._drawn = 0  # prompts since the last phase
        self._next_phase = 0  # step at which the next phase begins

    def stored(self) -> dict[str, Any]:
        flying = sorted([*self._flying, *self._again])
        aside = {"aside": by_prompt(self._aside), "flat": self._flat, "drawn": self._drawn}
        return {**self.memory, "flying": flying, **aside}

    def restore(self, memory: dict[str, Any]) -> None:
        super().restore(memory)
        self._again = list(memory["flying"])
        self._aside = [rollout for group in self.restored(memory["aside"]) for rollout in group]
        self._flat, self._drawn = Counter(memory["flat"]), memory["drawn"]

    def advance(self, state: TrainState, left: int) -> None:
        """Sample while the trainer is busy, then hand its weights over."""
        if self._sampler.overlaps:
            self.sample_until(state.step)
        self._update(state)
        self._next_phase = state.steps + left
        self._submit()

    def sample_until(self, value: jax.Array) -> None:
        """Have the engine work while `value` is not computed yet."""
        while self._flying and not across.computed(value):
            self._step(wait=False)

    def __call__(self, state: TrainState) -> list[Group]:
        parts = super().__call__(state)
        version = state.steps
        self._report.add(version + 1, staleness_metrics(parts, version))
        return parts

    def _gather(self, state: TrainState) -> Phase:
        """The next phase. A stop signal loses nothing: all that is sampled stays where it is."""
        version = state.steps
        carried = self._in_turn()
        while self._in_turn() < self._wanted and self._flying:
            self._step()
        probes = self._probes(version)
        count = min(self._in_turn(), self._wanted)
        groups, rest = self.memory["carry"][:count], self.memory["carry"][count:]
        phase = Phase(version, groups, carried=min(carried, count), left_over=len(rest))
        phase.probes = probes
        phase.sampled = [*self._aside, *itertools.chain.from_iterable(groups)]
        phase.drawn, phase.flat = len(by_prompt(phase.sampled)), self._flat
        self._write(phase)
        self._require_enough(phase)
        oldest = min(rollout.version for group in groups for rollout in group)
        assert oldest >= version - self._bound, (oldest, version, self._bound)
        self.memory["carry"] = rest
        self._aside, self._flat, self._drawn = [], Counter(), 0
        self._next_phase = version + self._steps
        return phase

    def _columns(self, rollout: Rollout) -> dict[str, Any]:
        """With the versions of the answer's tokens, as [version, number of tokens]."""
        runs = itertools.groupby(rollout.completion.versions)
        versions = [[version, len(list(tokens))] for version, tokens in runs]
        return {**super()._columns(rollout), "versions": versions}

    def _in_turn(self) -> int:
        """Groups that are finished, and all prompts before them too."""
        first = min(self._flying, default=None)
        numbers = [group[0].prompt for group in self.memory["carry"]]
        return sum(first is None or number < first for number in numbers)

    def _probes(self, version: int) -> Group:
        """Copies of a few answers that weights of `version` alone have written, as far as they are;
        a block is sampled for them where there are none.
        """
        fresh = self._fresh(version)
        if not fresh and self._flying:
            self._step()
            fresh = self._fresh(version)
        return fresh

    def _fresh(self, version: int) -> Group:
        finished = [rollout.answer for group in self.memory["carry"] for rollout in group]
        unfinished = [answer for group in self._flying.values() for answer in group.so_far]
        answers = [
            answer
            for answer in [*finished, *unfinished]
            if answer.completion.versions[:1] == [version]
        ]
        return [
            Rollout(replace(answer, completion=copied(answer.completion)), advantage=0.0)
            for answer in answers[:PROBES]
        ]

    def _update(self, state: TrainState) -> None:
        """The engine gets the state's weights; the first time, it is made."""
        if self._backend is None:
            backend = self._sampler.begin(state)
            assert isinstance(backend, TurnBackend), backend
            self._backend = backend
            self._answers = AnswersInFlight(backend, self._tokenizer, self._sampler.score)
        elif self._backend.version != state.steps:
            self._backend.update(self._sampler.weights(state), state.steps)

    def _submit(self) -> None:
        """Draw prompts for all phases that may train on what the sampler's weights write now."""
        assert self._backend is not None
        again, self._again = self._again, []
        for number in again:
            self._launch(self._prompts[number])
        newest = self._backend.version + self._bound  # step at which such a phase begins, at most
        phases = max(0, (newest - self._next_phase) // self._steps + 1)
        missing = phases * self._wanted - len(self.memory["carry"]) - len(self._flying)
        most = max(phases, 1) * self._wanted * self._method.refill.rounds - self._drawn
        for prompt in list(self._draw(max(0, min(missing, most)))):
            self._drawn += 1
            self._launch(prompt)

    def _launch(self, prompt: Prompt) -> None:
        assert self._answers is not None
        sampling = self._sampler.sampling
        requests = request_for(prompt, sampling).samples(sampling.samples)
        self._flying[prompt.number] = self._answers.begin(prompt, requests)

    def _step(self, *, wait: bool = True) -> None:
        """A block of tokens; finished groups are scored at once, and flat ones replaced. wait: for
        an environment, where there is nothing to decode.
        """
        assert self._answers is not None
        self._answers.step(wait=wait)
        for number in [number for number, group in self._flying.items() if group.done]:
            rollouts = [Rollout(answer) for answer in self._flying[number].answers()]
            groups, flat = self._method.select(rollouts)
            self._flat.update(flat)
            if not groups:
                self._aside += rollouts
            for group in groups:
                insort(self.memory["carry"], group, key=lambda group: group[0].prompt)
            del self._flying[number]
        self._submit()


def _refuse(state: TrainState, prompts: Sequence[Prompt]) -> list[Rollout]:
    raise AssertionError("asynchronous phases sample by their engine's blocks")


def staleness_metrics(parts: Sequence[Group], version: int) -> dict[str, float]:
    """How old the tokens of a phase are when they are trained on, in optimizer steps.

    parts: the minibatches, of which number i is trained on by weights of `version` + i.
    """
    ages = [
        version + i - np.array(rollout.completion.versions)
        for i, part in enumerate(parts)
        for rollout in part
    ]
    tokens = np.concatenate(ages)
    return {
        "staleness_tokens": float(tokens.mean()),
        "staleness_most": float(tokens.max()),
        "stale_tokens": float((tokens > 0).mean()),
        "versions_per_answer": float(np.mean([len(np.unique(age)) for age in ages])),
    }
