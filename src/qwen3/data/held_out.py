"""A held-out part of a source, for evaluation before and after a stage."""

import dataclasses

from qwen3.data.sources import FileSource


@dataclasses.dataclass
class Fold:
    """The documents of `source` that are (`held`) or are not the last of every `every` ones."""

    source: FileSource
    every: int
    held: bool

    def __post_init__(self):
        if self.every < 2:
            raise ValueError(f"one document of every {self.every} held out: needs at least 2")

    @property
    def skipped(self):
        return self.source.skipped

    def __iter__(self):
        for i, document in enumerate(self.source):
            if (i % self.every == self.every - 1) == self.held:
                yield document

    def describe(self):
        """What a prepared corpus is keyed by."""
        return self.source.describe() | {"fold": [self.every, self.held]}


def hold_out(source, *, every=50):
    """(training source, held-out source): each `every`-th document is held out, none is in both."""
    return Fold(source, every, False), Fold(source, every, True)
