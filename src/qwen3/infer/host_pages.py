"""Pages of KV that their pool gave up, kept in the host's memory for those who come back for them.

A page's place is needed by others while the tool of a dialogue is slow, or since its request was
preempted. What was decoded into it then comes back bit by bit from the host. Computed again, it
would differ: a prefill adds the same numbers in another order than decode steps did.

Pages are copied at the next scheduling point, one of every shard at a time, before any program
writes to the pools.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qwen3.infer.kv_pages import NO_PAGE
from qwen3.infer.slots import KVCache


class PageTransfer(NamedTuple):
    """The programs that copy one page of each shard."""

    read: Callable[[np.ndarray], KVCache]  # (int32 [shards]) -> these pages, on the host
    write: Callable[[KVCache, np.ndarray], Any]  # (pages, int32 [shards]: where to, or NO_PAGE)


class HostPage(NamedTuple):
    """A page as it was when its pool gave it up."""

    kv: KVCache  # one page of every shard, of which this is one
    experts: np.ndarray | None  # uint8 [places, L, A], where recorded


class GivenUp(NamedTuple):
    """A page whose place is about to be taken."""

    keys: Sequence[bytes]  # of the prefixes that it holds, see `page_pool.page_keys`
    page: int
    experts: np.ndarray | None


class HostPages:
    """The given-up pages of all shards by prefix, at most `most` of them, 0 for none.

    The one that was not asked for longest is dropped first. stats: counts "pages_to_host" and
    "pages_from_host".
    """

    def __init__(self, most: int, shards: int, transfer: PageTransfer, stats: Counter[str]):
        self.most, self.transfer, self.stats = most, transfer, stats
        self.entries: OrderedDict[tuple[int, bytes], HostPage] = OrderedDict()
        self.leaving: list[list[GivenUp]] = [[] for _ in range(shards)]  # of each shard
        self.coming: list[tuple[int, int, HostPage]] = []  # (shard, its page, what goes there)

    def __contains__(self, place: tuple[int, bytes]) -> bool:
        shard, key = place
        return place in self.entries or any(key in page.keys for page in self.leaving[shard])

    def clear(self) -> None:
        """Forget all pages: other weights would have written others."""
        self.entries.clear()
        self.coming.clear()
        for pages in self.leaving:
            pages.clear()

    def give(self, shard: int, page: GivenUp) -> None:
        """Have a page copied to the host, unless it is there already."""
        if self.most and (shard, page.keys[0]) not in self:
            self.leaving[shard].append(page)

    def touch(self, shard: int, key: bytes) -> None:
        """Somebody will ask for a page, if it is here: it is dropped after all others."""
        if (shard, key) in self.entries:
            self.entries.move_to_end((shard, key))

    def find(self, shard: int, key: bytes) -> HostPage | None:
        """A page that is here; None for none."""
        if (shard, key) in self and (shard, key) not in self.entries:
            self.save()  # which may drop it again, where there is room for few
        self.touch(shard, key)
        return self.entries.get((shard, key))

    def bring(self, shard: int, host_page: HostPage, page: int) -> None:
        """Have a page of the host copied to one of its shard's pool."""
        self.coming.append((shard, page, host_page))

    def save(self) -> None:
        """Copy the pages that were given up to the host."""
        for i in range(max(map(len, self.leaving))):
            chosen = {s: pages[i] for s, pages in enumerate(self.leaving) if i < len(pages)}
            source = np.zeros(len(self.leaving), np.int32)
            source[list(chosen)] = [page.page for page in chosen.values()]
            kv = self.transfer.read(source)
            self.stats["pages_to_host"] += len(chosen)
            for shard, page in chosen.items():
                for key in page.keys:
                    self.entries[shard, key] = HostPage(kv, page.experts)
        for pages in self.leaving:
            pages.clear()
        while len(self.entries) > self.most:
            self.entries.popitem(last=False)

    def load(self) -> None:
        """Copy the pages that were asked for to their pools, which are long enough now."""
        for shard, page, host_page in self.coming:
            target = np.full(len(self.leaving), NO_PAGE, np.int32)
            target[shard] = page
            self.transfer.write(host_page.kv, target)
        self.stats["pages_from_host"] += len(self.coming)
        self.coming.clear()
