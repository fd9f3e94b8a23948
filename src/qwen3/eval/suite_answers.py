"""Asking a suite's items: generated answers with their verdicts, and likelihoods of options.

The random numbers of an answer depend on the suite, the item and the sample alone, so neither order
nor restarts change it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval.items import Item, Verdict
from qwen3.eval.likelihood import encode_pair, log_likelihoods
from qwen3.eval.suite import Messages
from qwen3.eval.suite_records import PRESET_OF, EvalSettings, Record, SuiteRun
from qwen3.infer import chat_session
from qwen3.infer.auto_budget import ChooseBudget
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.chat_session import ChatAnswer
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import PRESETS, Completion, Request
from qwen3.rewards import NoVerdict, Problem
from qwen3.train.writing import WorkdirError

log = logging.getLogger("qwen3")


@dataclass(frozen=True)
class Subject:
    """The model that is asked."""

    backend: RolloutBackend
    tokenizer: Tokenizer
    max_length: int  # tokens of its context
    choose_budget: ChooseBudget | None = None  # for automatic thinking budgets


@dataclass
class Asked:
    """An item with the turns of its dialogue so far, which most suites end after the first."""

    item: Item
    sample: int
    messages: Messages = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)


def subject_of(model: LanguageModel, slots: int) -> Subject:
    """A loaded model, asked by an engine of `slots`. ValueError for one without a tokenizer."""
    if model.tokenizer is None:
        raise ValueError(f"{model.folder or model.config.name} has no tokenizer to ask with")
    engine = model.engine(slots=slots)
    return Subject(engine, model.tokenizer, engine.max_length, model.auto_budget)


def generated(
    subject: Subject, run: SuiteRun, todo: Sequence[tuple[Item, int]], settings: EvalSettings
) -> Iterator[Record]:
    """Answers of a chat or text suite, scored by threads while others are generated.

    The dialogues of a suite of several turns go on together, a turn at a time.
    """
    is_chat = run.suite.kind == "chat"
    unfinished = [
        Asked(item, sample, list(run.suite.ask(item)) if is_chat and run.suite.ask else [])
        for item, sample in todo
    ]
    with ThreadPoolExecutor(2) as pool:
        while unfinished:
            asked, unfinished = unfinished, []
            for outcome in _round(subject, run, asked, settings, pool):
                if isinstance(outcome, Asked):
                    unfinished.append(outcome)
                else:
                    yield outcome


def _round(
    subject: Subject,
    run: SuiteRun,
    dialogues: Sequence[Asked],
    settings: EvalSettings,
    pool: ThreadPoolExecutor,
) -> Iterator[Record | Asked]:
    """One answer in each dialogue: its record, or the dialogue where that goes on."""
    asked, requests = [], []
    for dialogue in dialogues:
        question = request(subject, run, dialogue, settings)
        if len(question.prompt) < subject.max_length:
            asked.append(dialogue)
            requests.append(question)
        else:
            yield _too_long(dialogue, len(question.prompt))
    scoring: list[Future[Record | Asked]] = []
    for chunk in subject.backend.stream(requests):
        if chunk.completion is not None:
            dialogue = asked[chunk.request_index]
            arguments = (subject.tokenizer, run, dialogue, chunk.completion)
            scoring.append(pool.submit(outcome, *arguments))
        while scoring and scoring[0].done():
            yield scoring.pop(0).result()
    for future in scoring:
        yield future.result()


def request(subject: Subject, run: SuiteRun, asked: Asked, settings: EvalSettings) -> Request:
    """The request for the next answer to an item."""
    suite, item, turn = run.suite, asked.item, len(asked.completions)
    common: dict[str, Any] = {
        "max_tokens": settings.max_tokens or suite.max_tokens,
        "prompt_id": f"{suite.name}/{item.id}" + (f"/{turn}" if turn else ""),
        "seed": settings.seed,
        "sample": asked.sample,
    }
    if suite.kind == "text":
        assert suite.text is not None
        prompt = subject.tokenizer.encode(suite.text(item, run.shots))
        # A prompt longer than the context loses its oldest exemplars.
        longest = subject.max_length - min(common["max_tokens"], subject.max_length // 4)
        stops = suite.stop
        return Request(prompt[-longest:], sampling=PRESETS["greedy"], stop_strings=stops, **common)
    return chat_session.chat_request(
        subject.tokenizer,
        asked.messages,
        thinking=run.arm.mode == "think",
        thinking_budget=run.arm.budget,
        choose_budget=subject.choose_budget,
        tools=_tools(run, asked),
        sampling=PRESETS[PRESET_OF[run.arm.mode]],
        **common,
    )


def _tools(run: SuiteRun, asked: Asked) -> Sequence[Mapping] | None:
    """The tools that the model is shown, which may change in the course of a dialogue."""
    if run.suite.tools is not None:
        return run.suite.tools(asked.item, asked.messages)
    problem = asked.item.fields.get("problem")
    return problem.tools if isinstance(problem, Problem) else asked.item.fields.get("tools")


def _too_long(asked: Asked, tokens: int) -> Record:
    """The record of a question that the model's context does not hold: it has no verdict."""
    return {
        "item": asked.item.id,
        "sample": asked.sample,
        "score": None,
        "extracted": None,
        "finish": "prompt too long",
        "tokens": sum(len(completion.tokens) for completion in asked.completions),
        "prompt_tokens": tokens,
    }


