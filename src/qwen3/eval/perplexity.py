"""Held-out loss by domain and by position in the document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from qwen3 import hosts
from qwen3.data.batches import AnyCorpus, Batches
from qwen3.data.mixture import Stage
from qwen3.losses.forward import token_log_probs
from qwen3.train.placement import local_rows, place


class HeldOut:
    """held_out(params): loss of a model on held-out corpora, each packed once into rows.

    A position counts from the start of its document, or of its piece where a document is cut into
    rows.

    Args:
        apply: (params, tokens, positions, segment_ids) -> Output.
        corpora: domain -> Corpus.
        length: tokens of a row.
        batch: rows at a time, over the mesh.
        edges: first positions of the buckets, rising from 0; the last bucket ends at `length`.
        rows: at most so many a domain, always the same ones; 0 for all.
    """

    def __init__(
        self,
        apply: Callable,
        corpora: Mapping[str, AnyCorpus],
        mesh: Mesh,
        *,
        length: int,
        batch: int,
        vocab: int,
        edges: Sequence[int] = (0,),
        rows: int = 0,
    ):
        self._edges = check_edges(edges, length)
        self._mesh, self._batch, self._length, self._limit = mesh, batch, length, rows
        self._sets = {
            name: Batches(
                Stage(f"held out {name}", {name: 1}, length, batch, repeat_small=True),
                {name: corpus},
                0,
                vocab=vocab,
            )
            for name, corpus in corpora.items()
        }
        self._sums = jax.jit(lambda params, part: bucket_sums(apply, params, part, self._edges))

    def __call__(self, params: Any) -> dict[str, dict]:
        """{domain: {"loss": nats a token, "tokens": n, "by_position": {"0-128": loss, ...}}}.

        A bucket that no token falls into is left out.
        """
        return {name: self._table(self._bucket_sums(params, name)) for name in self._sets}

    def _bucket_sums(self, params: Any, name: str) -> np.ndarray:
        """float64 [2, buckets]: summed loss and number of tokens of one domain."""
        batches, local = self._sets[name], local_rows(self._mesh, self._batch)
        available = batches.report(0)["epoch_rows"][name]
        count = min(available, self._limit or available)
        sums = []
        for first in range(0, count, self._batch):
            hosts.alive()
            numbers = first + local
            part = batches.rows(0, (numbers % count).tolist())
            part["weights"][numbers >= count] = 0  # the last batch is filled up, not counted
            sums.append(self._sums(params, place(part, self._mesh, self._batch)))
            sums[-2:][0].block_until_ready()  # one block ahead of devices: `alive` tells of theirs
        return np.sum(np.asarray(jax.device_get(sums), np.float64), axis=0)

    def _table(self, sums: np.ndarray) -> dict:
        (losses, tokens), ends = sums, (*self._edges[1:], self._length)
        spans = [f"{low}-{high}" for low, high in zip(self._edges, ends, strict=True)]
        rows = [row for row in zip(spans, losses, tokens, strict=True) if row[2]]
        return {
            "loss": float(losses.sum() / max(tokens.sum(), 1)),
            "tokens": int(tokens.sum()),
            "by_position": {span: float(loss / count) for span, loss, count in rows},
        }


def check_edges(edges: Sequence[int], length: int) -> tuple[int, ...]:
    """The edges, or ValueError when they do not rise from 0 to below `length`."""
    edges = tuple(edges)
    if edges[:1] != (0,) or list(edges) != sorted(set(edges)) or edges[-1] >= length:
        raise ValueError(f"position edges {edges} do not rise from 0 to below {length}")
    return edges


def bucket_sums(apply: Callable, params: Any, batch: dict, edges: Sequence[int]) -> jax.Array:
    """float32 [2, buckets]: summed cross-entropy and number of tokens by position."""
    logp_BT, _ = token_log_probs(apply, params, batch)
    used_BT = (batch["weights"] > 0).astype(jnp.float32)
    bucket_BT = jnp.searchsorted(jnp.asarray(edges), batch["positions"], side="right") - 1
    hot_BTX = jax.nn.one_hot(bucket_BT, len(edges)) * used_BT[..., None]
    return jnp.stack([jnp.einsum("BT,BTX->X", -logp_BT, hot_BTX), jnp.sum(hot_BTX, axis=(0, 1))])
