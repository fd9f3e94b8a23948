"""Accuracy of a reward model on held-out pairs: in all, by source, and by the answers' lengths."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from qwen3.curate.preference_pairs import Pair, of_source
from qwen3.data.jsonl import write_rows
from qwen3.data.rows import TokenSequence
from qwen3.eval import intervals
from qwen3.eval.intervals import Estimate
from qwen3.stages.problem_evaluation import RECORDS, SCORE, records
from qwen3.stages.reward_scores import SequenceScorer
from qwen3.train.loop import Hook
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")


@dataclass(frozen=True)
class PairEvaluation:
    """Which pairs a reward model is measured on, before it trains, every few steps and at its end.

    With `held_out` a pair is held out by a hash of its question, so that all answers to one
    question are on one side, whatever else the files hold.
    """

    data: tuple[str, ...] = ()  # files of pairs that are not trained on
    held_out: float = 0.0  # share of the training files' questions, instead of files
    every: int = 50  # optimizer steps between measurements

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"evaluation every {self.every} steps: wanted at least 1")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out {self.held_out} is a share of the questions, 0 to below 1")
        if self.data and self.held_out:
            raise ValueError(f"evaluation.data {self.data} and held_out {self.held_out}: one only")


def split(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """(pairs to train on, held-out pairs)."""
    held = [_place(pair) < share for pair in pairs]
    return (
        [pair for pair, is_held in zip(pairs, held, strict=True) if not is_held],
        [pair for pair, is_held in zip(pairs, held, strict=True) if is_held],
    )


def _place(pair: Pair) -> float:
    """A number in 0..1 that depends on the question alone."""
    text = json.dumps(pair.question, sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


@dataclass(frozen=True)
class PairScores:
    """Scores of the two answers of each pair, and their lengths in tokens; all [pairs]."""

    chosen: np.ndarray
    rejected: np.ndarray
    chosen_length: np.ndarray
    rejected_length: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """1 where the chosen answer has the higher score, 0.5 where the scores are equal."""
        return 0.5 * (np.sign(self.chosen - self.rejected) + 1)

    def report(self, pairs: Sequence[Pair]) -> dict[str, Estimate]:
        """Accuracies with 95% intervals: "all", "longer loses" and "longer wins" (pairs whose
        rejected, chosen answer has more tokens: a model that likes length fails the former), and
        each source where there are several. An accuracy over no pair is left out."""
        longer = self.rejected_length - self.chosen_length
        parts = {
            "all": np.arange(len(pairs)),
            "longer loses": np.flatnonzero(longer > 0),
            "longer wins": np.flatnonzero(longer < 0),
        }
        sources = of_source(pairs)
        if len(sources) > 1:
            parts |= {f"source {name}": np.array(places) for name, places in sources.items()}
        return {name: _estimate(self.right[part]) for name, part in parts.items() if len(part)}


def _estimate(values: np.ndarray) -> Estimate:
    if np.all((values == 0) | (values == 1)):
        return intervals.share(int(values.sum()), len(values))
    return intervals.mean(values)


def pair_scores(
    score: SequenceScorer, params: Any, sequences: Sequence[TokenSequence]
) -> PairScores:
    """Scores of pairs, whose sequences are chosen, rejected, chosen, rejected, ..."""
    scores = score(params, sequences)
    lengths = np.array([len(sequence) for sequence in sequences])
    return PairScores(scores[::2], scores[1::2], lengths[::2], lengths[1::2])


class PairMeasure:
    """Measures held-out pairs while a reward model trains, and writes what came of it."""

    def __init__(
        self,
        every: int,
        pairs: Sequence[Pair],
        sequences: Sequence[TokenSequence],
        score: SequenceScorer,
        work: Workdir,
    ):
        self._every, self._pairs, self._sequences = every, pairs, sequences
        self._score, self._work = score, work

    def hook(self, until: int) -> Hook:
        """For the loop: measures every few steps and at step `until`."""

        def measure(step: int, state: TrainState, metrics: dict[str, Any]) -> None:
            # The hook is called at whatever step a stopped run ends too: that one waits its turn.
            if step % self._every == 0 or step == until:
                metrics.update(self.measure(state))

        return Hook(measure, self._every, last=True, measures=True)

    def before(self, state: TrainState) -> dict[str, float]:
        """The measurement before the first step of a run; {} for one that goes on."""
        return {} if state.steps else self.measure(state)

    def measure(self, state: TrainState) -> dict[str, float]:
        """Accuracies for the record of the step, also written with every pair's scores."""
        step = state.steps
        scores = pair_scores(self._score, state.params, self._sequences)
        report = scores.report(self._pairs)
        if jax.process_index() == 0:
            self._write(step, report, scores)
        value, low, high, n = report["all"]
        log.info(
            "step %d: accuracy %.3f [%.3f, %.3f] on %d held-out pairs", step, value, low, high, n
        )
        rest = {name: estimate.value for name, estimate in report.items() if name != "all"}
        return {SCORE: value, **{f"eval/{k.replace(' ', '_')}": v for k, v in rest.items()}}

    def _write(self, step: int, report: Mapping[str, Estimate], scores: PairScores) -> None:
        path = epath.Path(self._work.samples) / f"evaluation_{step:06d}.jsonl"
        columns = zip(self._pairs, scores.chosen, scores.rejected, strict=True)
        write_rows(path, [_sample(pair, float(c), float(r)) for pair, c, r in columns])
        value, low, high, n = report["all"]
        parts = {name: part._asdict() for name, part in report.items() if name != "all"}
        record = {"step": step, "score": value, "low": low, "high": high, "n": n, "parts": parts}
        # Measurements after the step that a run went on from are made anew.
        rows = [row for row in records(self._work.path) if row["step"] < step]
        write_rows(epath.Path(self._work.path) / RECORDS, [*rows, record])


def _sample(pair: Pair, chosen: float, rejected: float) -> dict[str, Any]:
    """One pair as a line that a person can read."""
    return {
        "prompt": pair.question[-1]["content"],
        "answer": pair.chosen[-1]["content"],
        "rejected": pair.rejected[-1]["content"],
        "source": pair.source,
        "score": chosen,
        "score_rejected": rejected,
        "right": chosen > rejected,
    }
