"""Prompts that have been read: each different one once, kept while a waiting request needs it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qwen3.infer.cache_lengths import CacheLengths
from qwen3.infer.compiled import CompiledPrograms
from qwen3.infer.request_state import RequestState

ROWS = (8, 1)  # of a prefill batch, times what the mesh divides
AHEAD = 8  # a batch that reads ahead is at most this part of the caches


class Prefilled(NamedTuple):
    """A row of a prefilled batch. width: the batch's length; routes: its experts or None."""

    layers: Any
    row: int
    width: int
    routes: np.ndarray | None


class PrefixCache:
    """`wait` for each ticket that is queued and `leave` for each that no longer is."""

    def __init__(self, programs: CompiledPrograms, room: CacheLengths, *, record_experts: bool):
        self.programs, self.room, self.record_experts = programs, room, record_experts
        self.read: dict[bytes, Prefilled] = {}
        self.waiting: Counter[bytes] = Counter()

    def wait(self, ticket: RequestState) -> None:
        self.waiting[ticket.key] += 1

    def leave(self, ticket: RequestState) -> None:
        """The last to leave takes the prompt along."""
        key = ticket.key
        self.waiting[key] -= 1
        if not self.waiting[key]:
            del self.waiting[key]
            self.read.pop(key, None)

    def prefill(
        self, params: Any, tickets: Sequence[RequestState], ahead: Iterable[RequestState] = ()
    ) -> int:
        """Read what is not yet read, in batches of one width, the largest first. How many.

        Tickets of `ahead` fill up a batch that is not full, where it is short beside the caches.
        """
        missing: dict[int, dict[bytes, list[int]]] = {}
        for ticket in tickets:
            if ticket.key not in self.read:
                tokens = ticket.sequence[:-1]
                missing.setdefault(self.room.width(len(tokens)), {})[ticket.key] = tokens
        ways = self.room.ways
        self._look_ahead(missing, ahead)
        for width, prompts in missing.items():
            entries = list(prompts.items())
            while entries:
                # A mesh divides rows: fill up to its multiple.
                rows = next(r * ways for r in ROWS if r * ways <= len(entries) or r == 1)
                self._batch(params, entries[:rows], rows, width)
                entries = entries[rows:]
        return sum(map(len, missing.values()))

    def _look_ahead(self, missing: dict[int, dict], ahead: Iterable[RequestState]) -> None:
        """Add to `missing`, width by width, up to the next full batch."""
        full = ROWS[0] * self.room.ways
        wanted = {
            width: -len(prompts) % full
            for width, prompts in missing.items()
            if full * width <= self.room.cache_tokens // AHEAD
        }
        for ticket in itertools.islice(ahead, 4 * full):
            if not any(wanted.values()):
                return
            tokens, key = ticket.sequence[:-1], ticket.key
            width = self.room.width(len(tokens))
            if wanted.get(width) and key not in self.read and key not in missing[width]:
                missing[width][key] = tokens
                wanted[width] -= 1

    def warm_up(self, params: Any, widths: Sequence[int]) -> list[tuple[int, Any]]:
        """(width, caches) of an empty batch of every shape there is."""
        shapes = [(rows * self.room.ways, width) for width in widths for rows in ROWS]
        return [
            (
                width,
                self.programs.prefill(
                    params, np.zeros((rows, width), np.int32), np.zeros(rows, np.int32)
                )[0],
            )
            for rows, width in shapes
        ]

    def _batch(self, params: Any, entries, rows: int, width: int) -> None:
        tokens = np.zeros((rows, width), np.int32)
        lengths = np.zeros(rows, np.int32)
        for row, (_, ids) in enumerate(entries):
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        layers, routes = self.programs.prefill(params, tokens, lengths)
        routes = np.asarray(routes, np.uint8) if self.record_experts else None
        for row, (key, _) in enumerate(entries):
            self.read[key] = Prefilled(layers, row, width, routes)
