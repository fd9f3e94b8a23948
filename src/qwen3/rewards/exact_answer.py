"""Families of questions with one exact answer, in English and Chinese: a draw and its wordings.

The answer stands on the last line, after `Answer:` (`答案：`), or is the whole turn. A family that
punishes a constant policy draws two problems at a time, twins, whose answers differ.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

from qwen3.rewards.response import final_line
from qwen3.rewards.task import Problem, Task, ask, draw_in_split, levels

LANGUAGES = ("en", "zh")
MARKERS = {"en": "Answer:", "zh": "答案："}
LAST_LINE = {
    "en": "Finish with one line: `Answer: {form}`",
    "zh": "最后单独写一行：`答案：{form}`",
}

# (values of the wording, the right answer); of twins, two of them
Drawn: TypeAlias = tuple[dict[str, Any], str]
Draw: TypeAlias = Callable[[Random, int, str], Any]  # (rng, size, language) -> Drawn or two
Wordings: TypeAlias = Mapping[str, tuple[str, str]]  # language -> (training, held-out) wording
Example: TypeAlias = tuple[Problem, str, float]  # (problem, turn, score)


def normal(text: str) -> str:
    """The text with single spaces, and without space and full stop at its end."""
    return " ".join(text.split()).rstrip(".。 ")


def equal_text(_: Problem, final: str, gold: str) -> bool:
    """The same text but for spaces and a full stop at the end; letter case counts."""
    return normal(final) == normal(gold)


def no_thought(_: Problem) -> str:
    return "Step by step."


@dataclass(frozen=True)
class ExactAnswer:
    """What one family of exact answers is made of."""

    name: str
    draw: Draw
    wordings: Wordings
    guess: Callable[[Problem, Random], str]  # a final answer of a policy that knows the form only
    sizes: tuple[int, int]  # `size` of a draw at difficulty 0 and 1
    form: Sequence[str] = ("", "")  # of the last line, English and Chinese; "": the whole turn
    same: Callable[[Problem, str, str], bool] = equal_text  # (problem, final answer, gold)
    thought: Callable[[Problem], str] = no_thought
    key: Callable[[Any], str] = repr  # what is never shared by the splits, of what was drawn
    group: str = "reasoning"
    paired: bool = False
    hacks: Sequence[str] = field(default=(), repr=False)  # more final answers that score 0

    def problem(
        self, values: Mapping[str, Any], gold: str, language: str = "en", split: str = "train"
    ) -> Problem:
        """The Problem of drawn values."""
        text = self.wordings[language][split == "heldout"].format(**values)
        if self.form[0]:
            form = self.form[LANGUAGES.index(language)]
            text += "\n" + LAST_LINE[language].format(form=form)
        record = {"language": language, "values": dict(values), "gold": gold}
        return Problem(self.name, ask(text), record)

    def make(self, rng: Random, difficulty: float, split: str) -> Any:
        """A problem, or the two of a pair."""
        language, size = rng.choice(LANGUAGES), levels(difficulty, *self.sizes)
        drawn = draw_in_split(lambda: self.draw(rng, size, language), self.key, split)
        pairs = drawn if self.paired else (drawn,)
        problems = [self.problem(values, gold, language, split) for values, gold in pairs]
        problems = [Problem(p.task, p.messages, p.answer, difficulty) for p in problems]
        return tuple(problems) if self.paired else problems[0]

    def grade(self, problem: Problem, answer: str) -> float:
        final = answer
        if self.form[0]:
            line = final_line(answer, MARKERS[problem.answer["language"]])
            if not line:
                return 0.0
            final = line
        return self.same(problem, final, problem.answer["gold"])

    def written(self, problem: Problem, final: str) -> str:
        """The answer whose final answer is `final`."""
        return f"{MARKERS[problem.answer['language']]} {final}" if self.form[0] else final

    def task(self, example: Drawn, wrong: str) -> Task:
        """The family. example: values and right answer; wrong: a wrong final answer to it."""
        problem = self.problem(*example)
        right, hacks = self.written(problem, example[1]), [wrong, *self.hacks]
        return Task(
            self.name,
            self.make,
            self.grade,
            lambda p: (self.thought(p), self.written(p, p.answer["gold"])),
            lambda p, rng: self.written(p, self.guess(p, rng)),
            examples=worked(problem, right, *(self.written(problem, hack) for hack in hacks)),
            group=self.group,
            paired=self.paired,
        )


def worked(problem: Problem, right: str, wrong: str, *hacks: str) -> tuple[Example, ...]:
    """Examples of a family with one right answer: that answer, and those that hedge or cheat.

    hacks: further answers that score 0.
    """
    bodies = [
        wrong,
        f"{right}\n{wrong}",
        f"{right} or {wrong}",
        f"{right}\nI hope this helps!",
        problem.messages[-1]["content"],
        *hacks,
    ]
    return (
        (problem, f"<think>\nHm.\n</think>\n\n{right}", 1.0),
        (problem, f"<think>\n{right}\n</think>\n\nDone.", 0.0),
        *((problem, f"<think>\n\n</think>\n\n{body}", 0.0) for body in bodies),
    )
