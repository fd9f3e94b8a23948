"""A text on its way through the pipeline, with all that was found out about it."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import Any

import xxhash

Label = str | float | None


@dataclasses.dataclass(frozen=True)
class Dropped:
    """Why a step dropped a record."""

    step: str  # name of the step, a key of STEPS or "duplicates"
    reason: str  # name of the rule
    evidence: Mapping[str, Any]  # the measured value and its bound, the matching span, ...


@dataclasses.dataclass(frozen=True)
class TextRecord:
    """A document, its labels and its history; steps return changed copies."""

    id: str  # 32 hex digits of the source text and its labels, see `record_id`
    text: str
    source: str  # name of the input that it came from
    labels: Mapping[str, Label] = dataclasses.field(default_factory=dict)
    history: tuple[str, ...] = ()  # "step: what it changed", in order
    dropped: Dropped | None = None

    def labelled(self, **labels: Label) -> TextRecord:
        return dataclasses.replace(self, labels={**self.labels, **labels})

    def rewritten(self, text: str, event: str) -> TextRecord:
        return dataclasses.replace(self, text=text, history=(*self.history, event))

    def drop(self, step: str, reason: str, **evidence: Any) -> TextRecord:
        return dataclasses.replace(self, dropped=Dropped(step, reason, evidence))

    def row(self) -> dict[str, Any]:
        """The record as a JSON object; labels are fields of their own, as corpora read them."""
        row: dict[str, Any] = {"id": self.id, "text": self.text, "source": self.source}
        row |= dict(sorted(self.labels.items()))
        if self.history:
            row["history"] = list(self.history)
        if self.dropped:
            row["dropped"] = dataclasses.asdict(self.dropped)
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> TextRecord:
        """The inverse of `row`."""
        known = {"id", "text", "source", "history", "dropped"}
        labels = {name: value for name, value in row.items() if name not in known}
        dropped = Dropped(**row["dropped"]) if "dropped" in row else None
        history = tuple(row.get("history", ()))
        return cls(row["id"], row["text"], row["source"], labels, history, dropped)


RESERVED = {field.name for field in dataclasses.fields(TextRecord)}


def record_id(text: str, source: str, labels: Mapping[str, Label]) -> str:
    """32 hex digits (XXH3, 128 bits) that depend on what the record holds, not on where it lay."""
    key = "\x1f".join([source, *(f"{name}={labels[name]}" for name in sorted(labels)), ""])
    return xxhash.xxh3_128_hexdigest((key + unicodedata.normalize("NFC", text)).encode())


def shard_of(identifier: str, shards: int) -> int:
    """The output shard of a record: ranges of the id, so shards are sorted among each other too."""
    return int(identifier[:8], 16) * shards >> 32
