"""Who has which pages: prompts are prefilled into them in chunks, and prefixes are shared.

The samples of a prompt (GRPO's group) and the turns of a dialogue share the prefill of what they
have in common: each page of tokens is prefilled once and kept after use, until its place is needed.
A page that an answer goes on behind is its own: the first one to come takes over the page itself,
any other a copy, which the next decode call makes. A long prompt is prefilled a chunk at a time
between decode calls, which it does not hold up. Pages that a turn or a preempted request comes back
for are copied to the host's memory before others take their place, and back when they are needed.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qwen3.infer.host_pages import HostPages, PageTransfer
from qwen3.infer.page_layout import PageLayout
from qwen3.infer.page_pool import PagePool, page_keys
from qwen3.infer.page_prefill import Chunk, PagePrefill
from qwen3.infer.prefix_cache import AHEAD, ROWS
from qwen3.infer.request_state import RequestState


class PrefillProgress(NamedTuple):
    """What one call of `PageCache.advance` did."""

    ready: list[RequestState]  # requests that can be decoded now, with pages of their own
    begun: int  # prompts of which the first chunk was prefilled
    tokens: int  # that were prefilled
    shards: set[int]  # where anything was prefilled
    errors: dict[RequestState, Exception]  # of requests that failed


class PageCache:
    """The page pools of all shards, and the requests that are being prefilled.

    transfer, stats: of `HostPages`.
    """

    def __init__(
        self,
        layout: PageLayout,
        prefill: PagePrefill,
        transfer: PageTransfer,
        stats: Counter[str],
    ):
        self.layout, self.prefill = layout, prefill
        self.transfer, self.stats = transfer, stats
        self.reset()

    def reset(self) -> None:
        """Empty pools, and nothing being prefilled."""
        layout = self.layout
        ways = layout.batch_ways
        self.host_pages = HostPages(layout.host_pages, ways, self.transfer, self.stats)
        give = [functools.partial(self.host_pages.give, shard) for shard in range(ways)]
        self.pools = [PagePool(layout.most, layout.width, give[shard]) for shard in range(ways)]
        self.filling: list[RequestState] = []
        self.generation = 0  # of the weights; pages that older ones wrote are not shared

    def clear(self) -> None:
        """Forget what old weights prefilled; the requests that were being prefilled begin again."""
        self.generation += 1
        self.host_pages.clear()
        for state in self.filling:
            self.leave(state)
            state.generation = self.generation
        for pool in self.pools:
            pool.clear()

    # --- requests --------------------------------------------------------------------------------

    def fits(self, state: RequestState, shard: int, decoding: int) -> bool:
        """Whether a shard has pages for a request, and for those that are decoded to go on."""
        pool, filling = self.pools[shard], [s for s in self.filling if s.shard == shard]
        if not decoding and not filling:
            return True
        missing = sum(len(self._keys(other)) for other in (*filling, state))
        growth = self.layout.pages_of(self.layout.block)
        missing += growth * (decoding + len(filling) + 1)
        held = {page for other in filling for page in other.pages}
        return pool.available + len(held - pool.owned) >= missing

    def known(self, state: RequestState, shard: int) -> int:
        """Pages that a shard has of a later turn of a dialogue, or of a request that was preempted
        or prefilled ahead; 0 for other requests.
        """
        return self._known(state, shard) if state.goes_on or state.ahead else 0

    def keep(self, state: RequestState, needed: bool) -> None:
        """Whether a turn waits for the pages that it goes on behind: they are given up last."""
        for shard, pool in enumerate(self.pools):
            for key in self._keys(state)[: self.known(state, shard)]:
                pool.keep(key, needed)
                self.host_pages.touch(shard, key)

    def begin(self, state: RequestState, shard: int) -> None:
        """Prefill a request from the next `advance` on."""
        state.shard, state.generation = shard, self.generation
        self.filling.append(state)

    def leave(self, state: RequestState) -> None:
        """Give back all pages of a request. No harm if called again."""
        if state.shard is None:
            return
        pool = self.pools[state.shard]
        self.copied(state)
        if state not in self.filling:
            pool.owned.difference_update(state.pages)
        pool.release(reversed(state.pages))  # the ends of prefixes are given up first
        state.pages = []

    def copied(self, state: RequestState) -> None:
        """Give back the pages that a decode call has copied for a request."""
        if state.shard is not None:
            own = state.pages
            self.pools[state.shard].release(page for i, page in state.copies if page != own[i])
        state.copies = []

    def end(self, state: RequestState, *, preempted: bool = False) -> None:
        """Take a request out, with its whole pages left for others to find; those of one that is
        preempted, or the turn of a dialogue, are wanted again.
        """
        if state.shard is None:
            return
        if state.generation == self.generation and state.completion.error is None:
            size, pool = self.layout.page_size, self.pools[state.shard]
            count = len(state.sequence) - 1
            stored = state.sequence[: count if preempted else count // size * size]
            wanted = preempted or state.request.turn is not None
            experts = np.concatenate(state.expert_ids) if state.expert_ids else None
            for i, key in enumerate(page_keys(stored, size)[: len(state.pages)]):
                chosen = None if experts is None else experts[i * size : (i + 1) * size]
                pool.register(key, state.pages[i], chosen, wanted=wanted)
        self.leave(state)
        if state in self.filling:
            self.filling.remove(state)
        state.shard, state.keys = None, None

    def reserve(self, state: RequestState, steps: int) -> bool:
        """Pages for so many more tokens of a request that is decoded; False where too few are
        left.
        """
        assert state.shard is not None
        pool = self.pools[state.shard]
        tokens = len(state.sequence) - 1 + min(steps, state.tokens_left)
        first = len(state.pages)
        taken = pool.take(max(self.layout.pages_of(tokens) - first, 0))
        if taken is None:
            return False
        pool.owned.update(taken)
        state.pages += taken
        # A copy of itself: it is zeroed, as it has no token yet.
        state.copies += enumerate(taken, first)
        return True

    def shrink(self, decoded: Sequence[RequestState]) -> np.ndarray | None:
        """Shorter pools where the pages that are used leave an eighth to spare: int32, which page
        of the old ones stands at each place. None where they stay.
        """
        layout = self.layout
        used = max(pool.used + len(pool.kept) for pool in self.pools)
        width = layout.width(min(used + used // 8, layout.most))
        if width >= self.width:
            return None
        source = np.tile(np.arange(width, dtype=np.int32), (len(self.pools), 1))
        for shard, pool in enumerate(self.pools):
            moved = pool.shrink(min(width, pool.width))
            source[shard, list(moved.values())] = list(moved)
            for state in (*self.filling, *decoded):
                if state.shard == shard:
                    state.pages = [moved.get(page, page) for page in state.pages]
        return source.reshape(-1)

    @property
    def width(self) -> int:
        """Pages that the pool of each shard must have."""
        return self.layout.width(max(pool.width for pool in self.pools))

    # --- prefill ---------------------------------------------------------------------------------

    def advance(self, params: Any, ahead: Iterable[RequestState] = ()) -> PrefillProgress:
        """Prefill one chunk of each prompt. What another request prefills is waited for. ahead:
        waiting requests, whose prompts fill up batches.
        """
        chunks: list[Chunk] = []
        claimed: set[tuple[int | None, bytes]] = set()
        for state in sorted(self.filling, key=lambda state: state.arrival):
            if not self._match(state):
                key = (state.shard, self._chunk_key(state))
                chunk = None if key in claimed else self._chunk(state)
                if chunk is not None:
                    claimed.add(key)
                    chunks.append(chunk)
        chunks += self._look_ahead(chunks, ahead, claimed)
        errors = self._run(params, chunks)
        candidates = [state for state in self.filling if state not in errors]
        return PrefillProgress(
            ready=[state for state in candidates if self._match(state) and self._own(state)],
            begun=sum(chunk.start == 0 for chunk in chunks),
            tokens=sum(len(chunk.tokens) for chunk in chunks if chunk.state not in errors),
            shards={chunk.shard for chunk in chunks},
            errors=errors,
        )

    def leave_filling(self, states: Sequence[RequestState]) -> None:
        """These requests are no longer prefilled."""
        self.filling = [state for state in self.filling if state not in states]

    def experts(self, state: RequestState) -> np.ndarray:
        """uint8 [tokens, L, A] of the prefilled tokens of a request."""
        assert state.shard is not None
        sources = dict(enumerate(state.pages)) | dict(state.copies)
        experts = self.pools[state.shard].experts
        pages = [sources[i] for i in range(self.layout.pages_of(len(state.sequence) - 1))]
        return np.concatenate([experts[page] for page in pages])[: len(state.sequence) - 1]

    def _keys(self, state: RequestState) -> list[bytes]:
        if state.keys is None:
            state.keys = page_keys(state.sequence[:-1], self.layout.page_size)
        return state.keys

    def _chunk_key(self, state: RequestState) -> bytes:
        """The key of the next chunk's last page."""
        return self._keys(state)[len(state.pages) :][: self.layout.chunk_pages][-1]

    def _known(self, state: RequestState, shard: int) -> int:
        """Pages from its first one on that a request has or can share in a shard."""
        page_of, at_hand = self.pools[shard].page_of, len(state.pages)

        def has(key: bytes) -> bool:
            return key in page_of or (shard, key) in self.host_pages

        return at_hand + sum(1 for _ in itertools.takewhile(has, self._keys(state)[at_hand:]))

    def _match(self, state: RequestState) -> bool:
        """Share the pages that are known; whether that is all of the prompt.

        An episode's first turn shares no part of a chunk: where its chunks begin would depend on
        what other episodes left, and with it the last bits of keys and values.
        """
        assert state.shard is not None
        keys, pool = self._keys(state), self.pools[state.shard]
        known = self._known(state, state.shard)
        if known < len(keys) and state.request.turn == 0 and not state.goes_on:
            known -= known % self.layout.chunk_pages
        for key in keys[len(state.pages) : known]:
            page = pool.share(key)
            if page is None:
                page = self._bring(state.shard, key)
            if page is None:
                return False
            state.pages.append(page)
        return len(state.pages) == len(keys)

    def _bring(self, shard: int, key: bytes) -> int | None:
        """A page that comes back from the host; None for one that is not there, or has no place."""
        pool = self.pools[shard]
        host_page = self.host_pages.find(shard, key)
        taken = None if host_page is None else pool.take(1)
        if host_page is None or taken is None:
            return None
        self.host_pages.bring(shard, host_page, taken[0])
        pool.register(key, taken[0], host_page.experts, wanted=True)
        return taken[0]

    def _own(self, state: RequestState) -> bool:
        """Give a request pages of its own for those that it shares; False where too few are
        left.
        """
        assert state.shard is not None
        pool, last = self.pools[state.shard], (len(state.sequence) - 1) // self.layout.page_size
        shared = [
            i
            for i, page in enumerate(state.pages)
            # A last part page that also holds a longer prefix must keep it.
            if page in pool.owned or (i == last and len(pool.keys_of[page]) > 1)
        ]
        taken = pool.take(len(shared))
        if taken is None:
            return False
        for i, page in zip(shared, taken, strict=True):
            state.copies.append((i, state.pages[i]))
            state.pages[i] = page
        if last < len(state.pages) and last not in shared:
            # A copy of itself: what others have left behind the prompt is zeroed.
            state.copies.append((last, state.pages[last]))
        pool.owned.update(state.pages)
        return True

    def _chunk(self, state: RequestState) -> Chunk | None:
        """The next tokens of a request and pages for them; None where too few pages are left."""
        assert state.shard is not None
        start = len(state.pages) * self.layout.page_size
        tokens = state.sequence[:-1][start : start + self.layout.prefill_widths[-1]]
        pages = self.pools[state.shard].take(self.layout.pages_of(len(tokens)))
        return None if pages is None else Chunk(state, state.shard, start, tokens, pages)

    def _look_ahead(
        self,
        chunks: Sequence[Chunk],
        ahead: Iterable[RequestState],
        claimed: set[tuple[int | None, bytes]],
    ) -> list[Chunk]:
        """Whole prompts of waiting requests that make full batches of some of these chunks."""
        width_of, full, added = self.layout.prefill_width, ROWS[0], list[Chunk]()
        together = [c for c in chunks if self.prefill.most_rows(c) == full]
        batches = Counter((c.shard, width_of(len(c.tokens))) for c in together)
        waiting = list(itertools.islice(ahead, 4 * full)) if batches else []
        for (shard, width), count in batches.items():
            pool, missing = self.pools[shard], -count % full
            prompts: dict[bytes, RequestState] = {}
            for state in waiting:
                if self._may_be_ahead(state, width):
                    key = self._keys(state)[-1]
                    if key not in pool.page_of and (shard, key) not in claimed:
                        prompts.setdefault(key, state)
            room = min(pool.most // AHEAD, pool.available // 2)
            if missing <= len(prompts) and missing * self.layout.pages_of(width) <= room:
                for state in itertools.islice(prompts.values(), missing):
                    state.ahead, tokens = True, state.sequence[:-1]
                    pages = pool.take(self.layout.pages_of(len(tokens)))
                    assert pages is not None  # there is room
                    added.append(Chunk(state, shard, 0, tokens, pages))
        return added

    def _may_be_ahead(self, state: RequestState, width: int) -> bool:
        """Whether all of a request is prefilled in one batch of this width, beside others."""
        tokens, widths = len(state.sequence) - 1, self.layout.prefill_widths
        is_whole = 0 < tokens <= widths[-1] and self.layout.prefill_width(tokens) == width
        return is_whole and state.request.turn is None and not state.goes_on

    def _run(self, params: Any, chunks: Sequence[Chunk]) -> dict[RequestState, Exception]:
        """Prefill chunks, and let others find their pages; the errors of those that failed."""
        experts, errors = self.prefill.run(params, chunks)
        for state, shard, start, _, pages in chunks:
            pool = self.pools[shard]
            if state not in errors:
                size, chosen = self.layout.page_size, experts.get(state)
                first = start // size
                for i, page in enumerate(pages):
                    part = None if chosen is None else chosen[i * size : (i + 1) * size]
                    pool.register(self._keys(state)[first + i], page, part)
                # The request gets its pages by their keys, as all others do.
                if state.shard is not None:
                    self._match(state)
            pool.release(pages)
            if state.shard is None:
                self.keep(state, True)
        # A waiting request is no part of what failed: it is prefilled when its turn has come.
        return {state: error for state, error in errors.items() if state.shard is not None}
