"""The prefix cache: KV caches of prompts, each different prompt prefilled once and kept while a
waiting request needs it. The samples of a prompt (GRPO's group) share one prefill.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from qwen3.infer.cache_lengths import CacheLengths
from qwen3.infer.compiled import CompiledPrograms
from qwen3.infer.request_state import RequestState
from qwen3.infer.slots import KVCache
from qwen3.train import across

ROWS = (8, 1)  # prompts in a prefill batch, times what the mesh divides rows into
AHEAD = 8  # a batch that prefills waiting requests too is at most this part of the caches

Prompts: TypeAlias = dict[bytes, list[int]]  # key of the cache -> token ids
T = TypeVar("T")


def batches(items: Sequence[T], ways: int) -> Iterator[tuple[Sequence[T], int]]:
    """The items in batches, full ones first: (those of one, rows of its arrays)."""
    while items:
        # A mesh divides rows: fill up to its multiple.
        rows = next(r * ways for r in ROWS if r * ways <= len(items) or r == 1)
        yield items[:rows], rows
        items = items[rows:]


class CachedPrefix(NamedTuple):
    """The KV cache of one prompt: a row of a prefilled batch."""

    kv_cache: KVCache  # of the whole batch
    row: int
    width: int  # length of the batch, padding included
    expert_ids: np.ndarray | None  # uint8 [L, P, T, A] of the whole batch, where recorded


class PrefixCache:
    """Call `wait` for each request that is queued and `leave` for each that no longer is.

    stats: counts "prefills" (of prompts) and "prefilled_tokens".
    """

    def __init__(
        self,
        compiled: CompiledPrograms,
        cache_lengths: CacheLengths,
        stats: Counter[str],
        *,
        record_experts: bool,
    ):
        self.compiled, self.cache_lengths, self.stats = compiled, cache_lengths, stats
        self.record_experts = record_experts
        self.entries: dict[bytes, CachedPrefix] = {}
        self.waiting: dict[bytes, set[RequestState]] = {}  # the requests that need an entry

    def wait(self, state: RequestState) -> None:
        self.waiting.setdefault(state.key, set()).add(state)

    def leave(self, state: RequestState) -> None:
        """Drop the prefilled prompt once no waiting request needs it. No harm if called again."""
        key = state.key
        if key in self.waiting:
            self.waiting[key].discard(state)
            if not self.waiting[key]:
                del self.waiting[key]
                self.entries.pop(key, None)

    def clear(self) -> None:
        """Forget what old weights prefilled."""
        self.entries.clear()

    def prefill(
        self, params: Any, states: Sequence[RequestState], ahead: Iterable[RequestState] = ()
    ) -> dict[bytes, Exception]:
        """Prefill the prompts that are not cached, in batches of one width, full ones first.

        Requests of `ahead` fill up a batch that is not full, where it is short beside the caches.
        Returns the error of each key that was not prefilled: one batch that fails, e.g. for memory,
        does not keep the others from being prefilled.
        """
        missing: dict[int, Prompts] = {}
        for state in states:
            if state.key not in self.entries:
                tokens = state.sequence[:-1]
                width = self.cache_lengths.prefill_width(len(tokens))
                missing.setdefault(width, {})[state.key] = tokens
        self._look_ahead(missing, ahead)
        errors: dict[bytes, Exception] = {}
        for width, prompts in missing.items():
            for keys, rows in batches(list(prompts), self.cache_lengths.batch_ways):
                try:
                    self._prefill_batch(params, {key: prompts[key] for key in keys}, rows, width)
                except Exception as error:
                    errors.update(dict.fromkeys(keys, error))
        return errors

    def _look_ahead(self, missing: dict[int, Prompts], ahead: Iterable[RequestState]) -> None:
        """Add to `missing`, width by width, up to the next full batch."""
        full = ROWS[0] * self.cache_lengths.batch_ways
        free = {
            width: -len(prompts) % full
            for width, prompts in missing.items()
            if full * width <= self.cache_lengths.cache_tokens // AHEAD
        }
        for state in itertools.islice(ahead, 4 * full):
            if not any(free.values()):
                return
            tokens, key = state.sequence[:-1], state.key
            width = self.cache_lengths.prefill_width(len(tokens))
            if free.get(width) and key not in self.entries and key not in missing[width]:
                missing[width][key] = tokens
                free[width] -= 1

    def warm_up(self, params: Any, widths: Sequence[int]) -> list[tuple[int, KVCache]]:
        """Compile every shape of a prefill batch: (width, KV cache of an empty batch) of each."""
        ways = self.cache_lengths.batch_ways
        batches = []
        for width, rows in itertools.product(widths, ROWS):
            tokens = np.zeros((rows * ways, width), np.int32)
            lengths = np.zeros(rows * ways, np.int32)
            batches.append((width, self.compiled.prefill(params, tokens, lengths)[0]))
        return batches

    def _prefill_batch(self, params: Any, prompts: Prompts, rows: int, width: int) -> None:
        tokens = np.zeros((rows, width), np.int32)
        lengths = np.zeros(rows, np.int32)
        for row, ids in enumerate(prompts.values()):
            # Padded with a token of its own: masked places have weight 0, but 0 * NaN is NaN, and
            # the embedding of another token need not be finite.
            tokens[row, len(ids) :] = ids[-1] if ids else 0
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
        kv_cache, expert_ids = self.compiled.prefill(params, tokens, lengths)
        experts = across.read(expert_ids).astype(np.uint8) if self.record_experts else None
        for row, key in enumerate(prompts):
            self.entries[key] = CachedPrefix(kv_cache, row, width, experts)
        self.stats["prefills"] += len(prompts)
        self.stats["prefilled_tokens"] += int(lengths.sum())
