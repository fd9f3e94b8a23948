"""How long an engine's KV cache is, and how many slots that leaves: pure arithmetic.

All slots have caches of one length, taken from a few buckets; slots x length never exceeds
`cache_tokens`, so long answers leave fewer slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SMALLEST_PREFILL = 32  # tokens in the narrowest prefill batch, at least
SMALLEST_SPLASH = 128  # the same for splash attention, which reads multiples of 128 tokens
SMALLEST_BUCKET = 128  # places in the shortest cache of an engine's own choice
ROUND = 64  # the longest one is a multiple of this


@dataclass(frozen=True)
class CacheLengths:
    """Cache lengths and prefill widths of one engine. ValueError where the longest do not fit."""

    slots: int  # most slots, a multiple of batch_ways
    batch_ways: int  # what the mesh divides slots by
    buckets: tuple[int, ...]  # growing cache lengths; the last holds a whole context
    cache_tokens: int  # most places in the caches of all slots together
    block: int  # most decode steps between two scheduling points
    smallest_prefill: int = SMALLEST_PREFILL  # width of the narrowest prefill batch, tokens

    def __post_init__(self) -> None:
        least = self.batch_ways * self.buckets[-1]
        if self.cache_tokens < least:
            raise ValueError(
                f"cache_tokens {self.cache_tokens} cannot hold {self.batch_ways} answers of "
                f"{self.buckets[-1]} tokens; wanted at least {least}"
            )

    @property
    def tight(self) -> bool:
        """Whether the longest answers leave fewer slots than there are, so that some may have to
        be preempted.
        """
        return self.slots_at(self.buckets[-1]) < self.slots

    def slots_at(self, length: int) -> int:
        """How many slots caches of this length leave."""
        ways = self.batch_ways
        return min(self.slots, self.cache_tokens // length) // ways * ways

    def target(self, longest: int, current: int) -> int:
        """The shortest cache for one more token of the longest sequence; a cache of `current`
        places is cut only where a whole block fits into the shorter one.
        """
        needed = self._bucket(longest)
        if needed >= current:
            return needed
        return min(self._bucket(min(longest + self.block, self.buckets[-1])), current)

    def prefill_width(self, tokens: int) -> int:
        """Length of the prefill batch for a prompt: the smallest one times a power of two, or times
        what the whole context needs.
        """
        width = self.smallest_prefill
        while width < tokens:
            width *= 2
        return min(width, -(-self.buckets[-1] // self.smallest_prefill) * self.smallest_prefill)

    def _bucket(self, length: int) -> int:
        return next(bucket for bucket in self.buckets if bucket >= length)


def default_buckets(max_length: int) -> tuple[int, ...]:
    """Cache lengths 128, 192, 256, 384, 512, 768 and from 1,024 on four an octave; the last is
    max_length, rounded up to 64. Few, as each is a program to compile, and mostly the same ones for
    engines of other contexts (docs/log/2026-11-28-fewer-cache-lengths.md).
    """
    last = -(-max_length // ROUND) * ROUND
    steps = (
        2**k * quarters // 4
        for k in range(SMALLEST_BUCKET.bit_length() - 1, last.bit_length())
        for quarters in ((4, 6) if k < 10 else (4, 5, 6, 7))
    )
    return (*(n for n in steps if n <= last * 8 // 9), last)


def narrowest_prefill(buckets: Sequence[int], splash: bool) -> int:
    """Smallest prefill width. Each width compiles one prefill program, and each (width, cache
    length) pair one insert program, so few widths are better.
    """
    if splash:
        return SMALLEST_SPLASH
    return SMALLEST_PREFILL * (2 if buckets[0] >= SMALLEST_BUCKET else 1)


def check_buckets(buckets: Sequence[int] | None, max_length: int) -> tuple[int, ...]:
    """The buckets, or the default ones. ValueError where they do not grow up to max_length."""
    if buckets is None:
        return default_buckets(max_length)
    buckets = tuple(buckets)
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] != max_length:
        raise ValueError(f"buckets {buckets}: wanted growing lengths up to {max_length}")
    return buckets
