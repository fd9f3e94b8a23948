"""Asking a suite's items: generated answers with their verdicts, and likelihoods of options.

The random numbers of an answer depend on the suite, the item and the sample alone, so neither order
nor restarts change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from qwen3.eval.items import Item, Verdict
from qwen3.eval.likelihood import encode_pair, log_likelihoods
from qwen3.eval.suite_records import PRESET_OF, EvalSettings, Record, SuiteRun
from qwen3.infer import chat_session
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import PRESETS, Completion, Request
from qwen3.rewards import Problem


def generated(
    model: LanguageModel,
    run: SuiteRun,
    todo: Sequence[tuple[Item, int]],
    settings: EvalSettings,
    slots: int,
) -> Iterator[Record]:
    """Answers of a chat or text suite, scored by threads while others are generated."""
    engine = model.engine(slots=slots)
    asked = [request(model, run, item, sample, settings) for item, sample in todo]
    fits = [len(one.prompt) < engine.max_length for one in asked]
    for (item, sample), one, does_fit in zip(todo, asked, fits, strict=True):
        if not does_fit:
            yield _too_long(item, sample, len(one.prompt))
    requests = [one for one, does_fit in zip(asked, fits, strict=True) if does_fit]
    todo = [pair for pair, does_fit in zip(todo, fits, strict=True) if does_fit]
    scoring: list[Future] = []
    with ThreadPoolExecutor(2) as pool:
        for chunk in engine.stream(requests):
            if chunk.completion is not None:
                item, sample = todo[chunk.request_index]
                scoring.append(pool.submit(scored, model, run, item, sample, chunk.completion))
            while scoring and scoring[0].done():
                yield scoring.pop(0).result()
        for future in scoring:
            yield future.result()


def request(
    model: LanguageModel, run: SuiteRun, item: Item, sample: int, settings: EvalSettings
) -> Request:
    """The request that asks an item. Raises ValueError for a model without a tokenizer."""
    suite, tokenizer = run.suite, model.tokenizer
    if tokenizer is None:
        raise ValueError(f"{settings.model} has no tokenizer to ask with")
    common: dict[str, Any] = {
        "max_tokens": settings.max_tokens or suite.max_tokens,
        "prompt_id": f"{suite.name}/{item.id}",
        "seed": settings.seed,
        "sample": sample,
    }
    if suite.kind == "text":
        assert suite.text is not None
        prompt = tokenizer.encode(suite.text(item, run.shots))
        # A prompt longer than the context loses its oldest exemplars.
        longest = model.config.max_length - min(common["max_tokens"], model.config.max_length // 4)
        stops = suite.stop
        return Request(prompt[-longest:], sampling=PRESETS["greedy"], stop_strings=stops, **common)
    assert suite.ask is not None
    problem = item.fields.get("problem")
    tools = problem.tools if isinstance(problem, Problem) else item.fields.get("tools")
    return chat_session.chat_request(
        tokenizer,
        suite.ask(item),
        thinking=run.arm.mode == "think",
        thinking_budget=run.arm.budget,
        tools=tools,
        sampling=PRESETS[PRESET_OF[run.arm.mode]],
        **common,
    )


def _too_long(item: Item, sample: int, tokens: int) -> Record:
    """The record of a question that the model's context does not hold: it has no verdict."""
    return {
        "item": item.id,
        "sample": sample,
        "score": None,
        "extracted": None,
        "finish": "prompt too long",
        "tokens": 0,
        "prompt_tokens": tokens,
    }


def scored(
    model: LanguageModel, run: SuiteRun, item: Item, sample: int, completion: Completion
) -> Record:
    """The record of an answer. Only what follows the thought is scored."""
    assert model.tokenizer is not None and run.suite.score is not None
    answer = chat_session.answer(model.tokenizer, completion)
    is_chat = run.suite.kind == "chat"
    text = answer.text if not is_chat or answer.tool_calls else answer.content
    if is_chat and answer.tool_calls:
        text = text.split("</think>")[-1].strip()
    for stop in run.suite.stop:
        text = text.split(stop)[0]
    is_unfinished = is_chat and run.arm.mode == "think" and completion.finish == "length"
    opened = is_unfinished and "</think>" not in answer.text and not answer.content
    if completion.error:  # the engine failed, not the answer
        verdict = Verdict(None)
    else:
        verdict = Verdict(0.0) if opened else run.suite.score(item, text)
    return {
        "item": item.id,
        "sample": sample,
        "score": verdict.score,
        "extracted": verdict.extracted,
        "thought": answer.reasoning if is_chat else "",
        "answer": text,
        "finish": completion.finish,
        "tokens": len(completion.tokens),
        "prompt": model.tokenizer.decode(list(completion.request.prompt)),
        **({"error": completion.error} if completion.error else {}),
    }


def likelihoods(
    model: LanguageModel,
    run: SuiteRun,
    todo: Sequence[tuple[Item, int]],
    settings: EvalSettings,
    slots: int,
) -> Iterator[Record]:
    """The likeliest option of each item of a choice suite."""
    suite, tokenizer = run.suite, model.tokenizer
    if tokenizer is None:
        raise ValueError(f"{settings.model} has no tokenizer to ask with")
    assert suite.text is not None and suite.options is not None
    contexts = [suite.text(item, run.shots) for item, _ in todo]
    options = [suite.options(item) for item, _ in todo]
    owners = [
        (number, choice) for number, texts in enumerate(options) for choice in range(len(texts))
    ]
    pairs = [encode_pair(tokenizer, contexts[n], options[n][choice]) for n, choice in owners]
    log_probs: dict[int, dict[int, float]] = {number: {} for number in range(len(todo))}
    for index, likelihood in log_likelihoods(model, pairs, rows=slots):
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


# By kind of suite: (model, run, (item, sample) without an answer, settings, slots) -> records.
WAYS: Mapping[str, Callable[..., Iterator[Record]]] = {
    "chat": generated,
    "text": generated,
    "choice": likelihoods,
}
