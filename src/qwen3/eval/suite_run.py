"""Running suites on a model: every answer is kept, and a run that was killed goes on.

A folder of results holds `settings.json`, `samples/SUITE.ARM.jsonl` with one line an answer, and
what `suite_report` writes. An arm is a mode with its thinking budget: "think", "no_think",
"think@256". Base models have the arms "text" and "choice". The random numbers of an answer depend
on the suite, the item and the sample alone, so neither order nor restarts change it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress

from qwen3.config import differences
from qwen3.data.atomic import write_atomically
from qwen3.eval.items import Item, Verdict
from qwen3.eval.likelihood import encode_pair, log_likelihoods
from qwen3.eval.suite import Suite
from qwen3.infer import chat_session
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.requests import PRESETS, Completion, Request
from qwen3.rewards import Problem

log = logging.getLogger("qwen3")

PRESET_OF = {"think": "thinking", "no_think": "non_thinking"}  # the report's sampling (4.6)


@dataclass(frozen=True)
class EvalSettings:
    """What is asked of all suites of a run; what changes an answer must not change on resume."""

    model: str  # name, folder or run
    modes: tuple[str, ...] = ("think", "no_think")  # of chat suites
    budgets: tuple[int | None, ...] = (None,)  # thinking budgets; each is an arm of its own
    limit: int | None = None  # first items of each suite; None: all
    samples: int | None = None  # answers of an item; None: the suite's own number
    max_tokens: int | None = None  # longest answer; None: the suite's own
    seed: int = 0

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in PRESET_OF:
                raise ValueError(f"mode {mode!r} is none of {', '.join(PRESET_OF)}, both")
        for name, least in (("limit", 1), ("samples", 1), ("max_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} {value} is below {least}")
        for budget in self.budgets:
            if budget is not None and budget < 0:
                raise ValueError(f"thinking budget {budget} is below 0")


class Arm(NamedTuple):
    """One way in which a suite is asked."""

    name: str
    mode: str = ""  # of chat suites
    budget: int | None = None


def arms(suite: Suite, settings: EvalSettings) -> list[Arm]:
    if suite.kind != "chat":
        return [Arm(suite.kind)]
    named = []
    for mode in settings.modes:
        for budget in settings.budgets if mode == "think" else (None,):
            named.append(Arm(mode if budget is None else f"{mode}@{budget}", mode, budget))
    return named


@dataclass
class SuiteRun:
    """One suite in one arm: its items, and the file of its answers."""

    suite: Suite
    arm: Arm
    items: list[Item]
    shots: list[Item]
    file: Path
    records: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)

    def missing(self, samples: int) -> list[tuple[Item, int]]:
        """(item, sample) without an answer."""
        return [
            (item, sample)
            for item in self.items
            for sample in range(samples)
            if (item.id, sample) not in self.records
        ]


def open_folder(folder: Path, settings: EvalSettings) -> None:
    """Begin or go on in a folder. Raises ValueError where it holds results of other settings."""
    file = folder / "settings.json"
    plain = json.loads(json.dumps(asdict(settings)))
    if file.exists():
        stored = json.loads(file.read_text())
        changes = differences(stored, plain)
        if changes:
            raise ValueError(
                f"{folder} holds results of other settings ({'; '.join(changes)}); choose another "
                "--out, or the same settings to go on"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(plain, indent=1))


def run(
    model: LanguageModel,
    suites: Sequence[Suite],
    settings: EvalSettings,
    folder: Path,
    *,
    data: Path | None = None,
    slots: int = 16,
) -> list[SuiteRun]:
    """Ask what is not answered yet in `folder`; returns all runs with all their records.

    data: folder of the suites' files. Raises ValueError where files are missing (what to fetch and
    where to put it) or the folder is of other settings, before anything is asked.
    """
    open_folder(folder, settings)
    runs = [
        _opened(model, suite, arm, settings, folder, data)
        for suite in suites
        for arm in arms(suite, settings)
    ]
    todo = {id(run): run.missing(_samples(run.suite, settings)) for run in runs}
    with Progress() as progress:
        for run in runs:
            label = f"{run.suite.name} {run.arm.name}"
            task = progress.add_task(label, total=len(todo[id(run)]))
            if todo[id(run)]:
                for _ in _answers(model, run, todo[id(run)], settings, slots):
                    progress.advance(task)
                _sort(run)
    return runs


def _samples(suite: Suite, settings: EvalSettings) -> int:
    if suite.kind != "chat":
        return 1  # greedy, or no sampling at all
    return settings.samples or suite.samples


def _opened(
    model: LanguageModel,
    suite: Suite,
    arm: Arm,
    settings: EvalSettings,
    folder: Path,
    data: Path | None,
) -> SuiteRun:
    items = suite.items(data, settings.limit, model.tokenizer)
    shots = suite.shots_for(data, items)
    path = folder / "samples" / f"{suite.name}.{arm.name}.jsonl"
    run = SuiteRun(suite, arm, items, shots, path)
    run.records = stored(path)
    return run


def stored(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The answers of a file by (item, sample). A last line that was cut off is dropped."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    records = [json.loads(line) for line in whole.splitlines()]
    return {(record["item"], record["sample"]): record for record in records}


def _sort(run: SuiteRun) -> None:
    """Rewrite a finished file in the order of the items."""
    number = {item.id: i for i, item in enumerate(run.items)}
    keys = sorted(run.records, key=lambda key: (number.get(key[0], len(number)), key[1]))
    write_atomically(run.file, "".join(_line(run.records[key]) for key in keys))


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def _answers(
    model: LanguageModel,
    run: SuiteRun,
    todo: Sequence[tuple[Item, int]],
    settings: EvalSettings,
    slots: int,
) -> Iterator[dict[str, Any]]:
    """Ask, score and store what is missing, in the order in which answers end."""
    run.file.parent.mkdir(parents=True, exist_ok=True)
    ways = {"chat": _generated, "text": _generated, "choice": _likelihoods}
    with run.file.open("a", encoding="utf-8") as file:
        for record in ways[run.suite.kind](model, run, todo, settings, slots):
            file.write(_line(record))
            file.flush()
            run.records[record["item"], record["sample"]] = record
            yield record


# --- generation


def _generated(
    model: LanguageModel,
    run: SuiteRun,
    todo: Sequence[tuple[Item, int]],
    settings: EvalSettings,
    slots: int,
) -> Iterator[dict[str, Any]]:
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
                scoring.append(pool.submit(_scored, model, run, item, sample, chunk.completion))
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


def _too_long(item: Item, sample: int, tokens: int) -> dict[str, Any]:
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


def _scored(
    model: LanguageModel, run: SuiteRun, item: Item, sample: int, completion: Completion
) -> dict[str, Any]:
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


# --- likelihood


def _likelihoods(
    model: LanguageModel,
    run: SuiteRun,
    todo: Sequence[tuple[Item, int]],
    settings: EvalSettings,
    slots: int,
) -> Iterator[dict[str, Any]]:
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