def outcome(
    tokenizer: Tokenizer, run: SuiteRun, asked: Asked, completion: Completion
) -> Record | Asked:
    """What an answer leads to: the record of the item, or its dialogue with the next question."""
    follow = run.suite.follow
    if follow is None or completion.error:
        return scored(tokenizer, run, asked, completion)
    answer = chat_session.answer(tokenizer, completion)
    messages = [*asked.messages, answer.message()]
    completions = [*asked.completions, completion]
    try:
        more = follow(asked.item, messages)
    except Exception as error:  # what should have answered the model failed, not the model
        verdict = Verdict(None)
        if not isinstance(error, NoVerdict):
            log.exception("no verdict on %s: the other side of its dialogue failed", asked.item.id)
    else:
        if more:
            return Asked(asked.item, asked.sample, [*messages, *more], completions)
        assert run.suite.score_dialogue is not None
        verdict = _verdict(run.suite.score_dialogue, asked.item, messages)
    return {
        **_record(asked, verdict, completions),
        "thought": answer.reasoning,
        "answer": answer.content,
        "messages": messages,
    }


def scored(tokenizer: Tokenizer, run: SuiteRun, asked: Asked, completion: Completion) -> Record:
    """The record of an answer. Only what follows the thought is scored."""
    answer = chat_session.answer(tokenizer, completion)
    is_chat = run.suite.kind == "chat"
    text = _scored_text(run, answer)
    opened = is_chat and is_unfinished(run.arm.mode, answer)
    if completion.error:  # the engine failed, not the answer
        verdict = Verdict(None)
    elif opened:
        verdict = Verdict(0.0)
    else:
        assert run.suite.score is not None
        verdict = _verdict(run.suite.score, asked.item, text)
    return {
        **_record(asked, verdict, [*asked.completions, completion]),
        "thought": answer.reasoning if is_chat else "",
        "answer": text,
        "prompt": tokenizer.decode(list(completion.request.prompt)),
        **({"error": completion.error} if completion.error else {}),
    }


def _verdict(score: Callable[[Item, Any], Verdict], item: Item, answer: Any) -> Verdict:
    """What a grader says; no verdict where it fails, so that all other answers are kept.

    A library that is not installed ends the run, as no answer would have a verdict, and so does a
    disk that does not hold what a judge says.
    """
    try:
        return score(item, answer)
    except (ImportError, WorkdirError):
        raise
    except Exception:
        log.exception("no verdict on %s: its grader failed", item.id)
        return Verdict(None)


def _record(asked: Asked, verdict: Verdict, completions: Sequence[Completion]) -> Record:
    return {
        "item": asked.item.id,
        "sample": asked.sample,
        "score": verdict.score,
        "extracted": verdict.extracted,
        **({} if verdict.weight == 1 else {"weight": verdict.weight}),
        "finish": completions[-1].finish,
        "tokens": sum(len(completion.tokens) for completion in completions),
    }


def _scored_text(run: SuiteRun, answer: ChatAnswer) -> str:
    is_chat = run.suite.kind == "chat"
    text = answer.text if not is_chat or answer.tool_calls else answer.content
    if is_chat and answer.tool_calls:
        text = text.split("</think>")[-1].strip()
    for stop in run.suite.stop:
        text = text.split(stop)[0]
    return text


def is_unfinished(mode: str, answer: ChatAnswer) -> bool:
    """Whether an answer ended, or was cut, before the end of its thought."""
    if mode != "think" or answer.content or "</think>" in answer.text:
        return False
    return answer.finish == "length" or bool(answer.reasoning)


def likelihoods(
    model: LanguageModel, run: SuiteRun, todo: Sequence[tuple[Item, int]], rows: int
) -> Iterator[Record]:
    """The likeliest option of each item of a choice suite. rows: texts scored together."""
    suite, tokenizer = run.suite, model.tokenizer
    if tokenizer is None:
        raise ValueError(f"{model.folder or model.config.name} has no tokenizer to ask with")
    assert suite.text is not None and suite.options is not None
    contexts = [suite.text(item, run.shots) for item, _ in todo]
    options = [suite.options(item) for item, _ in todo]
    owners = [
        (number, choice) for number, texts in enumerate(options) for choice in range(len(texts))
    ]
    pairs = [encode_pair(tokenizer, contexts[n], options[n][choice]) for n, choice in owners]
    log_probs: dict[int, dict[int, float]] = {number: {} for number in range(len(todo))}
    for index, likelihood in log_likelihoods(model, pairs, rows=rows):
        number, choice = owners[index]
        log_probs[number][choice] = likelihood.log_prob
        if len(log_probs[number]) == len(options[number]):
            item = todo[number][0]
            scores = [log_probs[number][i] for i in range(len(options[number]))]
            best = max(range(len(scores)), key=scores.__getitem__)
            yield {
                "item": item.id,
                "sample": 0,
                "score": float(best == right_option(item)),
                "extracted": options[number][best],
                "log_probs": scores,
                "prompt": contexts[number],
            }


def right_option(item: Item) -> int:
    """Index of the right option: of the letter `gold`, or the number `label`."""
    if "label" in item.fields:
        return int(item["label"])
    return ord(item["gold"]) - ord("A")
