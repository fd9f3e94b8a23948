"""What a suite is: a row of the tables that `eval.suites` joins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval.item_readers import Reader, found
from qwen3.eval.items import Item, Verdict
from qwen3.eval.suite_prompts import ChatPrompt, Messages, TextPrompt
from qwen3.eval.verdicts import Scorer

KINDS = ("chat", "text", "choice")
OUTPUT = 32_768  # tokens of an answer of a chat suite (report, 4.6)


@dataclass(frozen=True)
class Generation:
    """What items are made from."""

    count: int
    data: Path | None  # folder of the suites' files
    tokenizer: Tokenizer | None


@dataclass(frozen=True)
class Suite:
    """How a suite is read, asked and scored.

    kind: "chat", a dialogue with the post-trained model in either mode; "text", a text that the
    base model continues greedily; "choice", the likelihood of each option after a text.
    """

    name: str
    group: str  # "base", "post", "in-house" or "extra": what of the report it belongs to
    kind: str  # one of KINDS
    title: str  # as tables show it
    source: str  # repository or Hub data set, and licence
    total: int  # items of the published set, or that are made here
    files: tuple[str, ...] = ()  # patterns below the data folder; none where it is generated
    also: tuple[str, ...] = ()  # patterns of files that must be there besides
    read: Reader | None = None
    generate: Callable[[Generation], list[Item]] | None = None  # where the items are made here
    ask: ChatPrompt | None = None  # of chat suites
    text: TextPrompt | None = None  # of the others
    options: Callable[[Item], list[str]] | None = None  # continuations of a choice suite
    score: Scorer | None = None  # of chat and text suites of one answer
    # Of dialogues: the messages that follow the model's last one, None where the dialogue is over;
    # the verdict on all of it; the tools that the model is shown, where they are not the item's.
    follow: Callable[[Item, Messages], Messages | None] | None = None
    score_dialogue: Callable[[Item, Messages], Verdict] | None = None
    tools: Callable[[Item, Messages], Sequence[Mapping] | None] | None = None
    exemplars: Callable[[Path, Sequence[Item]], list[Item]] | None = None
    shots: int = 0
    samples: int = 1
    max_tokens: int = OUTPUT
    stop: tuple[str, ...] = ()
    needs: str = ""  # what this machine must have besides files: "sandbox", "judge", ...
    departs: str = ""  # from the report's protocol, in words
    published: str = ""  # row of the report's scores that this compares with

    def items(
        self, data: Path | None, count: int | None = None, tokenizer: Tokenizer | None = None
    ) -> list[Item]:
        """The first `count` items. tokenizer: of suites whose items have a length in tokens.

        Raises ValueError saying what to fetch and where to put it.
        """
        if self.generate is not None:
            return self.generate(Generation(count or self.total, data, tokenizer))
        assert self.read is not None
        if data is None:
            raise ValueError(
                f"{self.name} reads files: give their folder (--data). {self.wanted()}"
            )
        files = found(data, self.files)
        if not self.present(data):
            raise ValueError(f"{self.name} has no data below {data}. {self.wanted()}")
        items = self.read(files)
        if len({item.id for item in items}) < len(items):
            twice = next(i.id for n, i in enumerate(items) if i.id in {j.id for j in items[:n]})
            raise ValueError(f"{self.name}: two items are called {twice!r} in {files[0]}, ...")
        return items[:count]

    def wanted(self) -> str:
        """What to fetch, and where to put it below the data folder."""
        also = f", and {' and '.join(self.also)}" if self.also else ""
        return f"Wanted is {' or '.join(self.files)} from {self.source}{also}"

    def present(self, data: Path) -> bool:
        """Whether its files are below `data`."""
        return bool(found(data, self.files)) and all(found(data, (name,)) for name in self.also)

    def shots_for(self, data: Path | None, items: Sequence[Item]) -> list[Item]:
        """The exemplars of a few-shot prompt."""
        if self.exemplars is None:
            return []
        assert data is not None
        shots = self.exemplars(data, items)[: self.shots]
        if len(shots) < self.shots:
            raise ValueError(f"{self.name} wants {self.shots} exemplars; there are {len(shots)}")
        return shots


def from_file(pattern: str, read: Reader) -> Callable[[Path, Sequence[Item]], list[Item]]:
    """Exemplars that another file holds."""

    def exemplars(data: Path, items: Sequence[Item]) -> list[Item]:
        files = found(data, (pattern,))
        if not files:
            raise ValueError(f"the exemplars {pattern} are missing below {data}")
        return read(files)

    return exemplars


def summary(suite: Suite) -> dict[str, Any]:
    """The columns of `qwen3 eval --list`."""
    return {
        "suite": suite.name,
        "group": suite.group,
        "kind": suite.kind,
        "items": suite.total,
        "shots": suite.shots,
        "needs": suite.needs or "-",
        "source": suite.source,
    }
