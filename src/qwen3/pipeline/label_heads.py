"""Cheap heads that learn a model's labels: hashed n-grams and logistic regression (scikit-learn).

A model labels a sample; heads label the rest at megabytes a second and core, as FineWeb-Edu does
for its one label. Agreement (Cohen's kappa) and calibration are measured on documents that neither
the weights nor the temperature saw.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash

from qwen3.data.atomic import replacing
from qwen3.data.unpacked import chunks
from qwen3.pipeline.annotation import LABELS, shown
from qwen3.pipeline.text_record import TextRecord

BUCKETS = 1 << 16  # of hashed words and pairs of words
FEWEST = 50  # labelled documents to learn from
SHARES = (0.8, 0.1)  # of the documents for weights and for the temperature; the rest measures
TEMPERATURES = np.geomspace(0.1, 10, 41)
BINS = 10  # of confidence, for the calibration error
INVERSE_PENALTY = 3.0  # C of the regression


@dataclasses.dataclass(frozen=True)
class HeadScore:
    """What a head is worth on held-out documents."""

    label: str
    documents: int  # held out
    accuracy: float
    kappa: float  # Cohen's, 0 for guessing by frequency; quadratic weights for numbers
    calibration: float  # expected calibration error of the confidence
    uncalibrated: float  # the same at temperature 1

    def line(self) -> str:
        return (
            f"{self.label:<15} {self.documents:>6} held out, accuracy {self.accuracy:.3f}, kappa "
            f"{self.kappa:.3f}, calibration error {self.calibration:.3f} "
            f"(before {self.uncalibrated:.3f})"
        )


@dataclasses.dataclass(frozen=True)
class LabelHead:
    """One label's regression: logits = features @ weights + bias, over a temperature."""

    classes: tuple[str, ...]
    weights: np.ndarray  # float32 [BUCKETS, classes]
    bias: np.ndarray  # float32 [classes]
    temperature: float

    def probabilities(self, features: Any) -> np.ndarray:
        """float64 [documents, classes] of sparse features [documents, BUCKETS]."""
        return _softmax(self.logits(features) / self.temperature)

    def logits(self, features: Any) -> np.ndarray:
        return np.asarray(features @ self.weights, np.float64) + self.bias


@functools.cache
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer  # a second to import

    return HashingVectorizer(
        n_features=BUCKETS, ngram_range=(1, 2), alternate_sign=False, token_pattern=r"\w+"
    )


def features(texts: Iterable[str]) -> Any:
    """Sparse [documents, BUCKETS]: what the annotator was shown, as hashed words and pairs."""
    return _vectorizer().transform(shown(text) for text in texts)


def train(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str] = tuple(LABELS.values())
) -> tuple[dict[str, LabelHead], list[HeadScore]]:
    """Heads and their scores from documents {id, text, labels}.

    Documents are split by a hash of their ids. Raises ValueError for too few of them, and for a
    label that has one value only among those that are learned from.
    """
    heads, scores = {}, []
    for label in labels:
        known = [row for row in rows if row.get(label) is not None]
        if len(known) < FEWEST:
            raise ValueError(f"{len(known)} documents with {label}; wanted are {FEWEST} or more")
        share = np.array(
            [xxhash.xxh3_64_intdigest(str(row["id"]).encode()) / 2**64 for row in known]
        )
        split = np.searchsorted(np.cumsum(SHARES), share, side="right")  # 0, 1 or 2
        matrix = features(str(row["text"]) for row in known)
        values = np.array([str(row[label]) for row in known])
        heads[label], score = _fit(label, matrix, values, split)
        scores.append(score)
    return heads, scores


