"""Phases of on-policy training: a set of rollouts, and the optimizer steps taken on it.

    draw prompts -> sample -> score -> groups worth training on -> minibatches

Whatever of a phase is not trained on yet goes into the checkpoint, and so do the groups that were
sampled beyond the need.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import jax
from etils import epath

from qwen3.data.jsonl import write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.stages.groups import NothingToLearn, Refill
from qwen3.stages.prompts import Prompt
from qwen3.stages.rollout_metrics import PhaseMetrics, rollout_metrics
from qwen3.stages.rollouts import Rollout, sample_record
from qwen3.stages.stored_rollouts import pack, restore, restore_flat, unpack
from qwen3.train.preemption import Stopped
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")

Group: TypeAlias = list[Rollout]  # of one prompt
Sampler: TypeAlias = Callable[[TrainState, Sequence[Prompt]], list[Rollout]]


class PromptSource(Protocol):
    """Prompt number i, for any i."""

    def __getitem__(self, number: int) -> Prompt: ...


@dataclass
class Phase:
    """The groups that the next optimizer steps train on, and how they came about."""

    version: int  # optimizer step whose weights sample
    groups: list[Group]
    sampled: list[Rollout] = field(default_factory=list)  # in this phase, trained on or not
    drawn: int = 0  # prompts that were sampled
    carried: int = 0  # groups that an earlier phase had left over
    left_over: int = 0  # groups beyond the need, for the next phase
    flat: Counter[str] = field(default_factory=Counter)  # groups left out: all "low", all "high"
    # Answers by weights of `version` alone, finished or not, to compare sampler and trainer by.
    probes: list[Rollout] = field(default_factory=list)


class Method(Protocol):
    """The steps of a phase that GRPO and distillation take differently."""

    refill: Refill

    def select(self, rollouts: Sequence[Rollout]) -> tuple[list[Group], Counter[str]]:
        """(groups worth training on, counts of the others)."""
        ...

    def prepare(self, phase: Phase, state: TrainState) -> tuple[list[Group], dict[str, float]]:
        """(minibatches with all that the loss reads, metrics of the phase)."""
        ...

    def batch(self, part: Sequence[Rollout]) -> dict:
        """The batch of a minibatch, on the mesh."""
        ...

    def columns(self, rollout: Rollout) -> dict[str, Any]:
        """Columns of samples/ besides the answer and its score."""
        ...


class Collect:
    """collect(state) -> the minibatches of the next phase, lists of rollouts.

    prompts[i]: prompt number i. wanted: groups of a phase; least: fewer are NothingToLearn. sample:
    scored rollouts of prompts. All that is sampled is in samples/<step>.jsonl before anything can
    fail for want of something to learn. times: further metrics of a phase. `memory` is what must be
    known again after a restart: the next prompt's number and the groups carried over.
    """

    def __init__(
        self,
        prompts: PromptSource,
        sample: Sampler,
        method: Method,
        *,
        wanted: int,
        least: int,
        tokenizer: Tokenizer,
        work: Workdir,
        report: PhaseMetrics,
        times: Callable[[], dict[str, float]] = dict,
    ):
        self._prompts, self._sample, self._method = prompts, sample, method
        self._wanted, self._least = wanted, least
        self._tokenizer, self._work, self._report, self._times = tokenizer, work, report, times
        self.memory: dict[str, Any] = {"next": 0, "carry": []}

    def __call__(self, state: TrainState) -> list[Group]:
        phase = self._gather(state)
        parts, metrics = self._method.prepare(phase, state)
        trained = sorted({rollout.prompt for part in parts for rollout in part})
        self._write(phase, {"trained": trained})
        metrics = {**rollout_metrics(phase.sampled), **metrics, **self._times()}
        self._report.add(phase.version + 1, metrics)
        return parts

    def advance(self, state: TrainState, left: int) -> None:
        """Called before every batch; `left` minibatches of the phase are not trained on yet."""

    def stored(self) -> dict[str, Any]:
        """The memory, for a checkpoint."""
        return self.memory

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on from the memory that a checkpoint holds."""
        self.memory = {"next": memory["next"], "carry": self.restored(memory.get("carry", []))}

    def restored(self, groups: Sequence[Sequence[dict]]) -> list[Group]:
        """Groups or minibatches as a checkpoint holds them."""
        return [[self._restored(record) for record in group] for group in groups]

    def _restored(self, record: dict) -> Rollout:
        if "answer" in record:
            return restore(record)
        return restore_flat(record, self._prompts[record["prompt"]].problem)

    def _gather(self, state: TrainState) -> Phase:
        """The next phase. Raises NothingToLearn."""
        memory = dict(self.memory)
        try:
            return self._sampled(state)
        except Stopped:  # a stop signal: the next start samples the same prompts again
            self.memory = memory
            raise

    def _sampled(self, state: TrainState) -> Phase:
        """Sample, and again with new prompts while groups are missing."""
        refill = self._method.refill
        phase = Phase(state.steps, list(self.memory["carry"]))
        phase.carried = len(phase.groups)
        for _ in range(refill.rounds):
            missing = self._wanted - len(phase.groups)
            if missing <= 0:
                break
            prompts = list(self._draw(math.ceil(missing * refill.oversample)))
            rollouts = self._sample(state, prompts)
            groups, flat = self._method.select(rollouts)
            phase.drawn += len(prompts)
            phase.sampled += rollouts
            phase.groups += groups
            phase.flat.update(flat)
            self._write(phase)
        self._require_enough(phase)
        rest = phase.groups[self._wanted :]
        phase.groups, phase.left_over = phase.groups[: self._wanted], len(rest)
        self.memory["carry"] = rest
        return phase

    def _draw(self, count: int) -> Iterator[Prompt]:
        """The next `count` prompts of the run."""
        first = self.memory["next"]
        self.memory["next"] = first + count
        return (self._prompts[number] for number in range(first, first + count))

    def _require_enough(self, phase: Phase) -> None:
        count, rounds = len(phase.groups), self._method.refill.rounds
        if count < self._least:
            raise NothingToLearn(
                f"{phase.drawn} prompts gave {count} groups whose rewards differ; {self._least} "
                f"are needed. Rewards were all low in {phase.flat['low']} groups, all high in "
                f"{phase.flat['high']}: choose prompts that the policy solves sometimes"
                + _silence(phase.sampled)
            )
        if count < self._wanted and rounds > 1:
            log.warning("%d groups instead of %d after %d rounds", count, self._wanted, rounds)

    def _write(self, phase: Phase, *more: dict) -> None:
        """samples/<step>.jsonl: what the weights of a step answered, for people and for checks."""
        if jax.process_index() != 0:
            return
        texts: dict[int, str] = {}
        for rollout in phase.sampled:
            if rollout.prompt not in texts:
                ids = rollout.completion.request.prompt
                texts[rollout.prompt] = self._tokenizer.decode(ids)
        records = [
            {**sample_record(rollout, texts[rollout.prompt]), **self._columns(rollout)}
            for rollout in phase.sampled
        ]
        path = epath.Path(self._work.samples) / f"{phase.version:06d}.jsonl"
        write_rows(path, [*records, *more])

    def _columns(self, rollout: Rollout) -> dict[str, Any]:
        """Columns of samples/ besides those of every stage."""
        return self._method.columns(rollout)


