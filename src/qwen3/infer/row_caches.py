"""KV caches that are rows of one length, taken from a few: the form of `Engine(cache="rows")`.

The length fits the longest sequence, and long caches leave fewer slots, so that the youngest
requests may have to wait again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.infer import cache_lengths, compiled
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.kv_caches import CacheSettings, enough
from qwen3.infer.prefix_cache import CachedPrefix, PrefixCache
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
            programs, self.cache_lengths, record_experts=s.record_experts
        )
        self.admitting: list[RequestState] = []  # taken from the queue, in no slot yet

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

    def clear(self) -> None:
        self.prefix_cache.clear()

    def schedule(self, params: Any) -> dict[RequestState, Exception]:
        self.admitting = self._select()
        errors = self._admit(params, self.admitting)
        self.admitting = []
        return errors

    def decode(self, params: Any, *, refill: bool) -> tuple[DecodeOutput, np.ndarray]:
        slots = len(self.slot_table.states)
        return self.slot_table.decode(params, enough(slots) if refill else slots)

    def finish(self, states: Sequence[RequestState], active: np.ndarray | None) -> None:
        for state in states:
            if state.slot is None:
                self.prefix_cache.leave(state)
        self.slot_table.finish(states, active)

    def reset(self) -> list[RequestState]:
        lost = [*self.admitting, *(s for s in self.requests if s not in self.admitting)]
        self.admitting = []
        for state in lost:
            self.prefix_cache.leave(state)
            state.slot = None
        self.slot_table.reset()
        return lost

    def warm_up(self, params: Any, prompts: Sequence[int]) -> None:
        """Compiles a decode program for each cache length, a prefill program for each different
        prefill width, and an insert program for each pair of them.
        """
        if self.cache_lengths.tight:  # a preempted answer is prefilled with what it has so far
            prompts = range(1, self.settings.max_length + 1)
        widths = sorted({self.cache_lengths.prefill_width(length - 1) for length in prompts})
        self.slot_table.warm_up(params, self.prefix_cache.warm_up(params, widths))

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
        count, failed = self.prefix_cache.prefill(params, selected, self.waiting)
        self.stats["prefills"] += count
        errors = {state: failed[state.key] for state in selected if state.key in failed}
        batches: dict[int, list[tuple[RequestState, CachedPrefix]]] = {}
        for state in selected:
            if state not in errors:
                prefix = self.prefix_cache.entries[state.key]
                batches.setdefault(id(prefix.kv_cache), []).append((state, prefix))
        for batch in batches.values():
            failures = self.slot_table.insert(batch)
            self.stats["admitted"] += len(batch) - len(failures)
            errors.update(failures)
        for state in selected:
            self.prefix_cache.leave(state)
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
