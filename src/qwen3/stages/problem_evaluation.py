"""Evaluation on held-out problems and suites while a stage trains: answers and scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from qwen3 import hosts
from qwen3.curate.files import read_problems
from qwen3.data.jsonl import read_rows, write_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import ask
from qwen3.eval import accuracy
from qwen3.eval.intervals import Estimate
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.requests import SamplingParams
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer
from qwen3.rewards.pairs import pairs_by_family
from qwen3.stages.rollouts import episode_columns
from qwen3.stages.suite_evaluation import SuiteMeasure
from qwen3.train.loop import Hook
from qwen3.train.state import TrainState
from qwen3.train.workdir import Workdir

log = logging.getLogger("qwen3")

NO_VERDICT = Estimate(math.nan, math.nan, math.nan, 0)
RECORDS = "evaluation.jsonl"  # in the workdir: a line a measurement
SCORE, TRUNCATED = "eval/score", "eval/truncated"  # names of a measurement in a run's metrics


@dataclass(frozen=True)
class ProblemEvaluation:
    """Which problems and suites a stage is measured on: before it, every few steps, at its end."""

    problems: str = ""  # file of problems that are not trained on; "" for none
    every: int = 10  # optimizer steps between measurements
    limit: int = 0  # first problems of the file that are asked, 0 for all
    temperature: float = 0.0  # of the answers; 0 is greedy
    max_tokens: int = 0  # of an answer; 0: as in training
    # Suites, families of rewards and groups of `qwen3 eval` that are asked as well, with the
    # report's sampling. Their mean is the score where there are no problems.
    suites: tuple[str, ...] = ()
    data: str = ""  # folder of the suites' files
    modes: tuple[str, ...] = ("no_think",)  # of suites of chats: "think", "no_think"

    @property
    def off(self) -> bool:
        return not (self.problems or self.suites)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"evaluation every {self.every} steps: wanted at least 1")


class ProblemMeasure:
    """Asks the problems of an evaluation and writes what came of it into the workdir.

    backend(state): what generates with the weights of that state.
    """

    def __init__(
        self,
        settings: ProblemEvaluation,
        backend: Callable[[TrainState], RolloutBackend],
        tokenizer: Tokenizer,
        work: Workdir,
        *,
        max_tokens: int,
        max_length: int,
        seed: int,
    ):
        self._settings, self._backend, self._tokenizer = settings, backend, tokenizer
        self._work, self._seed = work, seed
        self._max_tokens = settings.max_tokens or max_tokens
        problems = read_problems(settings.problems) if settings.problems else []
        self._problems: Sequence[Problem] = problems[: settings.limit or None]
        self._suites = SuiteMeasure(
            settings.suites,
            tokenizer,
            data=settings.data,
            modes=settings.modes,
            limit=settings.limit,
            max_tokens=self._max_tokens,
            max_length=max_length,
            seed=seed,
        )

    def hook(self, until: int) -> Hook:
        """For the loop: measures every few steps and at step `until`."""

        def measure(step: int, state: TrainState, metrics: dict[str, Any]) -> None:
            # The hook is called at whatever step a stopped run ends too: that one waits its turn.
            if self._due(step, until):
                metrics.update(self.measure(state))

        return Hook(measure, self._settings.every, last=True, measures=True)

    def before(self, state: TrainState, until: int) -> dict[str, float]:
        """What `measure` gives for the model before the first step of a run, or before that with
        which a run goes on whose measurement a stop signal cut short; else {}.
        """
        step = state.steps
        if step and not (self._due(step, until) and hosts.decided(lambda: self._missing(step))):
            return {}
        return self.measure(state)

    def _due(self, step: int, until: int) -> bool:
        return step % self._settings.every == 0 or step == until

    def _missing(self, step: int) -> str:
        """A word if step `step` is not measured yet, else "". In process 0."""
        return "" if any(row["step"] == step for row in records(self._work.path)) else "missing"

    def measure(self, state: TrainState) -> dict[str, float]:
        """{SCORE: mean score, TRUNCATED: share of answers cut at the limit} of the problems,
        "eval/pairs/FAMILY" of those that hold both twins of pairs, and "eval/SUITE.ARM" of each
        suite, also written.
        """
        step, backend = state.steps, self._backend(state)
        record: dict[str, Any] = {"step": step}
        answers: list[ScoredAnswer] = []
        if self._problems:
            answers = self._answers(backend)
            record |= self._record(step, answers)
            log.info("step %d: held-out score %.3f of %d", step, record["score"], record["n"])
        metrics = {}
        suites = self._suites.measure(backend)
        if suites.rows:
            record |= {"suites": suites.rows}
            record.setdefault("score", suites.mean)
            metrics = {f"eval/{name}": row["score"] for name, row in suites.rows.items()}
            log.info("step %d: mean score of %d suites %.3f", step, len(metrics), suites.mean)
        if jax.process_index() == 0:
            self._write(step, record, answers, suites.records)
        metrics = {name: score for name, score in metrics.items() if score is not None}
        if "truncated" in record:
            metrics[TRUNCATED] = record["truncated"]
        metrics |= {f"eval/pairs/{name}": share for name, share in record.get("pairs", {}).items()}
        return {SCORE: record["score"], **metrics}

    def _answers(self, backend: RolloutBackend) -> list[ScoredAnswer]:
        answers = ask(
            backend,
            self._tokenizer,
            self._problems,
            sampling=SamplingParams(temperature=self._settings.temperature),
            max_tokens=self._max_tokens,
            seed=self._seed,
        )
        return [answer for (answer,) in answers]

    def _record(self, step: int, answers: Sequence[ScoredAnswer]) -> dict[str, Any]:
        judged = [[answer] for answer in answers if answer.score is not None]
        estimate = accuracy.accuracy(judged) if judged else NO_VERDICT
        cut = [answer.truncated for answer in answers]
        pairs = pairs_by_family((answer.problem, answer.score) for answer in answers)
        return {
            "step": step,
            "score": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "no_verdict": sum(answer.score is None for answer in answers),
            "truncated": float(np.mean(cut)),
            "tokens": float(np.mean([len(answer.written) for answer in answers])),
            **({"pairs": pairs} if pairs else {}),
        }

    def _write(
        self,
        step: int,
        record: Mapping[str, Any],
        answers: Sequence[ScoredAnswer],
        suites: Sequence[Mapping[str, Any]],
    ) -> None:
        samples = epath.Path(self._work.samples)
        if answers:
            rows = [sample(answer) for answer in answers]
            write_rows(samples / f"evaluation_{step:06d}.jsonl", rows)
        if suites:
            write_rows(samples / f"suites_{step:06d}.jsonl", suites)
        path = epath.Path(self._work.path) / RECORDS
        # Measurements after the step that a run went on from are made anew.
        rows = [row for row in records(self._work.path) if row["step"] < step]
        write_rows(path, [*rows, record])


def sample(answer: ScoredAnswer) -> dict[str, Any]:
    """One answer as a line that a person can read: prompt, answer, score."""
    return {
        "prompt": answer.problem.messages[-1]["content"],
        "answer": answer.text,
        "score": answer.score,
        "reference": answer.problem.answer.get("reference", answer.problem.answer.get("gold")),
        "finish": answer.completion.finish,
        "tokens": len(answer.written),
        **episode_columns(answer),
    }


def records(workdir: Any) -> list[dict[str, Any]]:
    """The measurements of a run so far, in order of their steps; a torn last line is left out."""
    path = epath.Path(workdir) / RECORDS
    return [row for _, row in read_rows(path, skipped=[])] if path.exists() else []
