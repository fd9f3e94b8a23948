"""Items of a suite and verdicts on answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Item:
    """One question of a suite, with the fields that its prompt and its scorer read."""

    id: str  # unique in the suite, the same whatever is left out
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]


class Verdict(NamedTuple):
    """What a scorer says of an answer."""

    score: float | None  # 0..1; None for no verdict: the grader, not the answer, failed
    extracted: str | None = None  # the answer as it was read; None where none was found
    weight: float = 1.0  # of the item in the suite's mean


UNPARSED = Verdict(0.0)
