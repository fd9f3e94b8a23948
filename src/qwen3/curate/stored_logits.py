"""A teacher's top-k logits with their normaliser, stored beside the tokens they belong to.

With the normaliser the k ids and one tail bucket are a whole distribution (post-training notes 2.1:
a cut one without its tail is none). float32; one .npz for all sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qwen3.model import transformer

FIELDS = ("teacher_ids", "teacher_logits", "teacher_normaliser")


class Stored(NamedTuple):
    """tokens: int32 [n]. mask: 0 or 1 [n]. mode: index into losses.rows.MODES. fields:
    teacher_ids int32 [n, K], teacher_logits [n, K], teacher_normaliser [n]: of the distribution
    that predicts each token, 0 at the first.
    """

    tokens: np.ndarray
    mask: np.ndarray
    mode: int
    fields: dict[str, np.ndarray]


def top_logits(apply: Callable, k: int, *, temperature: float = 1.0) -> Callable:
    """Jitted (params, tokens [B, T]) -> ids [B, T, K], logits [B, T, K], normaliser [B, T] of the
    next token, at `temperature`. apply: as of the losses.
    """

    def top(params, tokens):
        rows, length = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(length), (rows, length))
        output = apply(params, tokens, positions, jnp.ones_like(tokens))
        scaled = transformer.logits(output) / temperature
        logits, ids = jax.lax.top_k(scaled, k)
        return ids, logits, jax.nn.logsumexp(scaled, axis=-1)

    return jax.jit(top)


def score(
    top: Callable, params, samples: Sequence[tuple[Sequence[int], Sequence[int], int]], *, length
) -> list[Stored]:
    """Stored logits of (ids, mask, mode) samples, padded to `length`; ValueError beyond it."""
    found = []
    for ids, mask, mode in samples:
        if len(ids) > length:
            raise ValueError(f"a sample has {len(ids)} tokens, more than length {length}")
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(ids)] = ids
        values = [np.asarray(x[0, : len(ids) - 1]) for x in top(params, padded)]
        moved = [np.concatenate([np.zeros_like(x[:1]), x]) for x in values]
        tokens = np.array(ids, np.int32)
        fields = dict(zip(FIELDS, moved, strict=True))
        found.append(Stored(tokens, np.array(mask, np.int8), mode, fields))
    return found


def write(path: str | Path, found: Sequence[Stored]) -> None:
    joined = {name: np.concatenate([each.fields[name] for each in found]) for name in FIELDS}
    np.savez(
        path,
        tokens=np.concatenate([each.tokens for each in found]),
        mask=np.concatenate([each.mask for each in found]),
        modes=np.array([each.mode for each in found], np.int8),
        offsets=np.cumsum([0, *(len(each.tokens) for each in found)]),
        **joined,
    )


def read(path: str | Path) -> list[Stored]:
    """What `write` wrote. Raises ValueError naming what another file lacks."""
    with np.load(path) as file:
        lacking = sorted({"tokens", "mask", "modes", "offsets", *FIELDS} - set(file.files))
        if lacking:
            raise ValueError(f"{path} lacks {lacking}; stored logits have them")
        arrays = {name: file[name] for name in file.files}
    spans = list(map(slice, arrays["offsets"][:-1], arrays["offsets"][1:]))
    return [
        Stored(arrays["tokens"][s], arrays["mask"][s], int(mode), {n: arrays[n][s] for n in FIELDS})
        for s, mode in zip(spans, arrays["modes"], strict=True)
    ]
