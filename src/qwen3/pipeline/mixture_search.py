"""A search for the mixture of training data at the level of documents.

Documents are grouped into cells by their labels: every word of some (domain, source), bands of
equal tokens of others (quality). A swarm of small models is trained on mixtures of the cells drawn
from a Dirichlet distribution, a log-linear law is fitted to their held-out losses,

    loss(x) = c + exp(b + w . x),   x the share of each cell

(Data Mixing Laws, arXiv 2403.16952; RegMix, arXiv 2407.01492), and the proposal is where rounds of
draws around the best of the round before come to under the law (the cross-entropy method), without
repeating a cell too often or giving it more than any member of the swarm had. Cells are parts of an
ordinary `Stage`, so that all documents of a cell weigh alike and no other sampler is needed.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qwen3.data.corpora import DocumentTable
from qwen3.data.mixture import MixturePart, label_filter
from qwen3.data.unpacked import chunks

CANDIDATES, BEST, ROUNDS = 5_000, 50, 5  # draws of a round under the law, those that lead the next
CONCENTRATION = 8.0  # of the Dirichlet distribution around the natural shares; smaller: farther
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # candidates for the weight decay of the regression
OFFSETS = (0.02, 0.1, 0.3, 1.0, 3.0)  # candidates for min(loss) - c, in nats
SHARE, LOSS = "share:", "loss:"  # beginnings of the columns of a table


@dataclass(frozen=True)
class LabelCell:
    """The documents of a corpus with some labels."""

    name: str  # such as "law, quality 2"
    corpus: str  # name of the corpus
    keep: Mapping[str, Sequence]  # as in `MixturePart.keep`
    tokens: int  # that the corpus holds of it

    def part(self, share: float) -> MixturePart:
        """A part of a `Stage` that takes `share` of its rows from this cell."""
        return MixturePart(share, self.corpus, keep=self.keep)


def label_cells(
    corpus: DocumentTable,
    name: str,
    words: Sequence[str] = (),
    bands: Mapping[str, int] | None = None,
) -> list[LabelCell]:
    """Cells of a corpus of that name by every combination of the words of some labels with bands of
    others; those without a document are left out.

    words: labels that are words. bands: labels that are numbers -> how many bands of about equal
    tokens. Raises ValueError for documents that belong to no cell, as they lack a label.
    """
    axes: list[list[tuple[str, str, Sequence]]] = []
    for label in words:
        corpus.label(label)  # names the labels there are, if it is none
        if (known := corpus.words(label)) is None:
            raise ValueError(f"{corpus.folder}: the label {label!r} is a number: give it bands")
        axes.append([(word, label, [word]) for word in known])
    for label, count in (bands or {}).items():
        if corpus.words(label) is not None:
            raise ValueError(f"{corpus.folder}: the label {label!r} is a word: it has no bands")
        ends = _bands(corpus.label(label), corpus.lengths, count)
        axes.append([(f"{label} {i}", label, band) for i, band in enumerate(ends)])
    cells, covered = [], 0
    for combination in itertools.product(*axes):
        keep = {label: allowed for _, label, allowed in combination}
        chosen = label_filter(corpus, keep)
        covered += int(chosen.sum())
        if chosen.any():
            title = ", ".join(title for title, _, _ in combination)
            cells.append(
                LabelCell(
                    f"{name}: {title}" if title else name,
                    name,
                    keep,
                    int(corpus.lengths[chosen].sum()),
                )
            )
    if covered < len(corpus):
        lacking = [*words, *(bands or {})]
        raise ValueError(
            f"{corpus.folder}: {len(corpus) - covered} documents lack one of {lacking}"
        )
    return cells


def _bands(values: np.ndarray, lengths: np.ndarray, count: int) -> list[tuple]:
    """(lowest, highest) of each band, both within it, as `MixturePart.keep` takes them."""
    order = np.argsort(values, kind="stable")
    passed = np.cumsum(lengths[order]) / lengths.sum()
    places = np.searchsorted(passed, np.arange(1, count) / count)
    borders = np.unique(values[order][places])
    below = [float(np.nextafter(np.float32(border), np.float32(-np.inf))) for border in borders]
    firsts, lasts = [None, *map(float, borders)], [*below, None]
    return list(zip(firsts, lasts, strict=True))


def natural_shares(cells: Sequence[LabelCell]) -> np.ndarray:
    """Share of each cell in all tokens, float64 [cells]."""
    tokens = np.array([cell.tokens for cell in cells], np.float64)
    return tokens / tokens.sum()


def draw_mixtures(
    prior: np.ndarray, count: int, seed: int, concentration: float = CONCENTRATION
) -> np.ndarray:
    """Mixtures float64 [count, cells], Dirichlet around `prior`, between concentrations from a
    quarter to four times the given one, so that near and far mixtures are among them."""
    generator = np.random.default_rng(seed)
    scales = concentration * 4 ** generator.uniform(-1, 1, count)
    drawn = [generator.dirichlet(np.maximum(scale * prior, 1e-3)) for scale in scales]
    return np.stack(drawn)


def within_caps(mixtures: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Mixtures [n, cells] with no share above its cap: what is too much goes to the other cells in
    proportion. ValueError if the caps leave no mixture."""
    if caps.sum() < 1:
        raise ValueError(
            f"the cells hold {caps.sum():.3f} of the tokens that the run reads, repetitions "
            "included: allow more repetitions, or a shorter run"
        )
    result = np.maximum(mixtures, 1e-9)
    for _ in range(len(caps) + 1):  # a pass settles at least one cell of every mixture
        full = result >= caps
        free = np.where(full, 0, result)
        left = 1 - np.where(full, caps, 0).sum(1, keepdims=True)
        result = np.where(full, caps, free * left / np.maximum(free.sum(1, keepdims=True), 1e-12))
    return np.minimum(result, caps)


