"""Batch = f(seed, stage, step): any row of any step of pretraining, from the description of the
stage and prepared corpora alone.

There is no iterator and no state: hosts, workers and restarts ask for the rows they need and get
the same ones.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qwen3.data.block_stream import BandedStream, BlockStream
from qwen3.data.corpora import Corpus, DocumentTable
from qwen3.data.mixture import PERIOD, MixturePart, Schedule, Stage
from qwen3.data.rows import FIELDS
from qwen3.data.sharded_corpus import ShardedCorpus
from qwen3.data.stream import RowStream, Spans

AnyCorpus = Corpus | ShardedCorpus

ORDER = 1  # raise this when a change here, in mixture, stream or packing gives other batches


class Batches:
    """`batches[step]` -> dict of [batch, length] arrays as the losses take them (`FIELDS`); a
    random-access source of grain.

    Each document ends with <|endoftext|>. With documents masked, segment ids count 1, 2, ... in a
    row, positions restart and the slot of <|endoftext|> has weight 0 in the loss mask. Across
    documents, a row is one segment, positions run on and <|endoftext|> predicts the next document's
    first token. Where a row cuts a document, its last slot still predicts the token that follows.
    Padding has <|endoftext|>, segment 0 and weight 0.

    corpora: name -> Corpus, at least those that the stage names. vocab: rows of the model's
        vocabulary matrix.
    hash: changes whenever the batches do; checkpoints store it.
    Raises ValueError for a stage that these corpora cannot serve.
    """

    def __init__(self, stage: Stage, corpora: Mapping[str, AnyCorpus], seed: int, *, vocab: int):
        parts = {name: part for name, part in stage.parts().items() if part.weight > 0}
        for name, part in parts.items():
            if part.corpus not in corpora:
                raise ValueError(
                    f"stage {stage.name!r} gives a weight to {name!r}, but there is no corpus "
                    f"{part.corpus!r}; choose from {sorted(corpora)}"
                )
        self.stage, self.seed, self.names = stage, seed, list(parts)
        self._corpora = [corpora[part.corpus] for part in parts.values()]
        self._end = _one_tokenizer(stage, self._corpora, vocab)
        self._schedule = Schedule([part.weight for part in parts.values()])
        self._streams = [
            _stream(corpus, part, stage, [seed, stage.name, name])
            for (name, part), corpus in zip(parts.items(), self._corpora, strict=True)
        ]
        self._count = np.arange(stage.length, dtype=np.int32)
        facts = [
            ORDER,
            seed,
            dataclasses.asdict(stage),
            [[n, c.hash] for n, c in zip(self.names, self._corpora, strict=True)],
        ]
        self.hash = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        if not stage.repeat_small:
            self._check_sizes()

    def __len__(self) -> int:
        return 1 << 40  # epochs follow one another without end

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.rows(step, range(self.stage.batch))

    def __repr__(self) -> str:
        return f"Batches({self.stage.name!r}, seed {self.seed}, hash {self.hash})"

    def rows(self, step: int, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Some rows (ints below `stage.batch`) of a step, in that order: dict of
        [len(rows), length] arrays.
        """
        if step < 0:
            raise IndexError(f"step {step} is below 0")
        batch = {
            name: np.zeros((len(rows), self.stage.length), dtype) for name, dtype in FIELDS.items()
        }
        batch["tokens"][:] = batch["targets"][:] = self._end
        for place, row in enumerate(rows):
            part, number = self._schedule[step * self.stage.batch + row]
            table, spans = self._streams[part].row(number)
            self._fill({name: array[place] for name, array in batch.items()}, table, spans)
        return batch

    def _fill(
        self,
        row: dict[str, np.ndarray],
        corpus: DocumentTable,
        spans: Spans,
    ) -> None:
        """Write the spans (documents, starts, lengths) into the [length] arrays of a row."""
        at, across = 0, self.stage.across_documents
        tokens, targets, weights, positions, segment_ids = row.values()
        documents, starts, lengths = spans
        begins = (corpus.offsets[documents] + starts).tolist()
        ended = (starts + lengths == corpus.lengths[documents]).tolist()
        pieces = zip(begins, lengths.tolist(), ended, strict=True)
        for piece, (begin, length, ends) in enumerate(pieces):
            end = at + length
            ids = corpus.tokens[begin : begin + length + 1 - ends]
            tokens[at:end] = ids[:length]
            targets[at : end - ends] = ids[1:]
            weights[at : end - ends] = 1
            positions[at:end] = self._count[at:end] if across else self._count[:length]
            segment_ids[at:end] = 1 if across else piece + 1
            # A finished document's end predicts the next one; a cut piece keeps its own next token.
            if across and piece and ended[piece - 1]:
                targets[at - 1], weights[at - 1] = tokens[at], 1
            at = end

    def report(self, step: int) -> dict[str, Any]:
        """Counts of what the first `step` steps read.

        Per part `epochs`, `rows`, `tokens`, `split` (documents longer than a row, so cut; None of
        sharded corpora, whose tokens count padding too) and `epoch_rows` (rows of its first epoch);
        `wasted` is the share of slots that are padding.
        """
        rows = self._schedule.before(step * self.stage.batch)
        progress = [stream.progress(int(n)) for stream, n in zip(self._streams, rows, strict=True)]
        streams = list(zip(self.names, self._streams, strict=True))
        slots = int(rows.sum()) * self.stage.length
        return {
            "epochs": {name: p[0] for name, p in zip(self.names, progress, strict=True)},
            "rows": {name: int(n) for name, n in zip(self.names, rows, strict=True)},
            "tokens": {name: p[1] for name, p in zip(self.names, progress, strict=True)},
            "split": {name: s.split for name, s in streams},
            "epoch_rows": {name: s.first_epoch for name, s in streams},
            "wasted": 1 - sum(p[1] for p in progress) / slots if slots else 0.0,
        }

    def _check_sizes(self) -> None:
        shares = self._schedule.quotas / PERIOD
        for name, stream, corpus, share in zip(
            self.names, self._streams, self._corpora, shares, strict=True
        ):
            available, needed = stream.first_epoch, int(np.ceil(share * self.stage.batch))
            if available < needed:
                raise ValueError(
                    f"stage {self.stage.name!r}: {name!r} ({corpus.folder}) makes {available} rows "
                    f"of {self.stage.length} tokens, a batch takes {needed}; give it more text, a "
                    f"smaller weight, batch or length, or repeat_small=True"
                )


