"""The first steps of a research: questions back to the user, and the plan of sub-questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from qwen3.research.journal import Journal
from qwen3.research.model_calls import Messages, ModelCalls

MOST_QUESTIONS = 3  # back to the user
CLARIFY = f"""You prepare a research report from a folder of documents.
Before work begins you may ask the user at most {MOST_QUESTIONS} short questions whose answers would
change the report: scope, time, audience, what to compare. Ask nothing that the request already
says. Reply with JSON alone: [{{"question": "..."}}, ...], or [] if nothing is unclear."""
PLAN = """You plan a research report from a folder of documents that is searched by words.
Split the request into at most {most} sub-questions which together answer it, without overlap, in
the order of the report. For each give the words to search for. Reply with JSON alone:
[{{"question": "...", "search": "..."}}, ...]"""


@dataclass(frozen=True)
class Clarification:
    """A question back to the user, and the answer; "" where the user had none."""

    question: str
    answer: str


@dataclass(frozen=True)
class SubQuestion:
    """One section of the report: what it answers, and the first words to search for."""

    question: str
    search: str


def messages(system: str, user: str) -> Messages:
    """A conversation of one turn."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def clarify(
    calls: ModelCalls,
    journal: Journal,
    question: str,
    answers: Sequence[str],
    ask_user: Callable[[str], str] | None,
) -> list[Clarification]:
    """Ask the user back. `answers` are given beforehand, in order; the others come from `ask_user`.

    None: nobody can be asked, and no more than `answers` are used. No question is asked twice, be
    the run killed behind it or not.
    """
    if ask_user is None and not answers:
        return []
    items = calls.items("clarify", messages(CLARIFY, question), ["question"])[:MOST_QUESTIONS]
    clarified = []
    for number, item in enumerate(items):
        text = str(item["question"]).strip()
        if not text:
            continue
        if number < len(answers):
            answer = answers[number]
        elif ask_user is not None:
            answer = journal.once(f"question/{number + 1}", text, partial(_asked, ask_user, text))[
                "answer"
            ]
        else:
            continue
        clarified.append(Clarification(text, answer.strip()))
    return clarified


def _asked(ask_user: Callable[[str], str], question: str) -> dict[str, str]:
    return {"answer": ask_user(question)}


def request_text(question: str, clarified: Sequence[Clarification]) -> str:
    """The user's request with what was said to the questions back."""
    lines = [f"- {item.question} {item.answer}" for item in clarified if item.answer]
    return "\n".join([question, *(["What the user added:", *lines] if lines else [])])


def plan(calls: ModelCalls, request: str, question: str, most: int) -> list[SubQuestion]:
    """The sub-questions. A model that plans nothing usable leaves the question itself."""
    items = calls.items("plan", messages(PLAN.format(most=most), request), ["question", "search"])
    planned = {
        str(item["question"]).strip(): str(item["search"]).strip()
        for item in items
        if str(item["question"]).strip()
    }
    if not planned:
        calls.faults["plans without a sub-question"] += 1
        return [SubQuestion(question, question)]
    return [SubQuestion(text, search or text) for text, search in planned.items()][:most]