@dataclass(frozen=True)
class MixtureLaw:
    """Held-out loss of a mixture: c + exp(b + w . x) for each held-out set."""

    sets: tuple[str, ...]
    floors: np.ndarray  # c, float64 [sets]
    weights: np.ndarray  # b and w, float64 [sets, 1 + cells]
    most: np.ndarray  # the largest share that a member had of each cell, float64 [cells]

    def predict(self, mixtures: np.ndarray) -> np.ndarray:
        """Loss of each mixture [n, cells], the mean over the sets."""
        ones = np.ones((len(mixtures), 1))
        losses = np.exp(np.concatenate([ones, mixtures], 1) @ self.weights.T) + self.floors
        return losses.mean(1)


def fit_mixture_law(mixtures: np.ndarray, losses: Mapping[str, np.ndarray]) -> MixtureLaw:
    """The law of a swarm: mixtures [members, cells], losses {set: [members]}.

    c and the weight decay of each set are those with the least error of members that are left out.
    Members whose loss is no number are left out. Raises ValueError for fewer than four.
    """
    usable = _usable(losses)
    if usable.sum() < 4:
        raise ValueError(f"{usable.sum()} members with a loss: a law needs at least 4")
    fits = [_fit_set(mixtures[usable], values[usable]) for values in losses.values()]
    floors, weights = zip(*fits, strict=True)
    return MixtureLaw(tuple(losses), np.array(floors), np.stack(weights), mixtures.max(0))


