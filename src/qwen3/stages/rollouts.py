"""Answers of the current policy, as tokens: sampled, kept, stored in a checkpoint, made to rows.

A phase is one set of rollouts and the optimizer steps on it. Whatever of a phase is not trained on
yet goes into the checkpoint, and sampling depends on (seed, prompt number, sample) only: a run that
was stopped or killed anywhere goes on as if it had not been.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from qwen3.data import rows
from qwen3.data.jsonl import write_rows
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request
from qwen3.mesh import BATCH_AXES
from qwen3.stages.prompts import Prompt
from qwen3.train.loop import Hook
from qwen3.train.placement import place_whole


@dataclass(frozen=True)
class Sampling:
    """samples: G, per prompt. max_tokens: of an answer. slots: decoded together. The temperature
    is 1 and nothing is cut off, so that what was sampled from is the policy itself.
    """

    samples: int = 8
    max_tokens: int = 1024
    slots: int = 64

    def __post_init__(self):
        if min(self.samples, self.max_tokens, self.slots) < 1:
            raise ValueError(f"samples, max_tokens and slots of {self} must be at least 1")


@dataclass
class Rollout:
    """prompt: number of the run. ids: prompt and answer. start: of the answer in ids. logp: full
    log-probability at temperature 1 of each answer token when it was sampled; forced: not sampled.
    version: optimizer step whose weights made it. reward: None for no verdict. old: as logp, of
    the policy at the start of the phase.
    """

    prompt: int
    sample: int
    mode: int
    ids: list[int]
    start: int
    logp: list[float]
    forced: list[bool]
    version: int
    finish: str
    task: str = ""
    reward: float | None = None
    advantage: float = 0.0
    old: list[float] = dataclasses.field(default_factory=list)

    @property
    def answer(self) -> list[int]:
        return self.ids[self.start :]

    @property
    def truncated(self) -> bool:
        return self.finish == "length"


def sample(
    params: Any,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    model: Any,
    tokenizer: Tokenizer,
    mesh: Any,
    execution: Any,
    length: int,
    seed: int,
    version: int,
) -> list[Rollout]:
    """`samples` answers to each prompt, in the prompts' order; prompt and answer have at most
    `length` + 1 tokens. Raises ValueError for a prompt that leaves no room, RuntimeError for an
    answer that the engine could not finish (log-probabilities that are not finite).

    The engine is a new one each time: what an earlier call left in it (cache lengths) could change
    the last bit. Its compiled programs are shared.
    """
    engine = Engine(
        model,
        params,
        tokenizer=tokenizer,
        slots=sampling.slots,
        seed=seed,
        version=version,
        mesh=mesh,
        execution=execution.replace(scan=False, remat="none"),
        max_length=min(length + 1, model.max_length),
    )
    asked = [
        each
        for prompt in prompts
        for each in Request(
            list(prompt.ids), max_tokens=sampling.max_tokens, prompt_id=prompt.number
        ).samples(sampling.samples)
    ]
    found = engine.generate(asked)
    for completion in found:
        if completion.error:
            raise RuntimeError(
                f"rollout of prompt {completion.request.prompt_id}: {completion.error}"
            )
    owners = [prompt for prompt in prompts for _ in range(sampling.samples)]
    return [
        Rollout(
            prompt.number,
            done.request.sample,
            prompt.mode,
            [*prompt.ids, *done.tokens],
            len(prompt.ids),
            done.log_probs,
            done.forced,
            version,
            done.finish,
            prompt.problem.task,
        )
        for prompt, done in zip(owners, found, strict=True)
    ]


class RolloutBatches:
    """Rollouts -> batches of fixed length on the mesh, in few different numbers of rows.

    most: sequences that a batch can have.
    """

    def __init__(self, mesh: Any, length: int, *, most: int, microbatches: int, pad: int):
        self._mesh, self._length, self._most, self._pad = mesh, length, most, pad
        self._multiple = microbatches * int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))

    def batch(self, sequences: Sequence[TokenSequence], **by_row: float) -> dict:
        """by_row: values that are the same for every row, [B]."""
        where = rows.layout([len(each) for each in sequences], self._length)
        count = rows.round_up(where.rows, self._multiple, self._most)
        batch = rows.fill(sequences, where, self._length, pad=self._pad, rows=count)
        batch |= {name: np.full(count, value, np.float32) for name, value in by_row.items()}
        return place_whole(batch, self._mesh)

    def values(
        self, function: Callable, params: Any, sequences: Sequence[TokenSequence]
    ) -> list[np.ndarray]:
        """function(params, batch) -> [B, T], read back for each sequence, [n]."""
        found = everywhere(function(params, self.batch(sequences)))
        where = rows.layout([len(each) for each in sequences], self._length)
        return rows.read_back(found, sequences, where)


def everywhere(value: jax.Array) -> np.ndarray:
    """The whole array on every host."""
    if jax.process_count() == 1:
        return np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def sequence(rollout: Rollout, fields: bool = True) -> TokenSequence:
    """Sampled tokens have weight 1; prompt and forced tokens 0."""
    before = np.zeros(rollout.start, np.float32)

    def answered(values) -> np.ndarray:
        return np.concatenate([before, np.asarray(values, np.float32)])

    ones = np.ones(len(rollout.answer), np.float32)
    values = {}
    if fields:
        values = {
            "advantages": answered(ones * rollout.advantage),
            "rollout_logp": answered(rollout.logp),
            "old_logp": answered(rollout.old or rollout.logp),
        }
    weights = answered(~np.array(rollout.forced, bool))
    return TokenSequence(np.array(rollout.ids, np.int32), weights, rollout.mode, values)


class RolloutSource:
    """source(state): the minibatches of a phase one by one, then `collect(state)` for the next.

    collect(state) -> list of lists of rollouts; its `memory` (any JSON with rollouts as dicts) is
    what it must know again. to_batch(rollouts) -> batch on the mesh. `stored` is what `extra()`
    gave to the checkpoint.
    """

    def __init__(self, collect: Any, to_batch: Callable, stored: str | None = None):
        self._collect, self._to_batch = collect, to_batch
        self._left: list[list[Rollout]] = []
        if stored:
            record = unpack(stored)
            collect.memory = record["memory"]
            self._left = [[Rollout(**each) for each in part] for part in record["left"]]

    def __call__(self, state: Any) -> dict:
        if not self._left:
            self._left = self._collect(state)
        return self._to_batch(self._left.pop(0))

    def extra(self) -> str:
        left = [[dataclasses.asdict(each) for each in part] for part in self._left]
        return pack({"memory": self._collect.memory, "left": left})


def pack(record: Any) -> str:
    """JSON, compressed, as text. Floats come back exactly."""
    return base64.b64encode(zlib.compress(json.dumps(record).encode(), 1)).decode()


def unpack(text: str) -> Any:
    return json.loads(zlib.decompress(base64.b64decode(text)))


def write_samples(work: Any, step: int, records: Sequence[dict]) -> None:
    """samples/<step>.jsonl: what was sampled from the weights of `step`, for people and checks."""
    if jax.process_index() == 0:
        write_rows(epath.Path(work.samples) / f"{step:06d}.jsonl", records)


class PhaseMetrics:
    """Puts a phase's own metrics into the record of its first step, and `report` of every step."""

    def __init__(self, report: Callable[[dict], dict]):
        self._report = report
        self._pending: dict[int, dict] = {}

    def add(self, step: int, metrics: dict) -> None:
        """For the record of `step`."""
        self._pending[step] = metrics

    def hook(self) -> Hook:
        """To stand before the meter's: late hooks share the metrics."""
        return Hook(self._merge, late=True)

    def _merge(self, step: int, state: None, metrics: dict) -> None:
        kept = {name: metrics[name] for name in _KEPT if name in metrics}
        found = self._report(metrics)
        metrics.clear()
        metrics.update({**kept, **found, **self._pending.pop(step, {})})


_KEPT = (
    *("loss", "weight", "grad_norm", "update_norm", "param_norm", "skipped"),
    *("seconds", "input_wait"),
)