def _stream(
    corpus: AnyCorpus, part: MixturePart, stage: Stage, key: Sequence[Any]
) -> RowStream | BlockStream | BandedStream:
    if isinstance(corpus, ShardedCorpus):
        return (BandedStream if stage.lengths else BlockStream)(corpus, part, stage, key)
    return RowStream(corpus, part, stage, key)


def _one_tokenizer(stage: Stage, corpora: Sequence[AnyCorpus], vocab: int) -> int:
    """The id of <|endoftext|> in the one tokenizer that all corpora were prepared with; ValueError
    if tokenizers differ or have more ids than the model has rows.
    """
    tokenizers = {corpus.manifest["tokenizer"]: corpus for corpus in corpora}
    if len(tokenizers) > 1:
        folders = [str(corpus.folder) for corpus in tokenizers.values()]
        raise ValueError(f"stage {stage.name!r} mixes corpora of different tokenizers: {folders}")
    largest = max(corpora, key=lambda corpus: corpus.vocab)
    if largest.vocab > vocab:
        raise ValueError(
            f"{largest.folder}: its tokenizer has {largest.vocab} ids, the model only {vocab} "
            f"vocabulary rows; "
            "use a model with more rows or prepare the corpus with a smaller tokenizer"
        )
    return largest.endoftext
