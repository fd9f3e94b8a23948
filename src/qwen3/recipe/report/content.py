"""What the report shows, gathered from the results: introduction, claims, transcripts, times."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen3.recipe.report import claims
from qwen3.recipe.report.claims import Claim, Result

TITLE = "The Qwen3 recipe in small"
INTRODUCTION = (
    "A Qwen3 model with {parameters:,} parameters went through the stages of the Qwen3 technical "
    "report (arXiv 2505.09388): pretraining, cold start, reasoning RL, thinking-mode fusion, "
    "general RL and, with more time, long context, mixtures of experts and distillation into a "
    "smaller student. Here the report's claims stand beside what was measured, each with a rule "
    "that decides.",
    "Its world is the combination lock. A lock has a code of three digits, and a diary turns it "
    "day by day, for one to six days: \u201creverse\u201d makes 604 into 406, \u201cturn first up "
    "3\u201d makes it 904. The question is where it ends. There are a thousand answers, and each "
    "day needs the code of the day before: to think is to write those down. A program checks the "
    "answer.",
)
LEADERBOARD = (
    "In-house suites of qwen3 eval, by the model after each stage, in both modes with the report's "
    "sampling. Brackets are 95% intervals over items. Most suites are of kinds that the recipe "
    "never trained on."
)
USER_TURN = re.compile(r"<\|im_start\|>user\n(.*?)<\|im_end\|>", re.DOTALL)
FLAG = re.compile(r" ?/(no_)?think\b")


@dataclass(frozen=True)
class Talk:
    """One exchange with the model, special tokens included, and its score."""

    heading: str
    prompt: str
    answer: str
    score: float

    @property
    def question(self) -> str:
        """The last user turn, without its flag."""
        return FLAG.sub("", (USER_TURN.findall(self.prompt) or [self.prompt])[-1]).strip()

    @property
    def thinking(self) -> str:
        return self.answer.rpartition("</think>")[0].replace("<think>", "").strip()

    @property
    def conclusion(self) -> str:
        """What follows the think block."""
        return self.answer.rpartition("</think>")[2].replace("<|im_end|>", "").strip()

    @property
    def grade(self) -> str:
        return "right" if self.score == 1 else "wrong"


@dataclass(frozen=True)
class Report:
    """All that a page shows, in its order."""

    introduction: list[str]  # paragraphs for a reader who knows nothing of the recipe
    example: tuple[Talk, Talk] | None  # one problem with thinking and without
    facts: list[str]  # command, date, machine, test set
    warnings: list[str]  # what makes the numbers less than a result
    claims: list[Claim]
    talks: list[Talk]
    times: list[tuple[str, list[float]]]  # stage, seconds of each seed
    leaderboard: list[tuple[str, ...]]  # header and rows: in-house suites by every stage's model

    @property
    def time_header(self) -> tuple[str, ...]:
        seeds = len(self.times[0][1]) if self.times else 0
        return ("stage", *(f"seed {n}, seconds" for n in range(seeds)))

    @property
    def time_rows(self) -> list[tuple[str, ...]]:
        return [(stage, *(f"{s:.0f}" for s in seconds)) for stage, seconds in self.times]


def gather(results: Sequence[Result], facts: Mapping[str, Any]) -> Report:
    """The report on `results`; see `page.write` for both arguments."""
    stages = dict.fromkeys(stage for result in results for stage in result["wall"])
    times = [(stage, [r["wall"].get(stage, 0.0) for r in results]) for stage in stages]
    parameters = results[0]["pretrain"]["parameters"]
    return Report(
        [text.format(parameters=parameters) for text in INTRODUCTION],
        example(results[0]),
        run_facts(times, facts),
        warnings(results, facts),
        claims.judge(results),
        list(transcripts(results[0])),
        times,
        leaderboard(results),
    )


def leaderboard(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """(seed, stage, a score a suite) with a header; [] where no seed has a leaderboard.

    A score is "mean [low to high]" in percent over the suite's items; "-" without a verdict.
    """
    boards = [result.get("leaderboard", {}) for result in results]
    suites = sorted({suite for board in boards for row in board.values() for suite in row})
    rows = [
        (str(seed), stage, *(_percent(row.get(suite, {})) for suite in suites))
        for seed, board in enumerate(boards)
        for stage, row in board.items()
    ]
    return [("seed", "model after", *suites), *rows] if rows else []


def _percent(row: Mapping[str, Any]) -> str:
    if row.get("score") is None:
        return "-"
    score, low, high = (100 * row[name] for name in ("score", "low", "high"))
    return f"{score:.0f}% [{max(low, 0):.0f} to {min(high, 100):.0f}]"


def example(result: Result) -> tuple[Talk, Talk] | None:
    """A problem that is right with thinking and wrong without, or else the first in both modes."""
    pairs = list(zip(*(_talks(result, mode) for mode in ("think", "no_think")), strict=False))
    telling = (pair for pair in pairs if [talk.grade for talk in pair] == ["right", "wrong"])
    return next(telling, pairs[0] if pairs else None)


def transcripts(result: Result) -> Iterator[Talk]:
    """Exchanges in both modes, a tool call, and one problem at every thinking budget."""
    for mode in ("think", "no_think"):
        yield from _talks(result, mode)[:2]
    yield from _talks(result, "calls")[:1]
    for kind, swept in result.get("budgets", {}).get("swept", {}).items():
        for talk in swept["transcripts"]:
            forced = ", stop text forced" if talk["forced"] else ""
            yield _talk(f"{kind}, budget {talk['budget']} tokens", talk, forced)


def _talks(result: Result, measure: str) -> list[Talk]:
    """The transcripts of a measure of the last model: "think", "no_think" or "calls"."""
    last = result.get("general_rl") or result.get("fusion") or {}
    label = "tool call" if measure == "calls" else f"/{measure}"
    return [_talk(label, talk) for talk in last.get(measure, {}).get("transcripts", ())]


def _talk(label: str, talk: Mapping[str, Any], more: str = "") -> Talk:
    heading = f"{label}, score {talk['score']}{more}"
    return Talk(heading, talk["prompt"], talk["answer"], talk["score"])


def run_facts(times: Sequence[tuple[str, list[float]]], facts: Mapping[str, Any]) -> list[str]:
    """Command, date, time, machine, and what the problems are."""
    seconds = sum(sum(stage) for _, stage in times)
    seeds = len(times[0][1]) if times else 0
    final = "the final test set, never used for design"
    exam = final if facts["exam"] == "final" else "the development set"
    return [
        f"Command: {facts['command']}",
        f"{facts['date']}; {seeds} seed{'s' * (seeds != 1)}; budget {facts['minutes']:g} minutes a "
        f"seed; {facts['elapsed'] / 60:.1f} minutes from start to end, {seconds / 60:.1f} of "
        f"stages, {facts['workers']} side by side; {facts['machine']}, {facts['cores']} cores",
        f"Held-out problems: {exam}. Brackets are 95% intervals over problems; they do not cover "
        "the variance between training runs.",
    ]


def warnings(results: Sequence[Result], facts: Mapping[str, Any]) -> list[str]:
    """Trials, numbers on the development set, and stages that ended early."""
    texts = []
    if facts["exam"] != "final":
        texts.append("On the DEVELOPMENT set: these numbers are not a result.")
    if facts["minutes"] < 5:
        texts.append("A TRIAL of a few steps: these numbers mean nothing.")
    for seed, result in enumerate(results):
        for stage, reported in result.items():
            if reason := reported.get("left_out"):
                texts.append(f"Seed {seed}, {stage}: {reason}")
    return texts
