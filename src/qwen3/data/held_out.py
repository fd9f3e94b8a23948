"""A held-out part of a source, for evaluation before and after a stage."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from qwen3.data.document import Document, Source


@dataclasses.dataclass
class SourceSplit:
    """The training part or the held-out part of a source; a source of documents itself."""

    source: Source
    every: int  # the last of every `every` documents is held out
    held: bool  # the held-out part, or the rest

    def __post_init__(self) -> None:
        if self.every < 2:
            raise ValueError(f"one document of every {self.every} held out: needs at least 2")

    @property
    def skipped(self) -> list[str]:
        return self.source.skipped

    @property
    def skip_broken(self) -> bool:
        return getattr(self.source, "skip_broken", False)

    def __iter__(self) -> Iterator[Document]:
        for i, document in enumerate(self.source):
            if (i % self.every == self.every - 1) == self.held:
                yield document

    def describe(self) -> dict[str, Any]:
        """The facts that key a prepared corpus."""
        return self.source.describe() | {"fold": [self.every, self.held]}


def hold_out(source: Source, *, every: int = 50) -> tuple[SourceSplit, SourceSplit]:
    """(training source, held-out source): each `every`-th document is held out, none is in both."""
    return SourceSplit(source, every, False), SourceSplit(source, every, True)
