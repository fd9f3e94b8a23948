"""Token sequences -> packed training rows (a batch), and values of rows back to their sequences.

Tokens are the interface of post-training: a sequence keeps the ids that were sampled or rendered
and a weight for each (the loss mask). Slot t of a row predicts token t + 1 of its sequence.
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
POST_TRAINING_FIELDS = {**FIELDS, "mode": np.int32}  # adds the thinking mode of each token
# What GRPO adds: advantages, log-probs of the policy before the update and of the sampler.
POLICY_FIELDS = {name: np.float32 for name in ("advantages", "old_logp", "rollout_logp")}


@dataclass
class TokenSequence:
    """Tokens of one rendering or rollout, and what training needs to know of each."""

    tokens: np.ndarray  # int [n], n >= 2
    weights: np.ndarray  # float [n], of the loss at predicting each; the first is never used
    mode: int = 1  # index into losses.forward.MODES
    # More values per token, [n] or [n, K], moved like the weights.
    fields: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        """Slots of a row that the sequence takes: its last token is only predicted."""
        return len(self.tokens) - 1


@dataclass(frozen=True)
class RowLayout:
    """Where each sequence lies in the rows of a batch."""

    row: np.ndarray  # int [sequences]
    start: np.ndarray  # int [sequences], the first slot in that row
    rows: int  # number of rows


def layout(lengths: Sequence[int], length: int) -> RowLayout:
    """Best-fit packing of sequences of `lengths` slots into rows of `length`.

    Raises ValueError for a sequence that is longer than a row, or has no token to predict.
    """
    slots = np.asarray(lengths, np.int64)
    for bad in np.flatnonzero((slots > length) | (slots < 1)):
        raise ValueError(f"sequence {bad} needs {slots[bad]} slots; a row has 1 to {length}")
    rows = best_fit(slots, length)
    start = np.zeros(len(slots), np.int64)
    used: dict[int, int] = {}
    for index, row in enumerate(rows.tolist()):
        start[index] = used.get(row, 0)
        used[row] = start[index] + slots[index]
    return RowLayout(rows, start, len(used))


def fill(
    sequences: Sequence[TokenSequence], where: RowLayout, length: int, *, pad: int, rows: int
) -> dict[str, np.ndarray]:
    """The batch of [rows, length] arrays that the losses take; rows without a sequence are padding.

    pad: the id at padded places, whose segment and weight are 0.
    """
    assert where.rows <= rows, (where.rows, rows)
    batch: dict[str, np.ndarray] = {
        name: np.zeros((rows, length), dtype) for name, dtype in POST_TRAINING_FIELDS.items()
    }
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
    """The values [n, ...] of each sequence from values [rows, length, ...] of a batch.

    Slot t holds the value of predicting token t + 1, so that of the first token is 0.
    """
    by_sequence = []
    for sequence, row, start in zip(sequences, where.row, where.start, strict=True):
        predicted = values[row, start : start + len(sequence)]
        by_sequence.append(np.concatenate([np.zeros_like(predicted[:1]), predicted]))
    return by_sequence


def round_up(rows: int, multiple: int, most: int) -> int:
    """`rows` rounded up to one of at most four multiples of `multiple`: few shapes to compile.

    most: the largest number of rows that a batch can have.
    """
    grain = -(-most // (4 * multiple)) * multiple
    return max(grain, -(-rows // grain) * grain)
