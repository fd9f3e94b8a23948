"""A reward model: a scalar head on a language model, trained on pairs of answers (report, 4.4).

The report's third kind of reward in general RL is a model "leveraging human preference data"; it
says nothing of its loss or size. This is the usual one: Bradley-Terry on the score at the end of
the answer, from the checkpoint before RL.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from qwen3.config import MeshConfig, OptimConfig
from qwen3.curate.preference_pairs import Pair, read_pairs
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.preference import CENTRING
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, flops_per_token
from qwen3.stages import builders, start
from qwen3.stages.conversations import Packed
from qwen3.stages.pair_evaluation import PairEvaluation, PairMeasure, split
from qwen3.stages.reward_scores import SequenceScorer, answer_ids, scored_sequence
from qwen3.train import optim
from qwen3.train.checkpoint import Keep
from qwen3.train.loop import Hook, train
from qwen3.train.placement import place_whole
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.save_times import check_minutes
from qwen3.train.state import TrainState
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")

TOO_LONG = ("error", "drop", "truncate")


@dataclass(frozen=True)
class Config:
    """Settings of the training of a reward model."""

    model: ModelConfig  # with scalar_head
    tokenizer: str  # folder
    data: tuple[str, ...]  # files of pairs (curate.preference_pairs)
    steps: int  # optimizer steps
    optim: OptimConfig
    name: str = "reward_model"  # of the stage, in its records
    batch: int = 16  # batch size: rows of a step
    length: int = 2048  # slots of a row, into which pairs are packed; an answer has at most half
    microbatches: int = 1  # parts of a batch whose gradients are added up, for less memory
    # Answers that do not fit: "error", "drop" their pair, or "truncate" them and read the score at
    # the last token that is left.
    too_long: str = "error"
    centring: float = CENTRING  # coefficient of (r_chosen + r_rejected)^2; 0: scores may drift
    seed: int = 0
    init_from: str = ""  # run, checkpoint or Hugging Face folder (stages.start)
    save_every: int = 100  # optimizer steps
    save_minutes: float = 0.0  # also when so many minutes passed since the last save; 0: not
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)  # changes to Execution.for_mesh
    keep: Keep = Keep()
    log: Log = Log()
    evaluation: PairEvaluation = PairEvaluation()  # on held-out pairs

    def __post_init__(self) -> None:
        check_minutes(self.save_minutes)
        if not self.model.scalar_head:
            raise ValueError(f"model.scalar_head of {self.model.name} is false: no reward model")
        if self.too_long not in TOO_LONG:
            raise ValueError(f"too_long {self.too_long!r} is none of {', '.join(TOO_LONG)}")
        if self.centring < 0:
            raise ValueError(f"centring {self.centring} must be 0 or above")


def run(config: Config, workdir: str) -> TrainState:
    """Train in `workdir`, on from where it stands; returns the last state.

    Raises ValueError for files that hold no pairs (file, line), pairs that do not fit, and data
    other than the checkpoint's.
    """
    mesh = make_mesh(config.mesh)
    execution = Execution.for_mesh(mesh, **config.execution)
    tokenizer = Tokenizer.load(config.tokenizer)
    tokenizer.check_fits(config.model.vocab)
    pairs, held = read_data(config)
    packed = Packed(
        tokenised(pairs, config, tokenizer)[1],
        batch=config.batch,
        length=config.length,
        seed=config.seed,
        pad=tokenizer.pad,
        together=2,
    )
    rate = optim.schedule(config.optim, config.steps)
    tx = optim.build(config.optim, rate)
    loss = builders.bradley_terry(config.model, execution, centring=config.centring)
    with jax.set_mesh(mesh), Workdir(workdir, config, keep=config.keep) as work:
        state, stored = start.begin(
            work, config.model, tx, mesh, seed=config.seed, init_from=config.init_from
        )
        if stored and stored["data"] != packed.hash:
            raise ValueError(f"the data {config.data} are not what {work.path} was trained on")
        measures: list[Hook] = []
        initial: dict[str, float] = {}
        if held:
            score = SequenceScorer(config.model, mesh, execution, pad=tokenizer.pad)
            measured, sequences = tokenised(held, config, tokenizer)
            measure = PairMeasure(config.evaluation.every, measured, sequences, score, work)
            measures, initial = [measure.hook(config.steps)], measure.before(state)
        with recording_hooks(
            work,
            config.log,
            stage=config.name,
            step=state.steps,
            until=config.steps,
            tokens_per_step=config.batch * config.length,
            flops_per_token=flops_per_token(config.model, config.length),
            derived={"learning_rate": rate},
            initial=initial,
        ) as hooks:
            save = work.checkpoints.hook(
                config.save_every, lambda step: {"data": packed.hash}, minutes=config.save_minutes
            )
            return train(
                state,
                make_step(loss, tx, microbatches=config.microbatches),
                PairBatches(packed, mesh),
                until=config.steps,
                hooks=[*measures, *hooks, save],
            )


class PairBatches:
    """`batches[step]`: rows of whole pairs on the mesh."""

    def __init__(self, packed: Packed, mesh: jax.sharding.Mesh):
        self._packed, self._mesh = packed, mesh

    def __getitem__(self, number: int) -> dict:
        return place_whole(self._packed[number], self._mesh)


def read_data(config: Config) -> tuple[list[Pair], list[Pair]]:
    """(pairs to train on, held-out pairs)."""
    pairs = [pair for path in config.data for pair in read_pairs(path)]
    asked = config.evaluation
    if asked.data:
        return pairs, [pair for path in asked.data for pair in read_pairs(path)]
    train_on, held = split(pairs, asked.held_out)
    if not train_on:
        raise ValueError(f"held_out {asked.held_out} of {len(pairs)} pairs leaves none to train on")
    return train_on, held


def tokenised(
    pairs: Sequence[Pair], config: Config, tokenizer: Tokenizer
) -> tuple[list[Pair], list[TokenSequence]]:
    """(the pairs that are left, their sequences: chosen, rejected, chosen, rejected, ...).

    Pairs that are equal in tokens, be it by truncation, teach nothing and are left out with a
    warning. Raises ValueError for answers that are too long, as `too_long` says, and where no pair
    is left.
    """
    most, too_long, equal = config.length // 2, 0, 0
    left: list[Pair] = []
    sequences: list[TokenSequence] = []
    for pair in pairs:
        chosen, rejected = (
            answer_ids(tokenizer, [*pair.question, *answer], pair.tools)
            for answer in (pair.chosen, pair.rejected)
        )
        longest = max(len(chosen), len(rejected))
        if longest > most and config.too_long == "error":
            raise ValueError(
                f"an answer of {pair.source!r} takes {longest} slots with its question, half a row "
                f'has {most}: raise the length, or set too_long to "drop" or "truncate"'
            )
        if longest > most and config.too_long == "drop":
            too_long += 1
        elif chosen[:most] == rejected[:most]:
            equal += 1
        else:
            left.append(pair)
            sequences += [scored_sequence(ids[:most], tokenizer.pad) for ids in (chosen, rejected)]
    if too_long or equal:
        log.warning(
            "%d of %d pairs dropped: %d too long, %d equal in their first %d tokens",
            *(too_long + equal, len(pairs), too_long, equal, most),
        )
    if not left:
        raise ValueError(f"no pair of {len(pairs)} is left: {too_long} too long, {equal} equal")
    return left, _with_margins(left, sequences)


def _with_margins(pairs: Sequence[Pair], sequences: list[TokenSequence]) -> list[TokenSequence]:
    """The sequences with the field "margin" that the loss reads, if any pair has a margin."""
    if any(pair.margin for pair in pairs):
        for i, sequence in enumerate(sequences):
            margin = np.full(len(sequence.tokens), pairs[i // 2].margin, np.float32)
            sequence.fields["margin"] = margin
    return sequences
