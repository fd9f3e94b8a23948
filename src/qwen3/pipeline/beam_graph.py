"""The job graph: one Apache Beam pipeline for every runner.

    parts -> clean -> exact copies -> bands -> candidate pairs -> verified pairs -> survivors
        \\------------------------------------------------------------> shards <-----/

Texts never go through a shuffle: cleaned parts lie in the work folder, and what is grouped are ids
and keys, the shingles of candidates, and for each shard the names of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.pvalue import AsIter, TaggedOutput

from qwen3.pipeline import near_duplicates
from qwen3.pipeline.near_duplicates import Pair, Rank
from qwen3.pipeline.part_files import Fingerprint, Part, RunPlan, ensure, fingerprints, member
from qwen3.pipeline.shard_files import write_shard
from qwen3.pipeline.text_record import shard_of

Copy = tuple[str, tuple[str, str, float]]  # id, (reason, id of the survivor, Jaccard index)


def build(pipeline: beam.Pipeline, parts: list[Part], plan: RunPlan) -> beam.PCollection:
    """Add the whole graph to `pipeline`; the result is the facts of each shard."""
    names = (
        pipeline
        | "parts" >> beam.Create(parts)
        | "spread parts" >> beam.Reshuffle()
        | "clean" >> beam.Map(_clean, plan)
    )
    copies = (
        _duplicates(names, plan)
        if plan.duplicates
        else pipeline | "no duplicates" >> beam.Create([])
    )
    shards = range(plan.recipe.shards)
    return (
        {
            "parts": names | "part to shards" >> beam.FlatMap(_to_shards, plan.recipe.shards),
            "copies": copies | "copy to shard" >> beam.Map(_keyed, plan.recipe.shards),
            "all": pipeline | "shards" >> beam.Create([(shard, None) for shard in shards]),
        }
        | "group shards" >> beam.CoGroupByKey()
        | "write shards" >> beam.Map(_write, plan)
    )


def _duplicates(names: beam.PCollection, plan: RunPlan) -> beam.PCollection:
    """(id, why it is a copy) of all records that are dropped for another one."""
    settings = plan.duplicates
    assert settings is not None
    exact = (
        names
        | "fingerprints" >> beam.FlatMap(lambda part: fingerprints(part, plan))
        | "by text" >> beam.Map(lambda record: (record.exact, record))
        | "group texts" >> beam.GroupByKey()
        | "exact copies" >> beam.FlatMapTuple(_exact).with_outputs("copies", main="survivors")
    )
    if not settings.near:
        return exact.copies
    pairs = (
        exact.survivors
        | "by band" >> beam.FlatMap(_banded)
        | "group bands" >> beam.GroupByKey()
        | "candidate pairs"
        >> beam.FlatMapTuple(lambda key, ranks: near_duplicates.candidate_pairs(ranks))
        | "distinct pairs" >> beam.Distinct()
    )
    candidates = (
        pairs
        | "ids of pairs" >> beam.FlatMap(lambda pair: [pair[0][1], pair[1][1]])
        | "distinct ids" >> beam.Distinct()
    )
    hashes = names | "shingles" >> beam.FlatMap(_shingles, AsIter(candidates), plan)
    verified = (
        {"pairs": pairs | "by id" >> beam.FlatMap(_by_id), "hashes": hashes}
        | "join shingles" >> beam.CoGroupByKey()
        | "to pairs" >> beam.FlatMapTuple(_to_pairs)
        | "group pairs" >> beam.GroupByKey()
        | "verify" >> beam.FlatMapTuple(_verified, least=settings.jaccard)
    )
    near = (
        verified
        | "all pairs" >> beam.Map(lambda edge: (None, edge))
        | "gather pairs" >> beam.GroupByKey()
        | "survivors" >> beam.FlatMapTuple(_near)
    )
    return (exact.copies, near) | "exact and near" >> beam.Flatten()


def _clean(part: Part, plan: RunPlan) -> Part:
    ensure(part, plan)
    return part


def _to_shards(part: Part, shards: int) -> list[tuple[int, str]]:
    return [(shard, part.name) for shard in range(shards)]


def _keyed(copy: Copy, shards: int) -> tuple[int, Copy]:
    return shard_of(copy[0], shards), copy


def _exact(key: bytes, group: Iterable[Fingerprint]) -> Iterator[Any]:
    members = sorted({record.rank: record for record in group}.items())
    (_, survivor), others = members[0], members[1:]
    yield survivor
    for rank, _ in others:
        yield TaggedOutput("copies", (rank[1], ("exact", survivor.rank[1], 1.0)))


def _banded(record: Fingerprint) -> Iterator[tuple[tuple[int, int], Rank]]:
    for band, key in enumerate(np.frombuffer(record.bands, np.uint64).tolist()):
        yield (band, key), record.rank


def _by_id(pair: Pair) -> list[tuple[str, Pair]]:
    return [(rank[1], pair) for rank in pair]


def _shingles(part: Part, candidates: Iterable[str], plan: RunPlan) -> Iterator[tuple[str, bytes]]:
    wanted, settings = set(candidates), plan.duplicates
    assert settings is not None
    for shard in {shard_of(identifier, plan.recipe.shards) for identifier in wanted}:
        for row in member(part.name, "records", shard, plan):
            if row["id"] in wanted and "dropped" not in row:
                hashes = near_duplicates.shingles(row["text"], settings.shingle)
                yield row["id"], hashes.tobytes()


def _to_pairs(identifier: str, group: dict[str, Iterable]) -> Iterator[tuple[Pair, bytes]]:
    pairs, hashes = list(group["pairs"]), list(group["hashes"])
    for pair in pairs:
        yield pair, hashes[0]  # a record that stood in two parts has the same shingles in both


def _verified(
    pair: Pair, hashes: Iterable[bytes], least: float = 1.0
) -> Iterator[tuple[Pair, float]]:
    first, second = (np.frombuffer(data, np.uint64) for data in hashes)
    similarity = near_duplicates.jaccard(first, second)
    if similarity >= least:
        yield pair, similarity


def _near(key: None, edges: Iterable[tuple[Pair, float]]) -> Iterator[Copy]:
    for identifier, (survivor, similarity) in near_duplicates.survivors(edges).items():
        yield identifier, ("near", survivor, similarity)


def _write(group: tuple[int, dict[str, Iterable]], plan: RunPlan) -> dict[str, Any]:
    shard, of_shard = group
    return write_shard(shard, of_shard["parts"], dict(of_shard["copies"]), plan)
