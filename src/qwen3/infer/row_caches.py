"""KV caches that are rows of one length, taken from a few: the form of `Engine(cache="rows")`.

The length fits the longest sequence, and long caches leave fewer slots, so that the youngest
requests may have to wait again. A dialogue's next turn goes on in the row of its last one, as long
as nobody else needs the slot (`kept_rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.infer import cache_lengths, compiled
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.kv_caches import CacheSettings, enough
from qwen3.infer.prefix_cache import ROWS, CachedPrefix, PrefixCache, batches
from qwen3.infer.request_state import RequestState
from qwen3.infer.slot_table import SlotTable


class RowCaches:
    """See `kv_caches.KVCaches`. buckets: the cache lengths, None for the default ones."""

    def __init__(self, settings: CacheSettings, *, buckets: Sequence[int] | None = None):
        s = self.settings = settings
        self.waiting, self.stats = s.waiting, s.stats
        buckets = cache_lengths.check_buckets(buckets, s.max_length)
        is_splash = s.execution.attention == "splash"
        self.cache_lengths = cache_lengths.CacheLengths(
            s.slots,
            compiled.batch_ways(s.mesh),
            buckets,
            s.cache_tokens or s.slots * buckets[-1],
            s.block,
            smallest_prefill=cache_lengths.narrowest_prefill(buckets, is_splash),
        )
        self.slots = s.slots
        programs = compiled.build(s.config, s.execution, s.mesh, s.block, s.record_experts)
        self.place = programs.place
        self.slot_table = SlotTable(programs, self.cache_lengths, s.tokenizer, s.config.vocab)
        self.prefix_cache = PrefixCache(
            programs, self.cache_lengths, s.stats, record_experts=s.record_experts
        )
        self.admitting: list[RequestState] = []  # taken from the queue, in no slot yet
        self.generation = 0  # of the weights; rows that older ones wrote are not kept

    @property
    def requests(self) -> list[RequestState]:
        return self.slot_table.requests

    @property
    def active(self) -> int:
        return len(self.requests)

    @property
    def places(self) -> int:
        return len(self.slot_table.states) * self.slot_table.cache_length

    def wait(self, state: RequestState) -> None:
        self.prefix_cache.wait(state)
        if state.request.turn:
            self.slot_table.kept.claim(state)

    def clear(self) -> None:
        self.generation += 1
        self.prefix_cache.clear()
        self.slot_table.kept.clear()

    def schedule(self, params: Any) -> dict[RequestState, Exception]:
        self.admitting = self._select()
        errors = self._admit(params, self.admitting)
        self.admitting = []
        return errors

    def decode(self, params: Any, *, refill: bool) -> tuple[DecodeOutput, np.ndarray]:
        slots = len(self.slot_table.states)
        return self.slot_table.decode(params, enough(slots) if refill else slots)

    def finish(self, states: Sequence[RequestState], active: np.ndarray | None) -> None:
        table = self.slot_table
        for state in states:
            if state.slot is None:
                self.prefix_cache.leave(state)
                table.kept.leave(state)
            elif self._keeps(state):
                table.kept.keep(state.slot, state, table.cache_length)
        table.finish(states, active)

    def _keeps(self, state: RequestState) -> bool:
        """Whether the next turn may go on behind a request that is finished."""
        is_new = state.generation == self.generation and state.completion.error is None
        return state.request.turn is not None and is_new

    def reset(self) -> list[RequestState]:
        lost = [*self.admitting, *(s for s in self.requests if s not in self.admitting)]
        self.admitting = []
        for state in lost:
            self.prefix_cache.leave(state)
            state.slot = None
        self.slot_table.reset()
        return lost

    def warm_up(self, params: Any, prompts: Sequence[int], turns: Sequence[int]) -> None:
        """Compiles a decode program for each cache length, a prefill program for each different
        prefill width, and for each pair of them a program to insert, and one with which a turn goes
        on in its row.
        """
        if self.cache_lengths.tight:  # a preempted answer is prefilled with what it has so far
            prompts = range(1, self.settings.max_length + 1)
        width_of, ways = self.cache_lengths.prefill_width, self.cache_lengths.batch_ways
        widths = sorted({width_of(length - 1) for length in prompts})
        new = [(rows * ways, width) for rows in ROWS for width in {width_of(n) for n in turns}]
        self.slot_table.warm_up(params, self.prefix_cache.warm_up(params, widths), new)

    def _select(self) -> list[RequestState]:
        """Take from the queue, in order, the requests that slots and memory allow."""
        longest, current = self.slot_table.longest, self.slot_table.cache_length
        selected: list[RequestState] = []
        if self.settings.refill or not self.active:
            while self.waiting:
                longest = max(longest, len(self.waiting[0].sequence))
                length = self.cache_lengths.target(longest, current)
                if self.active + len(selected) >= self.cache_lengths.slots_at(length):
                    break
                selected.append(self.waiting.popleft())
        return selected

    def _admit(
        self, params: Any, selected: Sequence[RequestState]
    ) -> dict[RequestState, Exception]:
        """Prefill the selected requests and put them into slots of a KV cache that fits."""
        self._fit(max([self.slot_table.longest, *(len(state.sequence) for state in selected)]))
        slot_of = self.slot_table.kept.slot_of
        turns = [state for state in selected if state in slot_of]
        others = [state for state in selected if state not in slot_of]
        ahead = (state for state in self.waiting if state not in slot_of)
        errors = self._go_on(params, turns)
        failed = self.prefix_cache.prefill(params, others, ahead)
        errors.update({state: failed[state.key] for state in others if state.key in failed})
        prefilled: dict[int, list[tuple[RequestState, CachedPrefix]]] = {}
        for state in others:
            if state not in errors:
                prefix = self.prefix_cache.entries[state.key]
                prefilled.setdefault(id(prefix.kv_cache), []).append((state, prefix))
        for batch in prefilled.values():
            errors.update(self.slot_table.insert(batch))
        for state in selected:
            state.generation = self.generation
            self.prefix_cache.leave(state)
        self.stats["admitted"] += len(selected) - len(errors)
        return errors

    def _go_on(self, params: Any, turns: Sequence[RequestState]) -> dict[RequestState, Exception]:
        """Prefill what is new of turns whose dialogue stands in a kept row."""
        kept = self.slot_table.kept
        widths: dict[int, list[RequestState]] = {}
        for state in turns:
            count = len(state.sequence) - 1 - len(kept.tokens[kept.slot_of[state]])
            self.stats["prefilled_tokens"] += count
            widths.setdefault(self.cache_lengths.prefill_width(count), []).append(state)
        errors: dict[RequestState, Exception] = {}
        for width, states in widths.items():
            for batch, rows in batches(states, self.cache_lengths.batch_ways):
                errors.update(self.slot_table.go_on(params, batch, rows, width))
        return errors

    def _fit(self, longest: int) -> None:
        """KV caches of the right length. Where that leaves too few slots, the youngest answers are
        preempted: they wait again.
        """
        length = self.cache_lengths.target(longest, self.slot_table.cache_length)
        if length == self.slot_table.cache_length:
            return
        for state in self.slot_table.preempt(length):
            self.waiting.appendleft(state)
            self.prefix_cache.wait(state)
            self.stats["preemptions"] += 1
        self.slot_table.resize(length)
        self.stats["resizes"] += 1