def _silence(rollouts: Sequence[Rollout]) -> str:
    """How many answers nothing could score, as the end of a message; "" for none."""
    silent = sum(rollout.score is None for rollout in rollouts)
    return f". {silent} of {len(rollouts)} answers had no verdict" if silent else ""


def minibatches(groups: Sequence[Group], count: int) -> list[Group]:
    """The groups dealt out to `count` optimizer steps, group i to step i modulo `count`."""
    return [[rollout for group in groups[i::count] for rollout in group] for i in range(count)]


class RolloutSource:
    """source(state): the minibatches of a phase one by one, then those of the next phase.

    to_batch(rollouts) -> batch on the mesh. `stored` is what `extra()` gave to the checkpoint.
    """

    def __init__(
        self,
        collect: Collect,
        to_batch: Callable[[Sequence[Rollout]], dict],
        stored: str | None = None,
    ):
        self._collect, self._to_batch = collect, to_batch
        self._left: list[Group] = []
        if stored:
            record = unpack(stored)
            self._left = collect.restored(record["left"])
            collect.restore(record.get("memory", record))  # apart in older checkpoints

    def __call__(self, state: TrainState) -> dict:
        # What is left of a phase is packed while the step before it may still run.
        batch = self._to_batch(self._left[0]) if self._left else None
        self._collect.advance(state, len(self._left))
        if batch is None:
            self._left = self._collect(state)
            batch = self._to_batch(self._left[0])
        self._left.pop(0)
        return batch

    def extra(self) -> str:
        """For a checkpoint: with it no prompt is lost or trained on twice."""
        return pack({**self._collect.stored(), "left": self._left})
