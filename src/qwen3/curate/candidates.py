"""N answers of a teacher to each problem, in one mode, through the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwen3 import rewards
from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.requests import PRESETS, Request, SamplingParams
from qwen3.rewards import Problem, response

MODES = {"think": "thinking", "no_think": "non_thinking"}  # to the report's sampling settings


@dataclass(frozen=True)
class Candidate:
    """One answer. text: all after <|im_start|>assistant, as the scorers take it. score: of the
    problem's task, None without a verdict or a task. finish: as of the engine.
    """

    problem: Problem
    text: str
    score: float | None = None
    finish: str = "stop"

    @property
    def turn(self) -> response.Response | None:
        """Thinking and answer; None if the turn is malformed."""
        return response.read(self.text)

    def conversation(self) -> dict:
        """As a sample for fine-tuning. Raises ValueError for a malformed turn."""
        if self.turn is None:
            raise ValueError(f"a malformed turn makes no conversation: {self.text[:80]!r}")
        reply = {
            "role": "assistant",
            "content": self.turn.answer,
            "reasoning_content": (self.turn.thinking or "").strip("\n"),
        }
        return {"messages": [*self.problem.messages, reply], "tools": self.problem.tools}


def generate(
    engine: Engine,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    samples: int,
    mode: str,
    max_tokens: int | None = None,
    sampling: SamplingParams | None = None,
    seed: int = 0,
) -> list[list[Candidate]]:
    """`samples` scored candidates of each problem. mode: "think" or "no_think", by hard switch in
    the prompt, so the questions stay as they are; sampling: default the report's of that mode.
    Raises ValueError for another mode or a problem that already asks for one.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
    thinks = mode == "think"
    asked = []
    for number, problem in enumerate(problems):
        if problem.mode not in ("any", mode):
            raise ValueError(f"problem {number} asks for {problem.mode!r}, not {mode!r}")
        ids, _ = chat.render_tokens(
            tokenizer,
            problem.messages,
            tools=problem.tools,
            add_generation_prompt=True,
            enable_thinking=thinks,
            literal_roles=("system", "user", "tool"),
        )
        request = Request(
            ids,
            sampling or PRESETS[MODES[mode]],
            max_tokens=max_tokens,
            prompt_id=number,
            seed=seed,
            thinking=thinks or None,
        )
        asked += request.samples(samples)
    # The empty block is in the prompt of the hard switch; the turn begins with it all the same.
    opening = "" if thinks else chat.EMPTY_THINK
    done = engine.generate(asked)
    texts = [opening + tokenizer.decode(each.tokens) for each in done]
    owners = [problem for problem in problems for _ in range(samples)]
    scores = score(list(zip(owners, texts, strict=True)))
    flat = [
        Candidate(problem, text, value, each.finish)
        for problem, text, value, each in zip(owners, texts, scores, done, strict=True)
    ]
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]


def score(pairs: Sequence[tuple[Problem, str]]) -> list[float | None]:
    """Of those whose problem has a task; None for the others."""
    with_task = [i for i, (problem, _) in enumerate(pairs) if problem.task]
    found: list[float | None] = [None] * len(pairs)
    for i, value in zip(with_task, rewards.score_all([pairs[i] for i in with_task]), strict=True):
        found[i] = value
    return found
