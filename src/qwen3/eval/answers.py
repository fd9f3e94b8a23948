"""Problems asked of an engine: rendered, sampled, scored, kept together with their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen3 import rewards
from qwen3.data import chat
from qwen3.eval import intervals
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Completion, Request, SamplingParams, sampling
from qwen3.rewards import Problem, response


@dataclass(frozen=True)
class Answer:
    """One scored answer. text: all that follows <|im_start|>assistant. score: 0..1, None for no
    verdict.
    """

    problem: Problem
    completion: Completion
    text: str
    score: float | None

    @property
    def cut(self) -> bool:
        """Whether a thinking budget ended the thought."""
        return any(self.completion.forced)

    def thinking_tokens(self, think_close: int) -> int:
        """Tokens that the model wrote itself inside its block (all, where it never closed)."""
        made = self.completion
        at = made.tokens.index(think_close) if think_close in made.tokens else len(made.tokens)
        return max(0, sum(not forced for forced in made.forced[:at]) - 1)


def request(
    tokenizer, problem: Problem, *, enable_thinking: bool | None = None, **options
) -> Request:
    """The problem's dialogue as a request. enable_thinking False: the hard switch of the template.
    options: fields of Request."""
    ids, _ = chat.render_tokens(
        tokenizer,
        problem.messages,
        tools=problem.tools,
        add_generation_prompt=True,
        enable_thinking=enable_thinking,
    )
    return Request(ids, **options)


def ask(
    engine: Engine,
    problems: Sequence[Problem],
    *,
    how: SamplingParams | None = None,
    samples: int = 1,
    enable_thinking: bool | None = None,
    seed: int = 0,
    **options,
) -> list[list[Answer]]:
    """`samples` scored answers to each problem. how: default greedy. options: fields of Request
    (budget, max_tokens, thinking, ...)."""
    asked = [
        request(
            engine.tokenizer,
            problem,
            enable_thinking=enable_thinking,
            sampling=how or sampling("greedy"),
            prompt_id=number,
            seed=seed,
            **options,
        )
        for number, problem in enumerate(problems)
    ]
    made = engine.generate([each for one in asked for each in one.samples(samples)])
    owners = [problem for problem in problems for _ in range(samples)]
    lead = response.render("", "") if enable_thinking is False else ""
    texts = [lead + engine.tokenizer.decode(each.tokens) for each in made]
    scores = rewards.score_all(list(zip(owners, texts, strict=True)))
    answers = [Answer(*fields) for fields in zip(owners, made, texts, scores, strict=True)]
    return [answers[i : i + samples] for i in range(0, len(answers), samples)]


def accuracy(answers: Sequence[Sequence[Answer]]) -> intervals.Estimate:
    """Mean score: per problem over its samples, then over problems. Answers without a verdict do
    not count; ValueError where none has one."""
    means = []
    for group in answers:
        scores = [each.score for each in group if each.score is not None]
        if scores:
            means.append(sum(scores) / len(scores))
    if all(value in (0.0, 1.0) for value in means) and means:
        return intervals.share(int(sum(means)), len(means))
    return intervals.mean(means)