def _fit(
    label: str, matrix: Any, values: np.ndarray, split: np.ndarray
) -> tuple[LabelHead, HeadScore]:
    from sklearn.linear_model import LogisticRegression

    classes = np.unique(values[split == 0])
    if len(classes) < 2:
        raise ValueError(f"label {label} is {classes.tolist()} throughout: nothing to learn")
    model = LogisticRegression(C=INVERSE_PENALTY, max_iter=300)
    model.fit(matrix[split == 0], values[split == 0])
    weights, bias = model.coef_, model.intercept_
    if len(classes) == 2:  # one row for both
        weights, bias = np.concatenate([-weights, weights]) / 2, np.array([-bias[0], bias[0]]) / 2
    head = LabelHead(tuple(classes), weights.T.astype(np.float32), bias.astype(np.float32), 1.0)
    # A class that was not learned cannot be right at any temperature.
    tuned = (split == 1) & np.isin(values, classes)
    temperature = _temperature(head.logits(matrix[tuned]), np.searchsorted(classes, values[tuned]))
    calibrated = dataclasses.replace(head, temperature=temperature)
    held = split == 2
    return calibrated, _score(label, head, calibrated, matrix[held], values[held])


def _temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood; 1 without documents."""
    if not len(targets):
        return 1.0
    rows = np.arange(len(targets))
    losses = [-np.log(_softmax(logits / t)[rows, targets] + 1e-12).mean() for t in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def _score(
    label: str, head: LabelHead, calibrated: LabelHead, matrix: Any, values: np.ndarray
) -> HeadScore:
    from sklearn.metrics import cohen_kappa_score

    probabilities = calibrated.probabilities(matrix)
    guesses = np.array(calibrated.classes)[probabilities.argmax(1)]
    is_number = all(name.lstrip("-").isdigit() for name in calibrated.classes)
    order = sorted({*guesses, *values}, key=float if is_number else str)
    weights = "quadratic" if is_number else None
    kappa = cohen_kappa_score(values, guesses, labels=order, weights=weights)
    right = guesses == values
    return HeadScore(
        label,
        len(values),
        float(right.mean()),
        float(kappa),
        calibration_error(probabilities.max(1), right),
        calibration_error(head.probabilities(matrix).max(1), right),
    )


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy over BINS bins of confidence, by their sizes.

    >>> calibration_error(np.array([0.75] * 4), np.array([True, True, True, False]))
    0.0
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = [
        abs(confidence[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    return float(sum(gaps))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def save(heads: Mapping[str, LabelHead], path: str) -> None:
    """Write heads as .npz, whole or not at all."""
    arrays: dict[str, Any] = {}
    for label, head in heads.items():
        arrays[f"{label}/classes"] = np.array(head.classes)
        arrays[f"{label}/weights"] = head.weights.astype(np.float16)
        arrays[f"{label}/bias"] = head.bias
        arrays[f"{label}/temperature"] = np.array(head.temperature)
    with replacing(path) as file:
        np.savez_compressed(file, **arrays)


@functools.lru_cache(2)
def load(path: str) -> dict[str, LabelHead]:
    """Read heads from a path or URL. Raises ValueError for another kind of file."""
    try:
        with np.load(io.BytesIO(b"".join(chunks(path))), allow_pickle=False) as stored:
            labels = [name.removesuffix("/classes") for name in stored if name.endswith("/classes")]
            heads = {
                label: LabelHead(
                    tuple(map(str, stored[f"{label}/classes"])),
                    stored[f"{label}/weights"].astype(np.float32),
                    stored[f"{label}/bias"],
                    float(stored[f"{label}/temperature"]),
                )
                for label in labels
            }
    except (KeyError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: not heads of labels ({error})") from error
    if not heads:
        raise ValueError(f"{path}: not heads of labels")
    return heads


def build(model: str, least: float = 0.0) -> Callable[[TextRecord], TextRecord]:
    """The step: each head's label and `LABEL_confidence`.

    model: heads that `qwen3 data heads` wrote. least: confidence below which a label is left out.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"heads: least {least} is not in [0, 1]")
    heads = load(model)

    def apply(record: TextRecord) -> TextRecord:
        row = features([record.text])
        for label, head in heads.items():
            [shares] = head.probabilities(row)
            best = int(shares.argmax())
            if shares[best] >= least:
                value: Any = head.classes[best]
                value = float(value) if value.lstrip("-").isdigit() else value
                confidence = round(float(shares[best]), 3)
                record = record.labelled(**{label: value, f"{label}_confidence": confidence})
        return record

    return apply
