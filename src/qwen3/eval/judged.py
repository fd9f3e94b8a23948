"""Suites that a judge grades: WritingBench and MT-Bench. Without a judge: no verdict.

The judge is `rewards.judge`: both orders, a quote of the answer, 0 to 1 in five grades, not ten. It
never sees a thought. Arena-Hard asks the same model for comparisons (`arena`).
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from qwen3.data.jsonl import place, read_rows
from qwen3.eval.item_readers import found
from qwen3.eval.items import Item, Verdict
from qwen3.eval.suite_prompts import Messages, user
from qwen3.infer.language_model import load
from qwen3.rewards.judge import Judge, JudgeCase
from qwen3.rewards.judge_backends import JudgeSettings, of_engine, of_url, remembered
from qwen3.rewards.judge_check import check_judge
from qwen3.train.writing import WorkdirError, advice

SQLITE_ERRNO = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS}
_JUDGE: list[Judge] = []  # the one that `use` set


def use(judge: Judge | None) -> None:
    """Judge by `judge` from now on; None: by nobody."""
    _JUDGE[:] = [] if judge is None else [judge]


def judge() -> Judge | None:
    """Who judges, if anybody does."""
    return _JUDGE[0] if _JUDGE else None


def opened(settings: JudgeSettings, folder: Path) -> Judge:
    """The judge of a run of suites, whose replies are kept in `folder`.

    Raises ValueError for a model that cannot be one: hostile answers must score 0.
    """
    if settings.url:
        ask = of_url(settings)
    else:
        ask = of_engine(load(settings.model).engine(slots=settings.slots), settings)
    path = folder / "judge.sqlite"
    with _explained(path):
        remembering = remembered(ask, path, f"{settings.url} {settings.model}")

    def ask_and_keep(conversations: Sequence[list[dict[str, str]]]) -> list[str | None]:
        with _explained(path):
            return remembering(conversations)

    judge = Judge(ask_and_keep)
    check_judge(judge)
    return judge


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns an error of SQLite, as on a full disk, into a WorkdirError of one line."""
    try:
        yield
    except sqlite3.OperationalError as error:
        number = SQLITE_ERRNO.get(error.sqlite_errorcode & 0xFF)  # the rest tells where it arose
        raise WorkdirError(f"cannot write {path}: {error}; {advice(number)}") from error


def judged(cases: Sequence[JudgeCase]) -> Verdict:
    """The mean of the cases' scores; no verdict without a judge, or where one case has none."""
    if not _JUDGE:
        return Verdict(None)
    scores = [verdict.score for verdict in _JUDGE[0].verdicts(cases)]
    known = [score for score in scores if score is not None]
    return Verdict(mean(known) if len(known) == len(scores) else None, cases[-1].answer or None)


# --- WritingBench


def writing_score(item: Item, answer: str) -> Verdict:
    """The mean grade by the criteria of the query's checklist."""
    return judged(
        [JudgeCase(item["query"], answer, rubric=_rubric(one)) for one in item["checklist"]]
    )


def _rubric(criterion: Mapping[str, Any]) -> str:
    """A criterion for the judge: its name and text, without the grades of another scale."""
    return f"Grade by one criterion alone, {criterion['name']}: {criterion['criteria_description']}"


# --- MT-Bench


def read_mt_bench(files: Sequence[Path]) -> list[Item]:
    """question.jsonl, with the references of reference_answer/gpt-4.jsonl where they are beside."""
    items = []
    for file in files:
        references = {
            row["question_id"]: row["choices"][0]["turns"]
            for path in found(file.parent / "reference_answer", ("*.jsonl",))
            for _, row in read_rows(path, fields=("question_id", "choices"))
        }
        for number, row in read_rows(file, fields=("question_id", "category", "turns")):
            if len(row["turns"]) != 2:
                raise ValueError(f"{place(file, number)}: {len(row['turns'])} turns; wanted are 2")
            reference = references.get(row["question_id"], [None, None])
            items.append(Item(str(row["question_id"]), {**row, "reference": reference}))
    return items


def first(item: Item) -> Messages:
    return user(item["turns"][0])


def follow(item: Item, messages: Messages) -> Messages | None:
    """The second question, None after its answer."""
    done = sum(message["role"] == "assistant" for message in messages)
    return user(item["turns"][done]) if done < len(item["turns"]) else None


def mt_score(item: Item, messages: Messages) -> Verdict:
    """The mean grade of the answers; the second question stands behind the first and its answer."""
    cases, shown = [], ""
    turns = zip(item["turns"], _answers(messages), item["reference"], strict=True)
    for question, answer, reference in turns:
        rubric = f"A reference answer is: {reference}" if reference else ""
        cases.append(JudgeCase(shown + question, answer, rubric=rubric))
        shown += f"{question}\n\n[answered] {answer}\n\n"
    return judged(cases)


def _answers(messages: Messages) -> list[str]:
    return [message["content"] for message in messages if message["role"] == "assistant"]
