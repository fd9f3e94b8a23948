"""Token sequences -> packed training rows, and values of rows back to their sequences.

Tokens are the interface of post-training: a sequence keeps what was sampled or rendered and a
weight for each token. Position t of a row predicts token t + 1 of its sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qwen3.data.packing import best_fit

# What a batch is: the dtype of every [batch, length] array that the losses read.
FIELDS = {
    "tokens": np.int32,
    "targets": np.int32,
    "weights": np.float32,
    "positions": np.int32,
    "segment_ids": np.int32,
}
POST_TRAINING_FIELDS = {**FIELDS, "mode": np.int32}  # and the thinking mode of each token
POLICY_FIELDS = {name: np.float32 for name in ("advantages", "old_logp", "rollout_logp")}


@dataclass
class TokenSequence:
    """tokens: int [n], n >= 2. weights: float [n], of the loss at predicting each token (that of
    the first is never used). mode: index into losses.rows.MODES. fields: more values per token,
    [n] or [n, K], moved like the weights.
    """

    tokens: np.ndarray
    weights: np.ndarray
    mode: int = 1
    fields: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self):
        """Slots that it takes in a row: the last token is only predicted."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class RowLayout:
    """Where each sequence lies: its row and first slot, both int [sequences]; rows there are."""

    row: np.ndarray
    start: np.ndarray
    rows: int


def layout(lengths: Sequence[int], length: int) -> RowLayout:
    """Best-fit packing of sequences of `lengths` slots into rows of `length`.

    Raises ValueError for a sequence that is longer than a row, or has no token to predict.
    """
    lengths = np.asarray(lengths, np.int64)
    for bad in np.flatnonzero((lengths > length) | (lengths < 1)):
        raise ValueError(f"sequence {bad} needs {lengths[bad]} slots; a row has 1 to {length}")
    row = best_fit(lengths, length)
    start, used = np.zeros(len(lengths), np.int64), {}
    for index, where in enumerate(row.tolist()):
        start[index] = used.get(where, 0)
        used[where] = start[index] + lengths[index]
    return RowLayout(row, start, len(used))


def fill(
    sequences: Sequence[TokenSequence], where: RowLayout, length: int, *, pad: int, rows: int
) -> dict:
    """The batch of [rows, length] arrays that the losses take; rows without a sequence are padding.

    `pad` is the id at padded places, whose segment and weight are 0.
    """
    assert where.rows <= rows, (where.rows, rows)
    batch = {name: np.zeros((rows, length), dtype) for name, dtype in POST_TRAINING_FIELDS.items()}
    batch["tokens"][:] = batch["targets"][:] = pad
    for name, value in (sequences[0].fields if sequences else {}).items():
        kind = np.int32 if np.issubdtype(value.dtype, np.integer) else np.float32
        batch[name] = np.zeros((rows, length, *value.shape[1:]), kind)
    segments = np.zeros(rows, np.int64)
    for sequence, row, start in zip(sequences, where.row, where.start, strict=True):
        slots = (row, slice(start, start + len(sequence)))
        segments[row] += 1
        batch["tokens"][slots] = sequence.tokens[:-1]
        batch["targets"][slots] = sequence.tokens[1:]
        batch["weights"][slots] = sequence.weights[1:]
        batch["positions"][slots] = np.arange(len(sequence))
        batch["segment_ids"][slots] = segments[row]
        batch["mode"][slots] = sequence.mode
        for name, value in sequence.fields.items():
            batch[name][slots] = value[1:]
    return batch


def read_back(
    values: np.ndarray, sequences: Sequence[TokenSequence], where: RowLayout
) -> list[np.ndarray]:
    """Of [rows, length] values each sequence's own, [n]; that of its first token is 0."""
    found = []
    for sequence, row, start in zip(sequences, where.row, where.start, strict=True):
        mine = values[row, start : start + len(sequence)]
        found.append(np.concatenate([np.zeros(1, values.dtype), mine]))
    return found


def round_up(rows: int, multiple: int, most: int) -> int:
    """`rows` as one of at most four sizes, each a multiple of `multiple`: few shapes to compile.

    most: the largest number of rows there can be.
    """
    grain = -(-most // (4 * multiple)) * multiple
    return max(grain, -(-rows // grain) * grain)
