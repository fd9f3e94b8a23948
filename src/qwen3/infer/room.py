"""How much an engine's caches hold: their lengths, and how many slots each length leaves.

Pure arithmetic. All caches have one length, taken from a few buckets; slots x length never exceed
`cache_tokens`, so long answers leave fewer slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The smallest prefill batch; splash attention reads multiples of 128 tokens.
SMALLEST_PREFILL, SMALLEST_SPLASH = 32, 128


@dataclass(frozen=True)
class Room:
    """slots: most rows, a multiple of `ways`, which the mesh divides. buckets: growing lengths up
    to max_length. block: most tokens between two looks of the host. smallest: prefill batch.
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


def lengths(max_length: int, step: int = 64) -> tuple[int, ...]:
    """Cache buckets: by `step` up to 8 steps, then by an eighth more, rounded to steps."""
    found = [min(step, max_length)]
    while found[-1] < max_length:
        grown = found[-1] + max(step, found[-1] // 8 // step * step)
        found.append(min(grown, max_length))
    return tuple(found)


def checked(buckets: Sequence[int] | None, max_length: int) -> tuple[int, ...]:
    """The buckets, or those of `lengths`; ValueError where they do not grow up to max_length."""
    if buckets is None:
        return lengths(max_length)
    buckets = tuple(buckets)
    if not buckets or list(buckets) != sorted(set(buckets)) or buckets[-1] != max_length:
        raise ValueError(f"buckets {buckets}: wanted growing lengths up to {max_length}")
    return buckets
