"""The prefill of chunks of prompts into pages: which are computed together, and in what shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from qwen3.infer.kv_pages import NO_PAGE
from qwen3.infer.page_layout import PageLayout
from qwen3.infer.prefix_cache import ROWS
from qwen3.infer.request_state import RequestState
from qwen3.train import across


class Chunk(NamedTuple):
    """Tokens of one request that are prefilled next."""

    state: RequestState
    shard: int  # of the pool
    start: int  # tokens before them
    tokens: list[int]
    pages: list[int]  # where they go


class PagePrefill:
    """Batches of few shapes. record_experts: give back the routing of the tokens.

    prefill: (parameters, tokens, lengths, pages, starts and prefix or nothing) -> experts or None,
    which changes the device's pool.
    """

    def __init__(self, layout: PageLayout, prefill: Callable[..., Any], *, record_experts: bool):
        self.layout, self.prefill, self.record_experts = layout, prefill, record_experts

    def run(
        self, params: Any, chunks: Sequence[Chunk]
    ) -> tuple[dict[RequestState, np.ndarray], dict[RequestState, Exception]]:
        """Prefill chunks in batches of one shape, full ones first: (uint8 [places, L, A] of each,
        where recorded, the errors of those that failed).
        """
        groups: dict[tuple[int, int, int], list[list[Chunk]]] = {}
        ways = self.layout.batch_ways
        for chunk in chunks:
            shape = (*self._shape(chunk), self.most_rows(chunk))
            groups.setdefault(shape, [[] for _ in range(ways)])[chunk.shard].append(chunk)
        experts: dict[RequestState, np.ndarray] = {}
        errors: dict[RequestState, Exception] = {}
        for (width, prefix, most), shards in groups.items():
            while any(shards):
                longest = max(map(len, shards))
                rows = next(r for r in ROWS if r <= min(longest, most) or r == 1)
                batch = [shard[:rows] for shard in shards]
                shards = [shard[rows:] for shard in shards]
                try:
                    experts |= self._run_batch(params, batch, rows, width, prefix)
                except Exception as error:
                    errors |= {chunk.state: error for shard in batch for chunk in shard}
        return experts, errors

    @staticmethod
    def most_rows(chunk: Chunk) -> int:
        """Rows of a shard's batches with a chunk, at most. Products of more rows add in another
        order, so the turns of an episode are computed alone, whoever else is there.
        """
        return 1 if chunk.start or chunk.state.request.turn is not None else ROWS[0]

    def _shape(self, chunk: Chunk) -> tuple[int, int]:
        """(tokens, pages before them) of the batches that a chunk may be in."""
        if not chunk.start:
            return self.layout.prefill_width(len(chunk.tokens)), 0
        prefix = self.layout.prefix_width(self.layout.pages_of(chunk.start))
        return self.layout.suffix_width(len(chunk.tokens)), prefix

    def _run_batch(
        self, params: Any, shards: Sequence[Sequence[Chunk]], rows: int, width: int, prefix: int
    ) -> dict[RequestState, np.ndarray]:
        arrays = self.arrays(rows, width, prefix)
        placed = [(i * rows + r, c) for i, shard in enumerate(shards) for r, c in enumerate(shard)]
        for row, chunk in placed:
            tokens, lengths, pages, *behind = arrays
            # Padded with a token of its own: masked places have weight 0, but 0 * NaN is NaN, and
            # the embedding of another token need not be finite.
            tokens[row] = chunk.tokens[-1]
            tokens[row, : len(chunk.tokens)], lengths[row] = chunk.tokens, len(chunk.tokens)
            pages[row, : len(chunk.pages)] = chunk.pages
            if prefix:
                behind[0][row] = chunk.start
                behind[1][row, : len(chunk.state.pages)] = chunk.state.pages
        expert_ids = self.prefill(params, *arrays)
        if not self.record_experts:
            return {}
        experts = across.read(expert_ids).astype(np.uint8)
        return {chunk.state: experts[:, row].swapaxes(0, 1) for row, chunk in placed}

    def arrays(self, rows: int, width: int, prefix: int) -> list[np.ndarray]:
        """The host arrays of an empty prefill batch, `rows` a shard."""
        rows *= self.layout.batch_ways
        pages = np.full((rows, width // self.layout.page_size), NO_PAGE, np.int32)
        arrays = [np.zeros((rows, width), np.int32), np.zeros(rows, np.int32), pages]
        if prefix:
            arrays += [np.zeros(rows, np.int32), np.zeros((rows, prefix), np.int32)]
        return arrays

    def batches(self) -> list[list[np.ndarray]]:
        """The arrays of an empty prefill batch of every shape."""
        widths = self.layout.prefill_widths
        whole = [self.arrays(rows, width, 0) for rows in ROWS for width in widths]
        ends = sorted({widths[0], widths[-1]})
        return whole + [self.arrays(1, w, prefix) for w in ends for prefix in self.layout.prefixes]
