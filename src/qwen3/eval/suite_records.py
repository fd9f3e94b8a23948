"""What a run of suites asks and keeps: settings, arms, and the files of the answers.

A folder of results holds `settings.json`, `samples/SUITE.ARM.jsonl` with one line an answer, and
what `suite_report` writes. An arm is a mode with its thinking budget: "think", "no_think",
"think@256". Base models have the arms "text" and "choice".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from etils import epath

from qwen3.config import differences
from qwen3.data.tokenizer import Tokenizer
from qwen3.eval.items import Item
from qwen3.eval.suite import Suite
from qwen3.infer.thinking_head import quality_of
from qwen3.train.writing import explained, write_atomically

Record: TypeAlias = dict[str, Any]  # one answer: item, sample, score, extracted, answer, ...

PRESET_OF = {"think": "thinking", "no_think": "non_thinking"}  # the report's sampling (4.6)


@dataclass(frozen=True)
class EvalSettings:
    """What is asked of all suites of a run; what changes an answer must not change on resume."""

    model: str  # name, folder or run
    modes: tuple[str, ...] = ("think", "no_think")  # of chat suites
    budgets: tuple[int | str | None, ...] = (None,)  # thinking budgets; each is an arm of its own
    limit: int | None = None  # first items of each suite; None: all
    samples: int | None = None  # answers of an item; None: the suite's own number
    max_tokens: int | None = None  # longest answer; None: the suite's own
    seed: int = 0
    judge: str = ""  # server and name of the model that judges; "" for none

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in PRESET_OF:
                raise ValueError(f"mode {mode!r} is none of {', '.join(PRESET_OF)}, both")
        for name, least in (("limit", 1), ("samples", 1), ("max_tokens", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} {value} is below {least}")
        for budget in self.budgets:
            if quality_of(budget) is None and budget is not None and int(budget) < 0:
                raise ValueError(f"thinking budget {budget} is below 0")


class Arm(NamedTuple):
    """One way in which a suite is asked."""

    name: str
    mode: str = ""  # of chat suites
    budget: int | str | None = None


def arms(suite: Suite, settings: EvalSettings) -> list[Arm]:
    """The arms of a suite: modes and budgets of a chat suite, else one of the suite's kind."""
    if suite.kind != "chat":
        return [Arm(suite.kind)]
    named = []
    for mode in settings.modes:
        for budget in settings.budgets if mode == "think" else (None,):
            named.append(Arm(mode if budget is None else f"{mode}@{budget}", mode, budget))
    return named


def samples(suite: Suite, settings: EvalSettings) -> int:
    """Answers of an item: one where they are greedy or not sampled at all."""
    return (settings.samples or suite.samples) if suite.kind == "chat" else 1


@dataclass
class SuiteRun:
    """One suite in one arm: its items, and the file of its answers."""

    suite: Suite
    arm: Arm
    items: list[Item]
    shots: list[Item]
    file: Path
    records: dict[tuple[str, int], Record] = field(default_factory=dict)

    def missing(self, samples: int) -> list[tuple[Item, int]]:
        """(item, sample) without an answer."""
        return [
            (item, sample)
            for item in self.items
            for sample in range(samples)
            if (item.id, sample) not in self.records
        ]

    def store(self, records: Iterable[Record]) -> Iterator[Record]:
        """Append records to the file as they come, and pass them on.

        Raises WorkdirError where the disk is full; what was written before is kept.
        """
        with explained(epath.Path(self.file)):
            self.file.parent.mkdir(parents=True, exist_ok=True)
        for record in records:
            # Opened for each, so that a write that fails does so here and not when it is closed.
            with explained(epath.Path(self.file)), self.file.open("a", encoding="utf-8") as file:
                file.write(_line(record))
            self.records[record["item"], record["sample"]] = record
            yield record

    def sort(self) -> None:
        """Rewrite a finished file in the order of the items."""
        number = {item.id: i for i, item in enumerate(self.items)}
        keys = sorted(self.records, key=lambda key: (number.get(key[0], len(number)), key[1]))
        write_atomically(epath.Path(self.file), "".join(_line(self.records[key]) for key in keys))


def open_folder(folder: Path, settings: EvalSettings) -> None:
    """Begin or go on in a folder. Raises ValueError where it holds results of other settings."""
    file = folder / "settings.json"
    plain = json.loads(json.dumps(asdict(settings)))
    if not settings.judge:  # as in folders of before there were judges
        del plain["judge"]
    if file.exists():
        changes = differences(json.loads(file.read_text()), plain)
        if changes:
            raise ValueError(
                f"{folder} holds results of other settings ({'; '.join(changes)}); choose another "
                "--out, or the same settings to go on"
            )
        return
    with explained(epath.Path(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(epath.Path(file), json.dumps(plain, indent=1))


def open_runs(
    suite: Suite,
    settings: EvalSettings,
    folder: Path,
    *,
    data: Path | None,
    tokenizer: Tokenizer | None,
) -> list[SuiteRun]:
    """A suite in each of its arms with the answers that `folder` holds already.

    data: the suites' files. The items are read or made once.
    """
    items = suite.items(data, settings.limit, tokenizer)
    shots = suite.shots_for(data, items)
    paths = {
        arm: folder / "samples" / f"{suite.name}.{arm.name}.jsonl" for arm in arms(suite, settings)
    }
    return [SuiteRun(suite, arm, items, shots, path, stored(path)) for arm, path in paths.items()]


def stored(path: Path) -> dict[tuple[str, int], Record]:
    """The answers of a file by (item, sample). A last line that was cut off is dropped."""
    if not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with explained(epath.Path(path)):
            os.truncate(path, len(whole))  # which also a full disk can do
    records = [json.loads(line) for line in whole.splitlines()]
    return {(record["item"], record["sample"]): record for record in records}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
