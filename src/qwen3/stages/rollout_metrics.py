"""Metrics of rollouts, and how they get into a run's records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qwen3.rewards import response
from qwen3.rewards.answers import Transcript
from qwen3.rewards.pairs import pairs_by_family
from qwen3.stages.prompts import group_of
from qwen3.stages.rollouts import Rollout, by_prompt
from qwen3.train.loop import Hook
from qwen3.train.metrics import MEASURED
from qwen3.train.state import TrainState


def rollout_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """How long, well-formed, varied and right the answers are; {} for none.

    Lengths in tokens; the rest are shares of the answers, scores 0..1 of those with a verdict.
    """
    if not rollouts:
        return {}
    lengths = np.array([rollout.length for rollout in rollouts])
    texts = ["\n".join(rollout.answer.texts) for rollout in rollouts]
    different = {(rollout.prompt, *rollout.answer.written) for rollout in rollouts}
    finishes = sorted({str(rollout.completion.finish) for rollout in rollouts})
    judged = [rollout for rollout in rollouts if rollout.answer.score is not None]
    return {
        "answer_tokens": float(lengths.mean()),
        "answer_tokens_p95": float(np.percentile(lengths, 95)),
        "answer_tokens_max": float(lengths.max()),
        "truncated": _share(rollout.truncated for rollout in rollouts),
        "duplicates": 1.0 - len(different) / len(rollouts),
        "malformed": _share(not all(map(response.read, r.answer.texts)) for r in rollouts),
        "repeated": _share(map(repeats, texts)),
        "no_verdict": 1.0 - sum(r.score is not None for r in rollouts) / len(rollouts),
        **{
            f"finish/{name}": _share(rollout.completion.finish == name for rollout in rollouts)
            for name in finishes
        },
        **_episode_metrics([r.answer.transcript for r in rollouts if r.answer.transcript]),
        **_score_metrics(judged),
    }


def _episode_metrics(transcripts: Sequence[Transcript]) -> dict[str, float]:
    """Turns and tool calls of episodes, and the share of each reason why they stop; {} for none."""
    if not transcripts:
        return {}
    stops = sorted({transcript.stop for transcript in transcripts})
    return {
        "turns": float(np.mean([len(transcript.turns) for transcript in transcripts])),
        "calls": float(np.mean([transcript.calls for transcript in transcripts])),
        **{f"stop/{name}": _share(t.stop == name for t in transcripts) for name in stops},
    }


def _score_metrics(judged: Sequence[Rollout]) -> dict[str, float]:
    """Metrics of rollouts with a verdict; {} for none. pairs/FAMILY: chance that both problems of
    a pair are answered right, of the pairs that were sampled together."""
    if not judged:
        return {}
    best = [max(_scores(group)) for group in by_prompt(judged)]
    pairs = pairs_by_family((rollout.answer.problem, rollout.answer.score) for rollout in judged)
    return {
        "score": float(np.mean(_scores(judged))),
        "score_std": float(np.std(_scores(judged))),
        "pass_at_1": _share(score == 1.0 for score in _scores(judged)),
        "pass_at_group": _share(score == 1.0 for score in best),
        **_score_by(judged, lambda rollout: rollout.task),
        **_score_by(judged, lambda rollout: rollout.mode),
        **{f"pairs/{family}": share for family, share in pairs.items()},
        **_by_group(judged),
    }


def _scores(rollouts: Iterable[Rollout]) -> list[float]:
    return [r.answer.score for r in rollouts if r.answer.score is not None]


def _score_by(judged: Sequence[Rollout], key: Callable[[Rollout], str]) -> dict[str, float]:
    parts: dict[str, list[Rollout]] = {}
    for rollout in judged:
        parts.setdefault(key(rollout), []).append(rollout)
    return {f"score/{name}": float(np.mean(_scores(part))) for name, part in sorted(parts.items())}


def _by_group(judged: Sequence[Rollout]) -> dict[str, float]:
    """group/NAME: mean over the families of one of the report's groups, each counted alike; where
    there are several families also tokens/FAMILY and flat/FAMILY, the share of its prompts whose
    answers are all equally good, and so teach nothing."""
    families: dict[str, list[Rollout]] = {}
    for rollout in judged:
        families.setdefault(rollout.task, []).append(rollout)
    if len(families) < 2:
        return {}
    means: dict[str, list[float]] = {}
    metrics = {}
    for family, part in sorted(families.items()):
        means.setdefault(group_of(family), []).append(float(np.mean(_scores(part))))
        metrics[f"tokens/{family}"] = float(np.mean([rollout.length for rollout in part]))
        metrics[f"flat/{family}"] = _share(len(set(_scores(g))) == 1 for g in by_prompt(part))
    return metrics | {f"group/{name}": float(np.mean(m)) for name, m in sorted(means.items())}


def _share(values: Iterable[bool]) -> float:
    values = list(values)
    return sum(map(bool, values)) / max(len(values), 1)


def repeats(text: str, *, size: int = 8, most: float = 0.3) -> bool:
    """True if more than `most` of the text's word sequences of `size` occurred before in it."""
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(grams) > 0 and 1 - len(set(grams)) / len(grams) > most


class PhaseMetrics:
    """Puts a phase's own metrics into the record of its first step, and `report` of every step."""

    def __init__(self, report: Callable[[dict], dict]):
        self._report = report
        self._pending: dict[int, dict] = {}

    def add(self, step: int, metrics: dict) -> None:
        """Metrics for the record of `step`, added to those it has already."""
        self._pending.setdefault(step, {}).update(metrics)

    def hook(self) -> Hook:
        """Register before the meter's hook: late hooks receive the same `metrics` dict, and this
        one replaces its contents.
        """
        return Hook(self._merge, late=True)

    def _merge(self, step: int, state: TrainState | None, metrics: dict) -> None:
        measured = {n: v for n, v in metrics.items() if n.startswith(MEASURED)}
        as_they_are = {name: metrics[name] for name in _AS_THEY_ARE if name in metrics}
        report = self._report({n: v for n, v in metrics.items() if n not in measured})
        # Sums come divided by the total weight; the meter counts tokens a second by this.
        trained = float(metrics["tokens"]) * float(metrics["weight"])
        metrics.clear()
        metrics.update(
            {
                **as_they_are,
                **report,
                **measured,
                **self._pending.pop(step, {}),
                "trained_tokens": trained,
            }
        )


_AS_THEY_ARE = (
    *("loss", "weight", "grad_norm", "update_norm", "param_norm", "skipped"),
    *("seconds", "input_wait"),
)