def _usable(losses: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.all([np.isfinite(values) for values in losses.values()], axis=0)


def left_out_ranks(mixtures: np.ndarray, losses: Mapping[str, np.ndarray]) -> float | None:
    """How well the law ranks members of the swarm that it did not see: the rank correlation of mean
    losses with predictions, each by the law of all other members.

    What the swarm is good for, known before a large model is trained: too few members, or members
    that are trained too shortly to rank like themselves with another seed, show here. None for
    fewer than five members with a loss.
    """
    usable = _usable(losses)
    if usable.sum() < 5:
        return None
    mixtures, losses = mixtures[usable], {name: values[usable] for name, values in losses.items()}
    predicted = []
    for member in range(len(mixtures)):
        others = {name: np.delete(values, member) for name, values in losses.items()}
        law = fit_mixture_law(np.delete(mixtures, member, axis=0), others)
        predicted.append(law.predict(mixtures[member : member + 1])[0])
    return rank_correlation(np.array(predicted), np.mean(list(losses.values()), axis=0))


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two lists of distinct numbers."""
    return float(np.corrcoef(np.argsort(np.argsort(first)), np.argsort(np.argsort(second)))[0, 1])


def _fit_set(mixtures: np.ndarray, losses: np.ndarray) -> tuple[float, np.ndarray]:
    best: tuple[float, float, np.ndarray] = (math.inf, 0.0, np.zeros(0))
    centre = mixtures.mean(0)
    features = np.concatenate([np.ones((len(losses), 1)), mixtures - centre], 1)
    for offset, ridge in itertools.product(OFFSETS, RIDGES):
        floor = losses.min() - offset
        target = np.log(losses - floor)
        decay = np.diag([0.0, *[ridge] * mixtures.shape[1]])
        inverse = np.linalg.inv(features.T @ features + decay)
        weights = inverse @ features.T @ target
        # The error of a member that is left out follows from the leverage of its row.
        leverage = np.einsum("nf,fg,ng->n", features, inverse, features)
        left_out = target - (target - features @ weights) / np.maximum(1 - leverage, 1e-6)
        error = float(np.mean((np.exp(np.minimum(left_out, 50)) + floor - losses) ** 2))
        if error < best[0]:
            weights[0] -= centre @ weights[1:]
            best = error, floor, weights
    return best[1], best[2]


def propose(
    law: MixtureLaw,
    cells: Sequence[LabelCell],
    *,
    tokens: float,
    repetitions: float = 4.0,
    seed: int = 0,
    concentration: float = CONCENTRATION,
) -> np.ndarray:
    """Shares [cells] for a run of `tokens`, in which no cell is read more than `repetitions` times.

    Beyond four repetitions text is worth less than new text (arXiv 2305.16264). Raises ValueError
    if that leaves no mixture.
    """
    caps = np.array([cell.tokens for cell in cells]) * repetitions / tokens
    known = np.minimum(caps, law.most)
    caps = known if known.sum() >= 1 else caps
    centre = natural_shares(cells)
    for number in range(ROUNDS):
        drawn = draw_mixtures(centre, CANDIDATES, seed + number, concentration * 2**number)
        candidates = within_caps(np.concatenate([centre[None], drawn]), caps)
        best = np.argsort(law.predict(candidates), kind="stable")[:BEST]
        centre = candidates[best].mean(0)
    return centre


def to_json(cells: Sequence[LabelCell], shares: Sequence[float] | np.ndarray | None = None) -> str:
    """Cells, and their shares where they are known, for `read_mixture`."""
    rows = [asdict(cell) for cell in cells]
    if shares is not None:
        rows = [row | {"share": float(s)} for row, s in zip(rows, shares, strict=True)]
    return json.dumps({"cells": rows}, indent=1)


def read_cells(path: str) -> list[LabelCell]:
    """The cells of a file that `to_json` wrote. ValueError for another file."""
    return [LabelCell(**{k: v for k, v in row.items() if k != "share"}) for row in _rows(path)]


def read_mixture(path: str) -> dict[str, MixturePart]:
    """The mixture of a `Stage`: a part for each cell that has a share."""
    rows = _rows(path)
    if any("share" not in row for row in rows):
        raise ValueError(f"{path}: cells without shares: `qwen3 data mixture propose` gives them")
    cells = zip(read_cells(path), (float(row["share"]) for row in rows), strict=True)
    return {cell.name: cell.part(share) for cell, share in cells if share > 0}


def _rows(path: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(b"".join(chunks(path)))["cells"]
        for row in rows:
            LabelCell(row["name"], row["corpus"], row["keep"], row["tokens"])
        return rows
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path}: no cells of a mixture ({error!r})") from error


def swarm_table(
    cells: Sequence[LabelCell], mixtures: np.ndarray, losses: Mapping[str, np.ndarray]
) -> str:
    """CSV of a swarm: a row a member, a column share:CELL a cell and loss:SET a held-out set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(SHARE + cell.name for cell in cells), *(LOSS + name for name in losses)])
    for row in np.concatenate([mixtures, np.stack(list(losses.values()), 1)], 1):
        writer.writerow([f"{value:.6g}" for value in row])
    return text.getvalue()


def read_swarm(path: str, cells: Sequence[LabelCell]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(mixtures [members, cells], losses by set) of a table. ValueError for missing columns."""
    rows = list(csv.DictReader(io.StringIO(b"".join(chunks(path)).decode())))
    columns = list(rows[0]) if rows else []
    wanted = [SHARE + cell.name for cell in cells]
    sets = [name for name in columns if name.startswith(LOSS)]
    if missing := [name for name in wanted if name not in columns]:
        raise ValueError(f"{path}: no column {missing}; there are {columns}")
    if not sets:
        raise ValueError(f"{path}: no column {LOSS}SET; there are {columns}")
    try:
        values = {n: np.array([float(row[n]) for row in rows]) for n in [*wanted, *sets]}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    mixtures = np.stack([values[name] for name in wanted], 1)
    return mixtures, {name.removeprefix(LOSS): values[name] for name in sets}
