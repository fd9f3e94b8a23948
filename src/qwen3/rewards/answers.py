"""Answers to problems: rendered, sampled, scored, regrouped. Evaluation, data and RL share this.

Any `RolloutBackend` generates: token ids go in and come out, text is made for scorers and people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from qwen3 import rewards
from qwen3.data.chat_prompt import chat_prompt_ids, turn_opening
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.requests import Completion, Request
from qwen3.infer.stop_strings import text_before
from qwen3.rewards import Problem, response

T = TypeVar("T")
Score: TypeAlias = float | None  # 0..1; None for no verdict, or for a problem without a task
Scorer: TypeAlias = Callable[[Sequence[tuple[Problem, str]]], list[Score]]


@dataclass(frozen=True)
class Transcript:
    """The course of an episode of several turns, whose completion holds all of its tokens."""

    turns: list[list[int]]  # [start, end) of each of the policy's turns in the completion's tokens
    texts: list[str]  # of each turn, as the environment read it
    stop: str  # why the episode ended, one of environments.episode.STOPS
    cut: bool = False  # whether one of the episode's limits ended it
    calls: int = 0  # tool calls, valid or not
    messages: list[dict[str, Any]] = field(default_factory=list)  # of both sides, after the problem


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer to a problem: its tokens, its text as the scorers read it, its score."""

    problem: Problem
    completion: Completion  # token ids and all that the backend knows of them
    text: str  # the turn: all that follows <|im_start|>assistant, be it in the prompt
    score: Score = None
    transcript: Transcript | None = None  # of an episode of several turns; None for one answer

    @classmethod
    def from_text(cls, problem: Problem, text: str, score: Score = None) -> ScoredAnswer:
        """An answer that was not sampled here: it has no tokens."""
        return cls(problem, Completion(Request(()), finish="stop"), text, score)

    @property
    def cut(self) -> bool:
        """Whether a thinking budget ended a thought."""
        forced = self.of_turns(self.completion.forced)
        return any(forced)

    @property
    def texts(self) -> list[str]:
        """The text of each of the policy's turns."""
        return [self.text] if self.transcript is None else self.transcript.texts

    @property
    def written(self) -> list[int]:
        """The tokens of the policy's turns, without those of an environment."""
        return self.of_turns(self.completion.tokens)

    def of_turns(self, values: list[T]) -> list[T]:
        """Those of the values of all tokens that belong to the policy's turns."""
        if self.transcript is None:
            return values
        return [value for start, end in self.transcript.turns for value in values[start:end]]

    @property
    def truncated(self) -> bool:
        """Whether a limit ended it: that of the tokens, or one of an episode."""
        if self.transcript is None:
            return self.completion.finish == "length"
        return self.transcript.cut

    @property
    def formed(self) -> bool:
        """Whether every turn is well-formed, in the problem's mode, and answers something."""
        return all(response.formed(text, self.problem.mode) for text in self.texts)

    @property
    def turn(self) -> response.Response | None:
        """Thinking and answer, of an episode the last turn's; None for a malformed turn."""
        return response.read(self.texts[-1])

    def thinking_tokens(self, think_close: int) -> int:
        """Tokens that the model itself wrote in its thinking block, all where it never closed."""
        tokens, forced = self.completion.tokens, self.completion.forced
        end = tokens.index(think_close) if think_close in tokens else len(tokens)
        return max(0, sum(not by_force for by_force in forced[:end]) - 1)

    def conversation(self) -> dict:
        """A sample for supervised fine-tuning. Raises ValueError for a malformed turn."""
        if self.turn is None:
            raise ValueError(f"a malformed turn makes no conversation: {self.texts[-1][:80]!r}")
        if self.transcript is not None:
            messages = [*self.problem.messages, *self.transcript.messages]
            return {"messages": messages, "tools": self.problem.tools}
        reply = {
            "role": "assistant",
            "content": self.turn.answer,
            "reasoning_content": (self.turn.thinking or "").strip("\n"),
        }
        return {"messages": [*self.problem.messages, reply], "tools": self.problem.tools}


def prompt_ids(
    problem: Problem, tokenizer: Tokenizer, *, enable_thinking: bool | None = None
) -> list[int]:
    """Ids of the problem's messages and of the opening of the answer (`data.chat_prompt`)."""
    return chat_prompt_ids(
        tokenizer, problem.messages, tools=problem.tools, enable_thinking=enable_thinking
    )


def requests_for(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    enable_thinking: bool | None = None,
    **options: Any,
) -> list[Request]:
    """A request for each problem, numbered in their order; options: fields of Request."""
    return [
        Request(
            prompt_ids(problem, tokenizer, enable_thinking=enable_thinking),
            prompt_id=number,
            **options,
        )
        for number, problem in enumerate(problems)
    ]


def sample_answers(
    backend: RolloutBackend,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    requests: Sequence[Request],
    *,
    samples: int,
    score: Scorer,
) -> list[ScoredAnswer]:
    """`samples` answers to each request in turn, scored for the problem it asks.

    Raises ValueError for a request that cannot be served, RuntimeError for
    an answer that the backend could not finish (a model whose log-probabilities are not finite).
    """
    copies = [copy for request in requests for copy in request.samples(samples)]
    completions = backend.generate(copies)
    owners = [problem for problem in problems for _ in range(samples)]
    return scored_answers(tokenizer, owners, completions, score=score)


def scored_answers(
    tokenizer: Tokenizer,
    owners: Sequence[Problem],
    completions: Sequence[Completion],
    *,
    score: Scorer,
) -> list[ScoredAnswer]:
    """Each finished completion as an answer to its owner, scored. RuntimeError for an aborted one.

    Where the prompt opens a thinking block (the hard switch, Thinking-2507), the turn that is
    scored begins with it.
    """
    texts, openings = [], dict[int, str]()  # samples of a request share their prompt, a list
    for completion in completions:
        request = completion.request
        if completion.error:
            raise RuntimeError(
                f"answer {request.sample} to prompt {request.prompt_id}: {completion.error}"
            )
        if id(request.prompt) not in openings:
            openings[id(request.prompt)] = turn_opening(tokenizer, request.prompt)
        text = text_before(tokenizer, completion.tokens, request.stop_strings)
        texts.append(openings[id(request.prompt)] + text)
    scores = score(list(zip(owners, texts, strict=True)))
    return [
        ScoredAnswer(*fields) for fields in zip(owners, completions, texts, scores, strict=True)
    ]


def score(pairs: Sequence[tuple[Problem, str]]) -> list[Score]:
    """The score of each (problem, turn); None where the problem has no task to score it by."""
    scored = [pair for pair in pairs if pair[0].task]
    verdicts = iter(rewards.score_all(scored))
    return [next(verdicts) if problem.task else None for problem, _ in pairs]
