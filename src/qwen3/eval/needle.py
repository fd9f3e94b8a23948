"""Retrieval by length: documents that end in a look-up whose value stands far above (the simplest
task of RULER, arXiv 2404.06654). Right if greedy decoding would write the value next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.eval import intervals


class Encoder(Protocol):
    """The part of a tokenizer that needles need."""

    @property
    def pad(self) -> int: ...

    def encode(self, text: str) -> list[int]: ...


class Needle(NamedTuple):
    """A text that ends where `value` must follow."""

    prompt: str
    value: str


class Needles:
    """accuracy(params, needles) of one model.

    apply(params, tokens, positions, segment_ids) -> Output. widths: lengths that rows are padded
    to, the fewer the fewer programs; batch: rows at a time. Each token of the value is predicted
    from the right ones before it, all of which greedy decoding gets right exactly if this does.
    """

    def __init__(
        self, apply: Callable, tokenizer: Encoder, *, widths: Sequence[int], batch: int = 8
    ):
        self._tokenizer, self._widths, self._batch = tokenizer, sorted(widths), batch

        @jax.jit
        def hits(params: Any, tokens: jax.Array, lengths: jax.Array, counts: jax.Array) -> Any:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            output = apply(params, tokens, positions, (positions < lengths[:, None]).astype(int))
            logits = output.hidden_BTD[:, :-1].astype(jnp.float32) @ output.head_VD.T
            right = logits.argmax(-1) == tokens[:, 1:]
            # The value is the last `counts` tokens of the row.
            of_value = (positions[:, 1:] < lengths[:, None]) & (
                positions[:, 1:] >= (lengths - counts)[:, None]
            )
            return jnp.all(right | ~of_value, axis=1)

        self._hits = hits

    def accuracy(self, params: Any, needles: Sequence[Needle]) -> intervals.Estimate:
        """Share of needles whose whole value is right. ValueError for one longer than any width."""
        right = 0
        for start in range(0, len(needles), self._batch):
            part = needles[start : start + self._batch]
            hits = self._hits(params, *self._arrays(part))
            right += int(np.asarray(hits)[: len(part)].sum())
        return intervals.share(right, len(needles))

    def _arrays(self, part: Sequence[Needle]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(tokens [batch, width], lengths [batch], value lengths [batch]); spare rows are empty."""
        values = [self._tokenizer.encode(needle.value) for needle in part]
        rows = [
            [*self._tokenizer.encode(needle.prompt), *value]
            for needle, value in zip(part, values, strict=True)
        ]
        longest = max(map(len, rows))
        if longest > self._widths[-1]:
            raise ValueError(f"a needle of {longest} tokens; rows have at most {self._widths[-1]}")
        width = next(w for w in self._widths if w >= longest)
        tokens = np.full((self._batch, width), self._tokenizer.pad, np.int32)
        lengths, counts = (np.zeros(self._batch, np.int32) for _ in range(2))
        for i, (row, value) in enumerate(zip(rows, values, strict=True)):
            tokens[i, : len(row)], lengths[i], counts[i] = row, len(row), len(value)
        return tokens, lengths, counts
