"""The slots of an engine: which ticket is in which, and the device's state and caches behind them.

Caches are donated to every program that changes them; this is the only place that holds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import admission, budget
from qwen3.infer.cache_lengths import CacheLengths
from qwen3.infer.compiled import CompiledPrograms
from qwen3.infer.decode import Record
from qwen3.infer.prefix_cache import Prefilled
from qwen3.infer.request_state import RequestState


class SlotTable:
    """rows: the ticket in each slot or None. length: of all caches."""

    def __init__(
        self,
        programs: CompiledPrograms,
        room: CacheLengths,
        tokenizer: Tokenizer | None,
        vocab: int,
        seed: int,
    ):
        self.programs, self.room, self.seed = programs, room, seed
        self.tables = jax.device_put(budget.tables(tokenizer, vocab))
        allowed = np.ones(vocab, bool) if tokenizer is None else ~tokenizer.never_sampled(vocab)
        self.allowed = jax.device_put(allowed)
        self.length = room.buckets[0]
        self.rows: list[RequestState | None] = [None] * room.rows_at(self.length)
        self.state, self.layers = programs.new(len(self.rows), self.length)

    @property
    def taken(self) -> list[int]:
        return [slot for slot, ticket in enumerate(self.rows) if ticket is not None]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, 1 where there is none."""
        return max((len(self.rows[slot].sequence) for slot in self.taken), default=1)

    def insert(self, batch: Sequence[tuple[RequestState, Prefilled]]) -> None:
        """Tickets that were prefilled together into free slots."""
        free = (slot for slot, ticket in enumerate(self.rows) if ticket is None)
        placed = [(ticket, prompt, next(free)) for ticket, prompt in batch]
        new = admission.filled(placed, len(self.rows), self.seed)
        for ticket, prompt, slot in placed:
            ticket.slot, self.rows[slot] = slot, ticket
            if prompt.routes is not None and not ticket.routes:
                routes = prompt.routes[:, prompt.row, : len(ticket.sequence) - 1]
                ticket.routes.append(routes.swapaxes(0, 1))
        self.state, self.layers = self.programs.insert(
            self.state, self.layers, batch[0][1].layers, new
        )

    def decode(self, params: Any, finish: int) -> tuple[Record, np.ndarray, np.ndarray]:
        """A block of tokens, or less once `finish` slots have finished: (what was made, which
        slots go on, where a budget ran out).
        """
        most = min(self.room.block, self.length - self.longest + 1)
        record = self._decode(params, most, finish)
        return jax.device_get((record, self.state.active, self.state.thinking.stopped))

    def _decode(self, params: Any, most: int, finish: int) -> Record:
        self.state, self.layers, record = self.programs.decode(
            params,
            self.state,
            self.layers,
            self.tables,
            self.allowed,
            np.int32(most),
            np.int32(finish),
        )
        return record

    def fit(self, length: int) -> list[RequestState]:
        """Caches of another length, in as many slots as that leaves; the tickets that lost theirs,
        the youngest first.
        """
        rows, lost = self.room.rows_at(length), []
        keep = list(range(rows))
        if rows != len(self.rows):
            taken = self.taken
            by_age = sorted(taken, key=lambda slot: self.rows[slot].serial)
            lost = by_age[rows:]
            keep = [slot for slot in taken if slot not in lost]
        tickets = self._evict(lost)
        self._resize(length, keep)
        return tickets

    def _evict(self, slots: Sequence[int]) -> list[RequestState]:
        tickets = [self.rows[slot] for slot in slots]
        state = jax.device_get(self.state.thinking)._asdict() if tickets else {}
        for ticket in tickets:
            ticket.state = {name: value[ticket.slot].item() for name, value in state.items()}
            self.rows[ticket.slot], ticket.slot = None, None
        return tickets

    def _resize(self, length: int, keep: Sequence[int]) -> None:
        """Caches of `length`, the old slots `keep` first."""
        rows = self.room.rows_at(length)
        kept = np.zeros(rows, np.int32)
        kept[: len(keep)] = keep
        state, layers = self.programs.resize(self.state, self.layers, kept, length=length)
        self.rows = [self.rows[i] for i in keep] + [None] * (rows - len(keep))
        self.state = self.programs.release(state, np.array([t is not None for t in self.rows]))
        self.layers, self.length = layers, length
        for slot in self.taken:
            self.rows[slot].slot = slot

    def free(self, slots: Sequence[int], running: np.ndarray | None = None) -> None:
        """Take these slots' tickets away. running: what the device still works on, None for all."""
        keep = np.ones(len(self.rows), bool)
        for slot in slots:
            keep[slot], self.rows[slot] = False, None
        if (~keep & (True if running is None else running)).any():
            self.state = self.programs.release(self.state, keep)

    def warm_up(self, params: Any, prefilled: Sequence[tuple[int, Any]]) -> None:
        """Run every program once for every cache length; prefilled: (width, caches) of batches."""
        for length in self.room.buckets:
            self._resize(length, [])
            for other in self.room.buckets:
                keep = np.zeros(self.room.rows_at(other), np.int32)
                self.programs.resize(self.state, self.layers, keep, length=other)
            for width, layers in prefilled:
                self.state, self.layers = self.programs.insert(
                    self.state, self.layers, layers, admission.empty(len(self.rows), width)
                )
            self._decode(params, 0, 1)
        self._resize(self.room.buckets[0], [])
