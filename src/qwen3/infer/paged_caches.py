"""KV caches in pages: the form of `Engine(cache="paged")` (PagedAttention, arXiv 2309.06180).

A sequence takes what it uses, in pages of a pool that grows and shrinks with all of them. Requests
are admitted while there are pages for them; a prompt is prefilled a chunk at a time, so that others
go on being decoded; samples and turns find the pages of what they have in common (`page_cache`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.infer import compiled, paged_programs
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.host_pages import PageTransfer
from qwen3.infer.kv_caches import CacheSettings, enough
from qwen3.infer.page_cache import PageCache
from qwen3.infer.page_layout import PageLayout
from qwen3.infer.page_prefill import PagePrefill
from qwen3.infer.paged_slot_table import PagedSlotTable
from qwen3.infer.request_state import RequestState


class PagedCaches:
    """See `kv_caches.KVCaches`. page_size, chunk, host_tokens: of
    `PageLayout.for_execution`.
    """

    def __init__(
        self,
        settings: CacheSettings,
        *,
        page_size: int | None = None,
        chunk: int | None = None,
        host_tokens: int | None = None,
    ):
        s = self.settings = settings
        self.waiting, self.stats, self.slots = s.waiting, s.stats, s.slots
        self.layout = PageLayout.for_execution(
            s.execution,
            page_size=page_size,
            chunk=chunk,
            host_tokens=host_tokens,
            slots=s.slots,
            batch_ways=compiled.batch_ways(s.mesh),
            max_length=s.max_length,
            block=s.block,
            **({} if s.cache_tokens is None else {"cache_tokens": s.cache_tokens}),
        )
        program = (s.config, s.execution, s.mesh, s.block, s.record_experts)
        self.place = compiled.build(*program).place
        self.slot_table = PagedSlotTable(
            paged_programs.build(*program), self.layout, s.tokenizer, s.config.vocab
        )
        table = self.slot_table
        self.page_cache = PageCache(
            self.layout,
            PagePrefill(self.layout, self._prefill, record_experts=s.record_experts),
            PageTransfer(table.read_pages, table.write_pages),
            s.stats,
        )

    @property
    def requests(self) -> list[RequestState]:
        return self.slot_table.requests

    @property
    def active(self) -> int:
        return len(self.requests) + len(self.page_cache.filling)

    @property
    def places(self) -> int:
        return self.slot_table.width * self.layout.batch_ways * self.layout.page_size

    def wait(self, state: RequestState) -> None:
        """Of requests in the queue, turns of dialogues alone have pages kept for them."""
        if state.request.turn:
            self.page_cache.keep(state, True)

    def clear(self) -> None:
        self.page_cache.clear()

    def schedule(self, params: Any) -> dict[RequestState, Exception]:
        source = self.page_cache.shrink(self.requests)
        if source is not None:
            self._resize(self.page_cache.width, source)
        self._select()
        errors = self._admit(params)
        self._reserve()
        self._resize(max(self.page_cache.width, self.slot_table.width))
        return errors

    def decode(self, params: Any, *, refill: bool) -> tuple[DecodeOutput, np.ndarray]:
        output = self.slot_table.decode(params, enough(self.slots) if refill else self.slots)
        for state in self.requests:
            self.page_cache.copied(state)
        return output

    def finish(self, states: Sequence[RequestState], active: np.ndarray | None) -> None:
        for state in states:
            if state.shard is None and (state.request.turn or state.ahead):
                self.page_cache.keep(state, False)
            self.page_cache.end(state)
        self.slot_table.finish(states, active)

    def reset(self) -> list[RequestState]:
        lost = [*self.page_cache.filling, *self.requests]
        for state in lost:
            state.slot, state.shard, state.pages, state.copies = None, None, [], []
        self.page_cache.reset()
        self.slot_table.reset()
        return lost

    def warm_up(self, params: Any, prompts: Sequence[int], turns: Sequence[int]) -> None:
        """Compiles a decode program for each length of the pool, prefill programs for each width of
        a batch and each length of a prefix, and small ones that cut pages into rows and back: for
        prompts and turns of any length.
        """
        self.slot_table.warm_up(params, self.page_cache.prefill.batches())

    def _resize(self, width: int, source: np.ndarray | None = None) -> None:
        """A pool of another length, see `PagedSlotTable.resize`. Pages go to the host before it and
        come from there after it.
        """
        self.page_cache.host_pages.save()
        self.stats["resizes"] += width != self.slot_table.width
        self.slot_table.resize(width, source)
        self.page_cache.host_pages.load()

    def _prefill(self, params: Any, *arrays: np.ndarray) -> Any:
        self._resize(max(self.page_cache.width, self.slot_table.width))
        return self.slot_table.prefill(params, *arrays)

    def _select(self) -> None:
        """Take from the queue, in order, the requests that slots and pages allow."""
        if not self.settings.refill and self.active:
            return
        while self.waiting:
            shard = self._shard(self.waiting[0])
            if shard is None:
                return
            self.page_cache.begin(self.waiting.popleft(), shard)

    def _shard(self, state: RequestState) -> int | None:
        """The batch shard that has pages for a request, first one that holds what a turn goes on
        behind, then the one with the most free slots; None for none.
        """
        filling = Counter(other.shard for other in self.page_cache.filling)
        decoding = Counter(other.shard for other in self.requests)
        free = {
            shard: self.layout.slots_a_shard - decoding[shard] - filling[shard]
            for shard in range(self.layout.batch_ways)
        }
        fitting = (
            shard
            for shard in sorted(free, key=lambda s: (-self.page_cache.known(state, s), -free[s]))
            if free[shard] > 0 and self.page_cache.fits(state, shard, decoding[shard])
        )
        return next(fitting, None)

    def _admit(self, params: Any) -> dict[RequestState, Exception]:
        """Prefill a chunk of each prompt, and put the requests that are through into slots."""
        ready, begun, tokens, shards, errors = self.page_cache.advance(params, self.waiting)
        self.stats["prefills"] += begun
        self.stats["prefilled_tokens"] += tokens
        if not ready:
            self._unblock(shards)
            return errors
        if self.settings.record_experts:
            for state in ready:
                if state.pages:
                    state.expert_ids = state.expert_ids or [self.page_cache.experts(state)]
        failures = dict(self.slot_table.insert(ready))
        self.page_cache.leave_filling(ready)
        self.stats["admitted"] += len(ready) - len(failures)
        return {**errors, **failures}

    def _unblock(self, shards: set[int]) -> None:
        """Preempt a request in every shard where prompts wait for each other's pages: no answer
        will free any, and nothing was prefilled (as it was in `shards`).
        """
        decoding = {state.shard for state in self.requests}
        filling = self.page_cache.filling
        for shard in {state.shard for state in filling} - decoding - shards:
            self._preempt_youngest([state for state in filling if state.shard == shard])

    def _reserve(self) -> None:
        """Pages for the next tokens of each answer. Where they run out, the youngest requests of
        the shard are preempted.
        """
        for state in sorted(self.requests, key=lambda state: state.arrival):
            while state.slot is not None and not self.page_cache.reserve(state, self.layout.block):
                rivals = [*self.requests, *self.page_cache.filling]
                self._preempt_youngest([other for other in rivals if other.shard == state.shard])

    def _preempt_youngest(self, states: Sequence[RequestState]) -> None:
        """Have the youngest of these requests wait again."""
        state = max(states, key=lambda state: state.arrival)
        if state.slot is not None:
            self.slot_table.preempt(state)
        self.page_cache.end(state, preempted=True)
        self.waiting.appendleft(state)
        self.stats["preemptions"] += 1
