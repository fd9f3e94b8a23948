"""One shard's pages: which are free, who uses the others, and which hold a known prefix.

A page that holds a prefix is found by the hash of all tokens up to its last one. It may have many
users, who only read it, and one owner, whose answer goes on in it. Without any it stays until its
place is needed, and the one that was not used for longest is given up first, those that a waiting
turn of a dialogue goes on behind last of all. Pages with low numbers are taken first, and the pool
grows only where no other is left, up to `most`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from qwen3.infer.host_pages import GivenUp


def page_keys(tokens: Sequence[int], page_size: int) -> list[bytes]:
    """The hash of the tokens up to each page's end, the last part page included."""
    keys, key = [], b""
    for start in range(0, len(tokens), page_size):
        part = np.asarray(tokens[start : start + page_size], np.int32).tobytes()
        key = hashlib.blake2b(key + part, digest_size=16).digest()
        keys.append(key)
    return keys


class PagePool:
    """Reference counts, owners and prefixes of up to `most` pages.

    grown: (pages) -> the next larger length of the pool that has as many. give: called with each
    page that is given up and that somebody comes back for.
    """

    def __init__(
        self, most: int, grown: Callable[[int], int], give: Callable[[GivenUp], None] | None = None
    ):
        self.most, self.grown, self.give = most, grown, give
        self.width = 0  # pages that there are so far
        self.free: list[int] = []  # a heap
        self.users: dict[int, int] = {}  # of pages that have any
        self.owned: set[int] = set()
        self.page_of: dict[bytes, int] = {}  # pages that hold a known prefix
        self.keys_of: dict[int, list[bytes]] = {}
        self.experts: dict[int, np.ndarray] = {}  # uint8 [places, L, A] of those, where recorded
        self.unused: OrderedDict[int, None] = OrderedDict()  # of those, without users; oldest first
        self.kept: OrderedDict[int, None] = OrderedDict()  # the same, which a waiting turn needs
        self.wanted: set[int] = set()  # pages that somebody comes back for

    @property
    def available(self) -> int:
        """Pages that `take` can give."""
        return self.most - self.used

    @property
    def used(self) -> int:
        """Pages that have users."""
        return len(self.users)

    def take(self, count: int) -> list[int] | None:
        """So many pages with one user each; None where there are not as many."""
        if count > self.available:
            return None
        while len(self.free) < count and self.unused:
            self._give_up(next(iter(self.unused)))
        if len(self.free) < count:
            wanted = min(self.used + len(self.kept) + count, self.most)
            width = min(self.grown(wanted), self.most)
            for page in range(self.width, width):
                heapq.heappush(self.free, page)
            self.width = width
        while len(self.free) < count:
            self._give_up(next(iter(self.kept)))
        taken = [heapq.heappop(self.free) for _ in range(count)]
        self.users.update(dict.fromkeys(taken, 1))
        return taken

    def share(self, key: bytes) -> int | None:
        """The page that holds this prefix, with one more user; None if there is none."""
        page = self.page_of.get(key)
        if page is not None:
            self.pin(page)
        return page

    def pin(self, page: int) -> None:
        """One more user of a page."""
        self.users[page] = self.users.get(page, 0) + 1
        self.unused.pop(page, None)
        self.kept.pop(page, None)

    def keep(self, key: bytes, needed: bool) -> None:
        """A prefix's page without users is given up last, or like the others if not `needed`."""
        page = self.page_of.get(key)
        come, go = (self.kept, self.unused) if needed else (self.unused, self.kept)
        if page is not None and page in go:
            del go[page]
            come[page] = None

    def release(self, pages: Iterable[int]) -> None:
        """One user less of each."""
        for page in pages:
            self.users[page] -= 1
            if not self.users[page]:
                del self.users[page]
                if page in self.keys_of:
                    self.unused[page] = None
                else:
                    heapq.heappush(self.free, page)

    def register(
        self, key: bytes, page: int, experts: np.ndarray | None = None, *, wanted: bool = False
    ) -> None:
        """Let others find a page by its prefix, unless another page holds the same. wanted: some
        request will come back for it, see `host_pages`.
        """
        if wanted:
            self.wanted.add(self.page_of.get(key, page))
        if key not in self.page_of:
            self.page_of[key] = page
            self.keys_of.setdefault(page, []).append(key)
            if experts is not None:
                self.experts[page] = experts

    def shrink(self, width: int) -> dict[int, int]:
        """Have only `width` pages, at least those used and kept: where pages moved, {old: new}."""
        assert self.used + len(self.kept) <= width <= self.width
        for page in [page for page in self.unused if page >= width]:
            self._give_up(page)
        self.free = [page for page in self.free if page < width]
        heapq.heapify(self.free)
        moved = {}
        for page in sorted(page for page in (*self.users, *self.kept) if page >= width):
            if not self.free:
                self._give_up(next(iter(self.unused)))
            moved[page] = heapq.heappop(self.free)
        self.width = width
        self._rename(moved)
        return moved

    def clear(self) -> None:
        """Forget all prefixes; pages keep their users."""
        for page in (*self.unused, *self.kept):
            heapq.heappush(self.free, page)
        self.page_of.clear()
        self.keys_of.clear()
        self.experts.clear()
        self.unused.clear()
        self.kept.clear()
        self.wanted.clear()

    def _give_up(self, page: int) -> None:
        """Free a page that has no users and forget what it holds."""
        self.unused.pop(page, None)
        self.kept.pop(page, None)
        keys, experts = self.keys_of.pop(page), self.experts.pop(page, None)
        for key in keys:
            del self.page_of[key]
        if page in self.wanted:
            self.wanted.remove(page)
            if self.give is not None:
                self.give(GivenUp(keys, page, experts))
        heapq.heappush(self.free, page)

    def _rename(self, moved: dict[int, int]) -> None:
        self.kept = OrderedDict.fromkeys(moved.get(page, page) for page in self.kept)
        for old, new in moved.items():
            if old in self.users:
                self.users[new] = self.users.pop(old)
            for pages in (self.owned, self.wanted):
                if old in pages:
                    pages.remove(old)
                    pages.add(new)
            if old in self.keys_of:
                self.keys_of[new] = self.keys_of.pop(old)
                self.page_of.update(dict.fromkeys(self.keys_of[new], new))
            if old in self.experts:
                self.experts[new] = self.experts.pop(old)
