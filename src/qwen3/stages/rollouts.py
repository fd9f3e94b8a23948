"""Rollouts: sampled answers of a policy as tokens, with all that training on them needs.

Sampling depends on (seed, prompt number, sample) only, and what a checkpoint stores comes back
exactly: a run that was stopped or killed anywhere goes on as if it had not been.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from qwen3 import hosts
from qwen3.data import chat
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import sample_answers
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.engine import CACHES, Engine
from qwen3.infer.requests import Completion, Request
from qwen3.losses.forward import MODES
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.rewards import Problem
from qwen3.rewards.answers import Score, ScoredAnswer, Scorer, score
from qwen3.stages.prompts import Prompt


@dataclass(frozen=True)
class Sampling:
    """How many answers are sampled for RL and distillation, and how long.

    The temperature is 1 and nothing is cut off, so that what is sampled from is the policy itself.
    """

    samples: int = 8  # answers per prompt (GRPO's group size G)
    max_tokens: int = 1024  # longest answer, thinking and all turns of an episode included
    slots: int = 64  # answers decoded together (continuous batching)
    budget: int | None = None  # tokens of thinking, after which it is closed by force; None: any
    block: int = 32  # tokens a slot that are decoded between two looks at what else is to do
    cache: str = "rows"  # form of the engine's KV cache, "rows" or "paged" (infer.engine.CACHES)
    # Places in the KV cache of all slots together; None: slots x the longest sequence.
    cache_tokens: int | None = None

    def __post_init__(self) -> None:
        if min(self.samples, self.max_tokens, self.slots, self.block) < 1:
            raise ValueError(f"samples, max_tokens, slots and block of {self} must be at least 1")
        if self.cache not in CACHES:
            raise ValueError(f"sampling.cache {self.cache!r}: wanted one of {', '.join(CACHES)}")
        if self.budget is not None and self.budget < 0:
            raise ValueError(f"budget {self.budget} is at least 0 tokens, or None for no limit")

    @property
    def default_cache(self) -> bool:
        """Whether nothing is said about the KV cache."""
        return self.cache == "rows" and self.cache_tokens is None


@dataclass
class Rollout:
    """A scored answer on its way to an optimizer step."""

    answer: ScoredAnswer
    reward: float | None = None  # of RL; None: no verdict, or no RL
    advantage: float | None = None  # None until its group is chosen to be trained on
    # log p of each answer token by the trainer at the start of the phase; [] where the sampler's
    # own log-probabilities serve.
    old_log_probs: list[float] = field(default_factory=list)
    # Scores by kind of reward (stages.reward_kinds), and their mean by the family's weights; {} and
    # None where the rule's own score is all there is.
    scores: dict[str, Score] = field(default_factory=dict)
    mean_score: Score = None

    @property
    def score(self) -> Score:
        """What its reward is made of, 0..1; None for no verdict."""
        return self.mean_score if self.scores else self.answer.score

    @property
    def completion(self) -> Completion:
        return self.answer.completion

    @property
    def prompt(self) -> int:
        """Number of the prompt in the run: the rollouts of one prompt are a group."""
        number = self.completion.request.prompt_id
        assert isinstance(number, int), number
        return number

    @property
    def task(self) -> str:
        return self.answer.problem.task

    @property
    def mode(self) -> str:
        """One of losses.forward.MODES: how the answer was asked for."""
        return MODES[bool(chat.mode_of(self.answer.problem.messages))]

    @property
    def version(self) -> int:
        """Optimizer step whose weights sampled the answer."""
        return self.completion.versions[0]

    @property
    def truncated(self) -> bool:
        """Whether a limit ended it: that of the tokens, or one of an episode of several turns."""
        return self.answer.truncated

    @property
    def length(self) -> int:
        """Tokens that the policy wrote; those of an environment are not counted."""
        return len(self.answer.written)


def engine_for(
    params: Any,
    sampling: Sampling,
    *,
    model: ModelConfig,
    tokenizer: Tokenizer,
    mesh: Mesh,
    execution: Execution,
    length: int,
    seed: int,
    version: int,
    record_experts: bool = False,
) -> RolloutBackend:
    """An engine over the weights `params` of optimizer step `version`; prompt and answer have at
    most `length` + 1 tokens, as a row of `length` predicts all but the first.

    A new one each time: what an earlier call left in it (cache lengths) could change the last bit.
    Its compiled programs are shared.
    """
    return Engine(
        model,
        params,
        tokenizer=tokenizer,
        slots=sampling.slots,
        block=sampling.block,
        cache=sampling.cache,
        cache_tokens=sampling.cache_tokens,
        seed=seed,
        version=version,
        mesh=mesh,
        execution=execution.replace(scan=False, remat="none"),
        max_length=context(model, length),
        record_experts=record_experts,
    )


def context(model: ModelConfig, length: int) -> int:
    """Tokens of prompt and answer together, at most."""
    return min(length + 1, model.max_length)


def sample(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    *,
    score: Scorer,
) -> list[Rollout]:
    """`sampling.samples` answers to each prompt, in the prompts' order, scored by `score`.

    Problems of a world (`qwen3.environments`) are episodes of several turns, judged by it.

    Raises ValueError for a prompt that leaves no room, RuntimeError for an answer that the backend
    could not finish (log-probabilities that are not finite).
    """
    requests = [request_for(prompt, sampling) for prompt in prompts]
    problems = [prompt.problem for prompt in prompts]
    answers = sample_answers(
        backend, tokenizer, problems, requests, samples=sampling.samples, score=score
    )
    return [Rollout(answer) for answer in answers]


def request_for(prompt: Prompt, sampling: Sampling) -> Request:
    """The request for the first answer to a prompt of the run."""
    return Request(
        list(prompt.ids),
        max_tokens=sampling.max_tokens,
        budget=sampling.budget,
        prompt_id=prompt.number,
    )


def shared_score(pairs: Sequence[tuple[Problem, str]]) -> list[Score]:
    """The scores of all answers, on all processes, each of which runs the verifiers of its share.

    Hosts need not agree on what they would say (a time limit, say): one verdict counts.
    """
    count = jax.process_count()
    if count == 1:
        return score(pairs)
    own = [
        None if value is None else float(value)
        for value in score(pairs[jax.process_index() :: count])
    ]
    # Answer i is number i // count of process i % count.
    shares = [json.loads(text) for text in hosts.gathered_words(json.dumps(own))]
    return [shares[i % count][i // count] for i in range(len(pairs))]


def unscored(pairs: Sequence[tuple[Problem, str]]) -> list[Score]:
    """No score for any, where texts need not be judged."""
    return [None] * len(pairs)


def by_prompt(rollouts: Sequence[Rollout]) -> list[list[Rollout]]:
    """The rollouts of each prompt, in the order in which the prompts first come."""
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt, []).append(rollout)
    return list(groups.values())


def token_sequence(rollout: Rollout, *, policy: bool) -> TokenSequence:
    """Prompt and answer with the loss mask: sampled tokens have weight 1, prompt and forced ones 0,
    and forced are an environment's too.

    policy: with the fields that the policy gradient reads (data.rows.POLICY_FIELDS).
    """
    completion = rollout.completion
    prompt = completion.request.prompt
    before = np.zeros(len(prompt), np.float32)

    def answered(values: Sequence[float] | np.ndarray) -> np.ndarray:
        return np.concatenate([before, np.asarray(values, np.float32)])

    fields = {}
    if policy:
        assert rollout.advantage is not None, rollout.prompt
        ones = np.ones(len(completion.tokens), np.float32)
        fields = {
            "advantages": answered(ones * rollout.advantage),
            "rollout_logp": answered(completion.log_probs),
            "old_logp": answered(rollout.old_log_probs or completion.log_probs),
        }
        if completion.experts is not None:
            fields["expert_ids"] = _shifted(completion.experts)
    weights = answered(~np.array(completion.forced, bool))
    ids = np.array([*prompt, *completion.tokens], np.int32)
    return TokenSequence(ids, weights, MODES.index(rollout.mode), fields)


def _shifted(experts: np.ndarray) -> np.ndarray:
    """Routing of the inputs, [n - 1, L, A], as a field of the n tokens, [n, L x A].

    Slot t of a row reads input t and predicts token t + 1, where a sequence's fields stand.
    """
    flat = experts.reshape(len(experts), -1)
    return np.concatenate([np.zeros_like(flat[:1]), flat])


def sample_record(rollout: Rollout, prompt: str) -> dict[str, Any]:
    """A line of samples/<step>.jsonl; prompt: the text of the rendered prompt."""
    completion = rollout.completion
    return {
        "prompt_id": rollout.prompt,
        "sample": completion.request.sample,
        "task": rollout.task,
        "mode": rollout.mode,
        "prompt": prompt,
        **({"tools": rollout.answer.problem.tools} if rollout.answer.problem.tools else {}),
        "answer": rollout.answer.text,
        "score": rollout.answer.score,
        "finish": completion.finish,
        "tokens": rollout.length,
        **episode_columns(rollout.answer),
    }


def episode_columns(answer: ScoredAnswer) -> dict[str, Any]:
    """Columns of samples/ that an episode of several turns has besides; {} for a single answer."""
    transcript = answer.transcript
    if transcript is None:
        return {}
    return {"turns": len(transcript.turns), "calls": transcript.calls, "stop": transcript.stop}
