"""Retrieval by length: documents that end in a look-up whose value stands far above (RULER's
simplest task). Right if greedy decoding would write the value next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.eval import intervals


class Needle(NamedTuple):
    """prompt: text that ends where `value` must follow."""

    prompt: str
    value: str


class Needles:
    """accuracy(params, needles) of one model.

    apply(params, tokens, positions, segment_ids) -> Output. widths: lengths that rows are padded
    to, the fewer the fewer programs; batch: rows at a time. Each token of the value is predicted
    from the right ones before it, all of which greedy decoding gets right exactly if this does.
    """

    def __init__(self, apply: Callable, tokenizer, *, widths: Sequence[int], batch: int = 8):
        self._tokenizer, self._widths, self._batch = tokenizer, sorted(widths), batch

        @jax.jit
        def hits(params, tokens, lengths, counts):
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            output = apply(params, tokens, positions, (positions < lengths[:, None]).astype(int))
            logits = output.hidden_BTD[:, :-1].astype(jnp.float32) @ output.head_VD.T
            right = logits.argmax(-1) == tokens[:, 1:]
            asked = (positions[:, 1:] < lengths[:, None]) & (
                positions[:, 1:] >= (lengths - counts)[:, None]
            )
            return jnp.all(right | ~asked, axis=1)

        self._hits = hits

    def accuracy(self, params: Any, needles: Sequence[Needle]) -> intervals.Estimate:
        """Share of needles whose whole value is right. ValueError for one longer than any width."""
        found = 0
        for at in range(0, len(needles), self._batch):
            part = needles[at : at + self._batch]
            hits = self._hits(params, *self._arrays(part))
            found += int(np.asarray(hits)[: len(part)].sum())
        return intervals.share(found, len(needles))

    def _arrays(self, part):
        """(tokens [batch, width], lengths [batch], value lengths [batch]), filled with no rows."""
        values = [self._tokenizer.encode(each.value) for each in part]
        rows = [
            [*self._tokenizer.encode(each.prompt), *value]
            for each, value in zip(part, values, strict=True)
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
