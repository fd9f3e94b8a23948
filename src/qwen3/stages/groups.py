"""Groups of rollouts that have something to teach: sampled, scored, chosen, refilled.

Groups with equal rewards are dropped and replaced by new prompts' (DAPO's dynamic sampling, arXiv
2503.14476); what was sampled beyond the need is kept for the next phase, not thrown away.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.losses.advantages import SCALES, group_advantages
from qwen3.losses.forward import MODES
from qwen3.rewards import response
from qwen3.stages.prompts import Prompt
from qwen3.stages.rollouts import Rollout

log = logging.getLogger("qwen3")


class NothingToLearn(RuntimeError):
    """Hardly any group of a phase has rewards that differ: no gradient but noise."""


@dataclass(frozen=True)
class Scoring:
    """From scores to advantages. scale: of `losses.advantages`. binarise: scores from here on
    count 1, others 0 (None: as they are), before any statistics. overlong: tokens before the limit
    from which on a penalty grows from 0 to 1 (DAPO's soft one; 0: none). skip_truncated: answers
    cut at the limit count in the statistics but are not trained on. form: share of the reward that
    a turn gets for its form alone, right or wrong: the thinking mode that was asked for, and an
    answer (format rewards of the report, 4.4).
    """

    scale: str = "batch"
    binarise: float | None = None
    overlong: int = 0
    skip_truncated: bool = False
    form: float = 0.0

    def __post_init__(self):
        if not 0 <= self.form < 1:
            raise ValueError(f"form {self.form} is a share of the reward: 0 to below 1")
        if self.scale not in SCALES:
            raise ValueError(f"advantage scale {self.scale!r} is not one of {', '.join(SCALES)}")
        if self.overlong < 0:
            raise ValueError(f"overlong {self.overlong} must be tokens, or 0")

    def reward(
        self, score: float | None, tokens: int, limit: int, formed: bool = False
    ) -> float | None:
        """Of an answer of `tokens`, whose limit is `limit`; None without a verdict. formed: whether
        its form is as the prompt asks."""
        if score is None:
            return None
        value = score if self.binarise is None else float(score >= self.binarise)
        value = self.form * formed + (1 - self.form) * value
        over = tokens - (limit - self.overlong)
        return value - (over / self.overlong if self.overlong and over > 0 else 0.0)


@dataclass(frozen=True)
class Refill:
    """oversample: prompts drawn for each group that is missing. rounds: most times that a phase
    samples. A phase that then has fewer groups than wanted goes on with those, and says so unless
    it was to sample once.
    """

    oversample: float = 1.25
    rounds: int = 4

    def __post_init__(self):
        if self.oversample < 1 or self.rounds < 1:
            raise ValueError(f"oversample and rounds of {self} must be at least 1")


class Groups:
    """choose(sample) -> (groups, records, metrics) of the next phase.

    prompts[i]: prompt number i. wanted: groups of a phase; least: fewer are an error. limit: tokens
    of an answer. memory: next prompt and carried groups, for the checkpoint.
    """

    def __init__(
        self,
        prompts,
        tokenizer: Tokenizer,
        scoring: Scoring,
        refill: Refill,
        *,
        wanted: int,
        least: int,
        limit: int,
    ):
        self._prompts, self._tokenizer = prompts, tokenizer
        self._scoring, self._refill = scoring, refill
        self._wanted, self._least, self._limit = wanted, least, limit
        self.memory: dict = {"next": 0, "carry": []}

    def choose(self, sample: Callable[[Sequence[Prompt]], list[Rollout]]):
        """sample(prompts) -> their rollouts, scored here. Groups are lists of rollouts with
        advantages. Raises NothingToLearn when hardly any group has rewards that differ.
        """
        ready = [[Rollout(**each) for each in group] for group in self.memory["carry"]]
        carried, seen, texts, drawn, flat = len(ready), [], [], 0, Counter()
        for _ in range(self._refill.rounds):
            missing = self._wanted - len(ready)
            if missing <= 0:
                break
            count = math.ceil(missing * self._refill.oversample)
            first = self.memory["next"]
            prompts = [self._prompts[number] for number in range(first, first + count)]
            self.memory["next"], drawn = first + count, drawn + count
            new = sample(prompts)
            said = [self._tokenizer.decode(each.answer) for each in new]
            scores = self._score(new, said, prompts)
            learnable, found = self._learnable(new)
            ready += learnable
            flat.update(found)
            seen += new
            texts += list(zip(said, scores, strict=True))
        if len(ready) < self._least:
            raise NothingToLearn(
                f"{drawn} prompts gave {len(ready)} groups whose rewards differ; {self._least} are "
                f"needed. Rewards were all low in {flat['low']} groups, all high in "
                f"{flat['high']}: choose prompts that the policy solves sometimes"
            )
        if len(ready) < self._wanted and self._refill.rounds > 1:
            log.warning(
                "%d groups instead of %d after %d rounds",
                len(ready),
                self._wanted,
                self._refill.rounds,
            )
        chosen, rest = ready[: self._wanted], ready[self._wanted :]
        self.memory["carry"] = [[asdict(each) for each in group] for group in rest]
        metrics = {"groups": len(chosen), "carried_in": carried, "carried_out": len(rest)}
        if drawn:
            metrics |= {
                "groups_all_low": flat["low"] / drawn,
                "groups_all_high": flat["high"] / drawn,
                "refill": drawn / self._wanted,
                **rollout_metrics(seen, [s for _, s in texts], [t for t, _ in texts]),
            }
        records = [
            {
                "prompt": r.prompt,
                "sample": r.sample,
                "task": r.task,
                "mode": MODES[r.mode],
                "reward": r.reward,
                "finish": r.finish,
                "tokens": len(r.answer),
                "text": text,
            }
            for r, (text, _) in zip(seen, texts, strict=True)
        ]
        return self._with_advantages(chosen), records, metrics

    def _score(self, new, said, prompts) -> list[float | None]:
        """Sets rewards and gives the scores themselves."""
        problems = {prompt.number: prompt.problem for prompt in prompts}
        pairs = [(problems[each.prompt], text) for each, text in zip(new, said, strict=True)]
        scores = _agreed(rewards.score_all(pairs))
        for each, score, (problem, text) in zip(new, scores, pairs, strict=True):
            formed = response.formed(text, problem.mode)
            each.reward = self._scoring.reward(score, len(each.answer), self._limit, formed)
        return scores

    def _learnable(self, new: Sequence[Rollout]) -> tuple[list[list[Rollout]], dict[str, int]]:
        """(groups whose rewards differ, counts of the others); no verdict, not in the group."""
        judged = [each for each in new if each.reward is not None]
        numbers = list(dict.fromkeys(each.prompt for each in judged))
        if not judged:
            return [], {}
        found = group_advantages([r.reward for r in judged], [r.prompt for r in judged])
        good = {r.prompt for r, learn in zip(judged, found.learnable, strict=True) if learn}
        groups = [[r for r in judged if r.prompt == n] for n in numbers if n in good]
        return groups, {"low": found.flat_low, "high": found.flat_high}

    def _with_advantages(self, chosen: list[list[Rollout]]) -> list[list[Rollout]]:
        every = [each for group in chosen for each in group]
        found = group_advantages(
            [r.reward for r in every], [r.prompt for r in every], scale=self._scoring.scale
        )
        for each, value in zip(every, found.values.tolist(), strict=True):
            each.advantage = value
        skip = self._scoring.skip_truncated
        kept = [[r for r in group if not (skip and r.truncated)] for group in chosen]
        kept = [group for group in kept if group]
        if len(kept) < self._least:
            raise RuntimeError(
                f"all answers of {len(chosen) - len(kept)} groups were cut at {self._limit} "
                "tokens and are not trained on: allow more tokens"
            )
        return kept


def _agreed(scores: list[float | None]) -> list[float | None]:
    """Process 0's, on all: a verifier may decide otherwise on another host."""
    if jax.process_count() == 1:
        return scores
    sent = np.array([np.nan if score is None else score for score in scores], np.float64)
    found = multihost_utils.broadcast_one_to_all(sent)
    return [None if np.isnan(score) else float(score) for score in found]


def rollout_metrics(
    seen: Sequence[Rollout], scores: Sequence[float | None], texts: Sequence[str]
) -> dict[str, float]:
    """Metrics of rollouts (post-training notes 1.5). Raises nothing on empty input: gives {}."""
    if not seen:
        return {}
    lengths = np.array([len(each.answer) for each in seen])
    judged = [(r, s) for r, s in zip(seen, scores, strict=True) if s is not None]
    groups: dict[int, list[float]] = {}
    for each, score in judged:
        groups.setdefault(each.prompt, []).append(score)
    tokens = [tuple([each.prompt, *each.answer]) for each in seen]
    metrics = {
        "answer_tokens": float(lengths.mean()),
        "answer_tokens_p95": float(np.percentile(lengths, 95)),
        "answer_tokens_max": float(lengths.max()),
        "truncated": _share(each.truncated for each in seen),
        "duplicates": 1.0 - len(set(tokens)) / len(tokens),
        "malformed": _share(response.read(text) is None for text in texts),
        "repeated": _share(map(repeats, texts)),
        "no_verdict": 1.0 - len(judged) / len(seen),
        **{
            f"finish/{name}": _share(r.finish == name for r in seen)
            for name in sorted({r.finish for r in seen})
        },
    }
    if judged:
        metrics |= {
            "score": float(np.mean([score for _, score in judged])),
            "score_std": float(np.std([score for _, score in judged])),
            "pass_at_1": _share(score == 1.0 for _, score in judged),
            "pass_at_group": _share(max(values) == 1.0 for values in groups.values()),
            **_by("score", judged, lambda r: r.task),
            **_by("score", judged, lambda r: MODES[r.mode]),
        }
    return metrics


def _share(values: Iterable[bool]) -> float:
    values = list(values)
    return sum(map(bool, values)) / max(len(values), 1)


def _by(name: str, judged, key) -> Mapping[str, float]:
    parts: dict[str, list[float]] = {}
    for each, score in judged:
        parts.setdefault(key(each), []).append(score)
    return {f"{name}/{part}": float(np.mean(values)) for part, values in sorted(parts.items())}


def repeats(text: str, *, size: int = 8, most: float = 0.3) -> bool:
    """Whether more than `most` of the text's word sequences of `size` occurred before in it."""
    words = text.split()
    grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    return len(grams) > 0 and 1 - len(set(grams)) / len(grams) > most
