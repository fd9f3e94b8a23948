"""Episodes played by scripts instead of a model: dialogues for fine-tuning, and for tests."""

from __future__ import annotations

from typing import Any, NamedTuple

from qwen3.data import chat
from qwen3.environments.episode import ANSWERED, PARSE, cut_visibly
from qwen3.environments.world import Script, World
from qwen3.rewards import Problem, response
from qwen3.rewards.answers import Score


class Dialogue(NamedTuple):
    """A finished episode as messages."""

    messages: list[dict[str, Any]]  # the problem's, the script's and the environment's
    tools: list[dict[str, Any]] | None
    score: Score
    stop: str  # one of episode.STOPS; the limits on tokens, context and time do not exist here
    texts: list[str]  # the script's turns as a model would write them

    def conversation(self) -> dict[str, Any]:
        """The dialogue as a sample for supervised fine-tuning."""
        return {"messages": self.messages, "tools": self.tools}


def dialogue(world: World, problem: Problem, script: Script, thought: str = "") -> Dialogue:
    """The episode that a script plays, with `thought` in every turn.

    ValueError for a script that ends before its episode; the environment's exceptions pass.
    """
    episode, limits = world.begin(problem), world.limits
    messages, calls = list(problem.messages), 0
    texts: list[str] = []
    thought = "" if problem.mode == "no_think" else thought

    def ended(stop: str, score: Score = 0.0) -> Dialogue:
        return Dialogue(messages, problem.tools, score, stop, texts)

    try:
        text = next(script)
        while True:
            texts.append(response.render(thought, text))
            if response.read(texts[-1]) is None:
                return ended(PARSE)
            turn = chat.parse(texts[-1])
            messages.append({**turn.message(), "reasoning_content": thought})
            step = episode.step(turn)
            calls += step.calls
            if step.done:
                return ended(ANSWERED, episode.verdict())
            if calls > limits.calls or len(texts) >= limits.turns:
                return ended("calls" if calls > limits.calls else "turns")
            shown = [cut_visibly(m["content"], limits.observation_chars) for m in step.messages]
            messages += [
                {**message, "content": content}
                for message, content in zip(step.messages, shown, strict=True)
            ]
            text = script.send(shown)
    except StopIteration:
        raise ValueError(f"a script of {world.name} ended before its episode") from None
