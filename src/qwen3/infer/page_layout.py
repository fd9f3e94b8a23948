"""How a paged KV cache is cut into pages, and the few shapes of its programs: pure arithmetic.

A sequence takes what it uses, rounded up to pages of `page_size` places. The pool of all pages has
one of the lengths `widths`, and decode reads all of it; so these are all the decode programs.
"""

from __future__ import annotations

from dataclasses import dataclass

from qwen3.infer.cache_lengths import SMALLEST_PREFILL, SMALLEST_SPLASH
from qwen3.model.execution import Execution
from qwen3.ops import paged_attention

# Places of a page, by the kernel that attends to them (ops.paged_attention). With 16 attention took
# a quarter more time on a CPU; a TPU copies a page at a time, and one of 64 places is 16 kB a head.
PAGE_SIZES = {"in_place": 32, "gathered": 32, "pallas": 64}
CHUNK = 512  # most tokens of a prompt that are prefilled between two decode calls
# Pages a slot that a pool has; from there on two lengths an octave.
SHORT = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)


@dataclass(frozen=True)
class PageLayout:
    """Pages, pools and prefill widths of one engine. ValueError where they cannot be."""

    slots: int  # a multiple of batch_ways
    batch_ways: int  # what the mesh divides slots and pages by
    max_length: int  # tokens of prompt and answer together
    cache_tokens: int  # places in the page pools of all shards together
    block: int  # most decode steps between two scheduling points
    chunk: int  # most tokens of a prompt that are prefilled between two decode calls
    page_size: int  # places of a page
    host_tokens: int  # places of pages in the host's memory, of all shards together
    smallest_prefill: int = SMALLEST_PREFILL  # width of the narrowest prefill batch, tokens

    @staticmethod
    def for_execution(
        execution: Execution,
        *,
        page_size: int | None = None,
        chunk: int | None = None,
        host_tokens: int | None = None,
        **sizes: int,
    ) -> PageLayout:
        """The layout for the kernels of an execution. page_size, chunk: None for the default
        ones; host_tokens: None for as many as in the pools; without cache_tokens there are pages
        for the longest sequence in every slot.
        """
        narrowest = SMALLEST_SPLASH if execution.attention == "splash" else SMALLEST_PREFILL
        if page_size is None:
            page_size = min(PAGE_SIZES[paged_attention.known(execution.pages)], narrowest)
        longest = -(-sizes["max_length"] // max(page_size, 1)) * page_size
        sizes.setdefault("cache_tokens", sizes["slots"] * longest)
        return PageLayout(
            page_size=page_size,
            chunk=CHUNK if chunk is None else chunk,
            host_tokens=sizes["cache_tokens"] if host_tokens is None else host_tokens,
            smallest_prefill=narrowest,
            **sizes,
        )

    def __post_init__(self) -> None:
        least = self.batch_ways * self.max_length
        if self.cache_tokens < least:
            raise ValueError(
                f"cache_tokens {self.cache_tokens} cannot hold {self.batch_ways} answers of "
                f"{self.max_length} tokens; wanted at least {least}"
            )
        for name, value in (("page_size", self.page_size), ("chunk", self.chunk)):
            if value < 1 or value & (value - 1):
                raise ValueError(f"{name} {value}: wanted a power of two")
        if self.host_tokens < 0:
            raise ValueError(f"host_tokens {self.host_tokens}: wanted at least 0")
        if self.smallest_prefill % self.page_size:
            raise ValueError(f"page_size {self.page_size}: wanted at most {self.smallest_prefill}")
        if self.chunk < self.smallest_prefill:
            raise ValueError(f"chunk {self.chunk}: wanted at least {self.smallest_prefill}")

    def pages_of(self, tokens: int) -> int:
        """How many pages hold so many tokens."""
        return -(-tokens // self.page_size)

    @property
    def most(self) -> int:
        """Pages of one shard's pool, at most."""
        return self.pages_of(self.cache_tokens // self.batch_ways)

    @property
    def host_pages(self) -> int:
        """Pages in the host's memory, of all shards together."""
        return self.host_tokens // self.page_size

    @property
    def slots_a_shard(self) -> int:
        return self.slots // self.batch_ways

    @property
    def widths(self) -> tuple[int, ...]:
        """Growing numbers of pages that one shard's pool may have."""
        steps = list(SHORT)
        while steps[-1] * self.slots_a_shard < self.most:
            steps += [3 * steps[-1] // 2, 2 * steps[-1]]
        widths = (n * self.slots_a_shard for n in steps)
        return (*(n for n in widths if n < self.most), self.most)

    def width(self, pages: int) -> int:
        """The shortest pool that holds so many pages."""
        return next(width for width in self.widths if width >= pages)

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Growing numbers of pages that a prefill may go on behind."""
        most, widths = self.pages_of(self.max_length), [4]
        while widths[-1] < most:
            widths.append(4 * widths[-1])
        return (*(n for n in widths if n < most), most)

    def prefix_width(self, pages: int) -> int:
        """The shortest of `prefixes` that holds so many pages."""
        return next(width for width in self.prefixes if width >= pages)

    @property
    def prefill_widths(self) -> tuple[int, ...]:
        """Lengths of prefill batches: the smallest one times powers of two, up to a chunk."""
        widths = [self.smallest_prefill]
        while widths[-1] < min(self.chunk, self.max_length):
            widths.append(2 * widths[-1])
        return tuple(widths)

    @property
    def chunk_pages(self) -> int:
        """Pages of a whole chunk."""
        return self.prefill_widths[-1] // self.page_size

    def prefill_width(self, tokens: int) -> int:
        """The narrowest prefill batch for so many tokens."""
        return next(width for width in self.prefill_widths if width >= tokens)

    def suffix_width(self, tokens: int) -> int:
        """As `prefill_width`, for tokens behind a prefix: the narrowest or the widest one."""
        first, *_, last = (*self.prefill_widths[:1], *self.prefill_widths)
        return first if tokens <= first else last
