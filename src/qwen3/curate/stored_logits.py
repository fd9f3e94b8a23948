"""A teacher's top-k logits with their normaliser, stored beside the tokens they belong to.

With the normaliser the k ids and one bucket for all other ids make a whole distribution; a
truncated one without that tail is not a distribution, and a KL to it has another optimum. One .npz
holds all sequences, in float32, with the teacher's name and the temperature of its softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import jax
import numpy as np

from qwen3.data.atomic import replacing
from qwen3.data.rows import TokenSequence
from qwen3.ops.chunked import top_k_log_probs
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows

# Of the distribution that predicts each token, 0 at the first: int32 [n, K], [n, K], [n].
FIELDS = ("teacher_ids", "teacher_logits", "teacher_normaliser")
ARRAYS = ("tokens", "mask", "modes", "offsets", *FIELDS)
FACTS = ("teacher", "temperature")


def top_logits(apply: Callable, k: int, *, temperature: float = 1.0) -> Callable:
    """Jitted (params, batch of [B, T] arrays) -> the teacher's FIELDS at every position: ids and
    logits [B, T, K] and normaliser [B, T] of the next token, logits divided by `temperature`.
    apply: as of the losses.

    The vocabulary is read in chunks of rows: nothing of size [T, V] is ever held.
    """

    def top(params: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        rows, length = batch["tokens"].shape
        output = apply(params, batch["tokens"], batch["positions"], batch["segment_ids"])
        log_probs_MK, ids_MK, normaliser_M = top_k_log_probs(
            flatten_rows(output.hidden_BTD), output.head_VD, k, temperature=temperature
        )
        logits_MK = log_probs_MK + normaliser_M[:, None]
        values = (ids_MK, logits_MK, normaliser_M)
        return {
            name: unflatten_rows(value, rows, length)
            for name, value in zip(FIELDS, values, strict=True)
        }

    return jax.jit(top)


def write(
    path: str | Path, sequences: Sequence[TokenSequence], *, teacher: str, temperature: float
) -> None:
    """One .npz, whole or not at all.

    teacher: what a reader should know it by. temperature: that of `top_logits`. Raises ValueError
    for tokens with another weight than 0 and 1.
    """
    if any(np.any(sequence.weights % 1) or sequence.weights.max() > 1 for sequence in sequences):
        raise ValueError(f"{path}: stored logits have no weights but 0 and 1")
    arrays: dict[str, Any] = {
        "tokens": np.concatenate([sequence.tokens for sequence in sequences]),
        "mask": np.concatenate([sequence.weights for sequence in sequences]).astype(np.int8),
        "modes": np.array([sequence.mode for sequence in sequences], np.int8),
        "offsets": np.cumsum([0, *(len(sequence.tokens) for sequence in sequences)]),
        "teacher": np.array(teacher),
        "temperature": np.array(temperature),
    }
    for name in FIELDS:
        arrays[name] = np.concatenate([sequence.fields[name] for sequence in sequences])
    with replacing(path) as file:
        np.savez(file, **arrays)


def read(path: str | Path, *, temperature: float, vocab: int) -> list[TokenSequence]:
    """The sequences that `write` wrote, for a loss at `temperature` over `vocab` ids.

    Raises ValueError naming a file that is damaged, what another file lacks (the teacher and the
    temperature too), for another temperature, and for ids that are not below `vocab`, with their
    place: inside the loss they would go unnoticed.
    """
    arrays = _arrays(path)
    if lacking := sorted({*ARRAYS, *FACTS} - set(arrays)):
        raise ValueError(f"{path} lacks {lacking}; stored logits have them")
    if not str(arrays["teacher"]):
        raise ValueError(f"{path} does not say whose logits it stores: its teacher is ''")
    if float(arrays["temperature"]) != temperature:
        raise ValueError(
            f"{path} stores logits of {arrays['teacher']} at temperature "
            f"{float(arrays['temperature'])}; the loss takes them at {temperature}"
        )
    spans = list(map(slice, arrays["offsets"][:-1], arrays["offsets"][1:]))
    for name in ("tokens", "teacher_ids"):
        _check_ids(path, name, arrays[name], spans, vocab)
    return [
        TokenSequence(
            arrays["tokens"][span],
            arrays["mask"][span].astype(np.float32),
            int(mode),
            {name: arrays[name][span] for name in FIELDS},
        )
        for span, mode in zip(spans, arrays["modes"], strict=True)
    ]


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file. Raises ValueError naming one that is damaged."""
    try:
        with fsspec.open(str(path), "rb") as packed, np.load(packed) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy, zipfile and zlib have a dozen kinds between them
        raise ValueError(f"{path} is no whole .npz file ({error})") from error


def _check_ids(
    path: str | Path, name: str, ids: np.ndarray, spans: Sequence[slice], vocab: int
) -> None:
    wrong = (ids < 0) | (ids >= vocab)
    for number, span in enumerate(spans):
        if wrong[span].any():
            bad = ids[span][wrong[span]][0]
            raise ValueError(
                f"{path}, sequence {number}: {name} has id {bad}, not 0 to {vocab - 1}"
            )
