"""The slots of a paged KV cache: which request each serves, and the device's state and pages.

The pool is donated to every program that changes it; this is the only place that holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import admission
from qwen3.infer.kv_pages import NO_PAGE, PageTable
from qwen3.infer.page_layout import PageLayout
from qwen3.infer.paged_programs import PagedPrograms
from qwen3.infer.request_state import RequestState
from qwen3.infer.slot_table import SlotRequests
from qwen3.infer.slots import KVCache, Slots
from qwen3.model.layers import LayerCache
from qwen3.ops.paged_attention import Pages
from qwen3.train import across

BEYOND = 2**30  # first place of a page that belongs to no slot


class PagedSlotTable(SlotRequests):
    """The requests in the slots, and the programs that prefill and decode them."""

    def __init__(
        self,
        programs: PagedPrograms,
        layout: PageLayout,
        tokenizer: Tokenizer | None,
        vocab: int,
    ):
        super().__init__(programs, tokenizer, vocab)
        self.programs, self.layout = programs, layout
        self.reset()

    def reset(self) -> None:
        """Empty slots with a new pool of the shortest length."""
        layout = self.layout
        self.states = [None] * layout.slots
        self.width = layout.widths[0]  # pages of each shard's pool
        self.pool: KVCache = ()  # the old one is freed before the new one is allocated
        self.slots: Slots
        pages = self.width * layout.batch_ways
        self.slots, self.pool = self.programs.new(layout.slots, pages, layout.page_size)

    def free_slots(self, shard: int) -> list[int]:
        """Slots of a shard that serve no request."""
        each = self.layout.slots_a_shard
        return [s for s in range(shard * each, (shard + 1) * each) if self.states[s] is None]

    def resize(self, width: int, source: np.ndarray | None = None) -> None:
        """A pool of another length. source: int32, which page of the old one stands at each place
        of one that is cut; the same one for None.
        """
        while self.width != width:
            # From one length to the next, so that there are few programs.
            widths = self.layout.widths
            step = 1 if width > self.width else -1
            self.width = widths[widths.index(self.width) + step]
            table = np.tile(np.arange(self.width, dtype=np.int32), (self.layout.batch_ways, 1))
            if source is not None:
                table[:, :width] = source.reshape(len(table), width)
                source = None  # all pages that are kept are in the first `width` places now
            self._resize(table.reshape(-1))

    def _resize(self, source_M: np.ndarray) -> None:
        pool = [self.pool] if isinstance(self.pool, LayerCache) else list(self.pool)
        stacked, self.pool = isinstance(self.pool, LayerCache), ()
        for i in range(len(pool)):  # a layer's old pages are let go before the next are copied
            pool[i] = self.programs.resize(pool[i], source_M)
        self.pool = pool[0] if stacked else tuple(pool)

    def read_pages(self, source: np.ndarray) -> KVCache:
        """A page of each shard, in the host's memory."""
        return self.programs.to_host(self.programs.read(self.pool, source))

    def write_pages(self, pages: KVCache, target: np.ndarray) -> None:
        """Copy what `read_pages` gave to a page of each shard, NO_PAGE for none."""
        self.pool = self.programs.write(self.pool, self.programs.to_device(pages), target)

    def prefill(
        self,
        params: Any,
        tokens: np.ndarray,
        lengths: np.ndarray,
        pages: np.ndarray,
        starts: np.ndarray | None = None,
        prefix: np.ndarray | None = None,
    ) -> Any:
        """Prefill a batch into pages; returns its experts or None. prefix: pages of the `starts`
        tokens that each row goes on behind.
        """
        if starts is None:
            rows, expert_ids = self.programs.prefill(params, tokens, lengths)
        else:
            before = self.programs.rows_of(self.pool, prefix, starts, more=tokens.shape[1])
            rows, expert_ids = self.programs.prefill_on(params, before, tokens, lengths, starts)
        self.pool = self.programs.store(self.pool, rows, pages)
        return expert_ids

    def insert(self, states: Sequence[RequestState]) -> list[tuple[RequestState, Exception]]:
        """Put prefilled requests into free slots of their shards.

        Returns those whose own data cannot be put there, with the error; the others are.
        """

        def place(state: RequestState) -> tuple[int, int]:
            assert state.shard is not None
            return 0, self.free_slots(state.shard)[0]

        empty = admission.empty(len(self.states), self.layout.max_length)
        new, failures = self._admit(empty, states, place)
        self.slots = self.programs.insert(self.slots, new)
        return failures

    @property
    def steps(self) -> int:
        return self.layout.block

    def _decode(
        self, params: Any, most: int, finish: int, allowed: np.ndarray | None, **options: int
    ) -> Any:
        self.slots, self.pool, output = self.programs.decode(
            params,
            self.slots,
            self.pool,
            self._table(),
            self.budget_tables,
            self.allowed,
            np.int32(most),
            np.int32(finish),
            *(() if allowed is None else (allowed,)),
            **options,
        )
        return output

    def _table(self) -> PageTable:
        """Whose the pages are in the next decode call, and which it copies before."""
        layout = self.layout
        each, size, shape = layout.slots_a_shard, layout.page_size, (layout.batch_ways, self.width)
        source, target = np.zeros((2, *shape), np.int32)
        owner, start = np.full(shape, each, np.int32), np.full(shape, BEYOND, np.int32)
        table = np.zeros((layout.batch_ways, each, layout.pages_of(layout.max_length)), np.int32)
        counts = np.zeros(layout.batch_ways, np.int32)
        for slot, state in enumerate(self.states):
            if state is None:
                continue
            (shard, row), pages = divmod(slot, each), np.array(state.pages, np.int32)
            owner[shard, pages], start[shard, pages] = row, np.arange(len(pages)) * size
            table[shard, row] = pages[-1]  # behind the last page, see `Pages`
            table[shard, row, : len(pages)] = pages
            for i, page in state.copies:
                source[shard, counts[shard]], target[shard, counts[shard]] = page, pages[i]
                counts[shard] += 1
        order = np.lexsort((start, owner)).astype(np.int32)
        pages_ = Pages(
            owner.reshape(-1),
            start.reshape(-1),
            order.reshape(-1),
            table.reshape(len(self.states), -1),
        )
        return PageTable(pages_, source.reshape(-1), target.reshape(-1), counts)

    def preempt(self, state: RequestState) -> None:
        """Take a request out of its slot; it keeps what it needs to go on later."""
        slot = state.slot
        assert slot is not None  # it is being decoded
        automaton = across.read(self.slots.automaton)._asdict()
        state.automaton = {name: field[slot].item() for name, field in automaton.items()}
        self.free([slot])
        state.slot = None

    def warm_up(self, params: Any, prefills: Sequence[Sequence[np.ndarray]]) -> None:
        """Run every program in every shape. prefills: the arrays of each empty prefill batch."""
        layout = self.layout
        self.slots = self.programs.insert(
            self.slots, admission.empty(len(self.states), layout.max_length)
        )
        for width in layout.widths:
            self.resize(width)
            for arrays in prefills:
                self.prefill(params, *arrays)
            self._decode(params, 0, 1, None)
            if layout.host_pages:
                nowhere = np.full(layout.batch_ways, NO_PAGE, np.int32)
                self.write_pages(self.read_pages(np.zeros_like(nowhere)), nowhere)
        self.resize(layout.widths[0])
        self.slots = self.programs.release(self.slots, np.ones(len(self.states), bool))
