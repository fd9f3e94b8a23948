"""How much an engine's caches hold: their lengths, and how many slots each length leaves.

Pure arithmetic. All caches have one length, taken from a few buckets; slots x length never exceed
`cache_tokens`, so long answers leave fewer slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The narrowest prefill batch; splash attention reads multiples of 128 tokens.
SMALLEST_PREFILL, SMALLEST_SPLASH = 32, 128
# Cache lengths of an engine's own choice.
SMALLEST_BUCKET, ROUND = 128, 64


@dataclass(frozen=True)
class CacheLengths:
    """slots: most rows, a multiple of `ways`, which the mesh divides. buckets: growing lengths, the
    last for whole contexts. block: most tokens between two looks of the host. smallest: prefill
    batch.
    """

    slots: int
    ways: int
    buckets: tuple[int, ...]
    cache_tokens: int
    block: int
    smallest: int = SMALLEST_PREFILL

    def __post_init__(self):
        least = self.ways * self.buckets[-1]
        if self.cache_tokens < least:
            raise ValueError(
                f"cache_tokens {self.cache_tokens} cannot hold {self.ways} answers of "
                f"{self.buckets[-1]} tokens; wanted at least {least}"
            )

    @property
    def tight(self) -> bool:
        """Whether the longest answers leave fewer slots than there are."""
        return self.rows_at(self.buckets[-1]) < self.slots

    def rows_at(self, length: int) -> int:
        """How many slots caches of this length leave."""
        return min(self.slots, self.cache_tokens // length) // self.ways * self.ways

    def target(self, longest: int, current: int) -> int:
        """The shortest cache for one more token of the longest answer; a cache of `current` places
        is cut only where a whole block fits into the shorter one.
        """
        wanted = self._bucket(longest)
        if wanted >= current:
            return wanted
        return min(self._bucket(min(longest + self.block, self.buckets[-1])), current)

    def width(self, tokens: int) -> int:
        """Length of the prefill batch for a prompt: `smallest` times a power of two, or times what
        the whole context needs.
        """
        width = self.smallest
        while width < tokens:
            width *= 2
        return min(width, -(-self.buckets[-1] // self.smallest) * self.smallest)

    def _bucket(self, length: int) -> int:
        return next(b for b in self.buckets if b >= length)


def lengths(max_length: int) -> tuple[int, ...]:
    """Cache buckets: 128, 192, 256, 384, 512, 768 and from 1,024 on four an octave; the last is
    max_length, rounded up to 64. Few, as each is a program to compile, and mostly the same ones for
    engines of other lengths.
    """
    last = -(-max_length // ROUND) * ROUND
    steps = (
        2**k * quarters // 4
        for k in range(SMALLEST_BUCKET.bit_length() - 1, last.bit_length())
        for quarters in ((4, 6) if k < 10 else (4, 5, 6, 7))
    )
    return (*(n for n in steps if n <= last * 8 // 9), last)


def narrowest(buckets: Sequence[int], splash: bool) -> int:
    """Of prefill batches: every width is a program, and so is every pair of width and bucket."""
    if splash:
        return SMALLEST_SPLASH
    return SMALLEST_PREFILL * (2 if buckets[0] >= SMALLEST_BUCKET else 1)


def checked(buckets: Sequence[int] | None, max_length: int) -> tuple[int, ...]:
    """The buckets, or those of `lengths`; ValueError where they do not grow up to max_length."""
    if buckets is None:
        return lengths(max_length)
    buckets = tuple(buckets)
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] != max_length:
        raise ValueError(f"buckets {buckets}: wanted growing lengths up to {max_length}")
    return buckets
