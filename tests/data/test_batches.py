"""Batches by step: literal rows, what they cover, what moves their hash, and what is refused."""

import dataclasses
import pickle

import grain
import jax
import numpy as np
import pytest

from qwen3.data import corpora
from qwen3.data.batches import FIELDS, Batches
from qwen3.data.mixture import MixturePart, Stage
from qwen3.mesh import batch_sharding, make_mesh
from qwen3.train.prefetch import Feed


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in FIELDS)


@pytest.fixture
def one_row(make, tokenizer):
    """A corpus of documents of 3 and 5 tokens: one row of 10 holds both, in some order."""
    return make("c", [3, 5]), tokenizer.endoftext


def test_a_masked_row_is_as_written_here(one_row):
    corpus, end = one_row
    row = Batches(Stage("s", {"c": 1}, 10, 1), {"c": corpus}, 0, vocab=290)[0]
    assert {name: array.dtype for name, array in row.items()} == FIELDS
    # Document 0 is 0 0 end, document 1 is 1 0 1 2 end.
    assert row["tokens"].tolist() == [[1, 0, 1, 2, end, 0, 0, end, end, end]]
    assert row["targets"].tolist() == [[0, 1, 2, end, end, 0, end, end, end, end]]
    assert row["weights"].tolist() == [[1, 1, 1, 1, 0, 1, 1, 0, 0, 0]]
    assert row["positions"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 0]]
    assert row["segment_ids"].tolist() == [[1, 1, 1, 1, 1, 2, 2, 2, 0, 0]]


def test_across_documents_the_end_predicts_the_next_document(one_row):
    corpus, end = one_row
    stage = Stage("s", {"c": 1}, 10, 1, across_documents=True)
    row = Batches(stage, {"c": corpus}, 0, vocab=290)[0]
    assert row["tokens"].tolist() == [[1, 0, 1, 2, end, 0, 0, end, end, end]]
    assert row["targets"].tolist() == [[0, 1, 2, end, 0, 0, end, end, end, end]]
    assert row["weights"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 0, 0, 0]]
    assert row["positions"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 0, 0]]
    assert row["segment_ids"].tolist() == [[1, 1, 1, 1, 1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize("across", [False, True])
def test_a_cut_document_still_predicts_the_token_after_the_cut(make, tokenizer, across):
    corpus = make("c", [25])
    stage = Stage("s", {"c": 1}, 10, 3, across_documents=across)
    batch = Batches(stage, {"c": corpus}, 0, vocab=290)[0]
    document = corpus[0].content
    order = np.argsort(batch["weights"].sum(1) * 1000 - batch["tokens"][:, 1])
    for begin, row in zip((20, 10, 0), order, strict=True):
        expected = document[begin + 1 : begin + 11]
        assert batch["targets"][row, : len(expected)].tolist() == expected.tolist()
        assert batch["weights"][row].sum() == len(expected)
        assert batch["positions"][row, :5].tolist() == [0, 1, 2, 3, 4]


def test_targets_never_leave_their_document_and_every_token_is_predicted_once(make, tokenizer):
    corpus = make("c", np.random.default_rng(0).integers(2, 90, 200).tolist())
    batches = Batches(Stage("s", {"c": 1}, 32, 1), {"c": corpus}, 0, vocab=290)
    rows = len(batches._streams[0].plan(0))
    seen = 0
    for step in range(rows):
        row = {name: array[0] for name, array in batches[step].items()}
        inside = row["weights"] > 0
        seen += inside.sum()
        last = np.flatnonzero(np.diff(row["segment_ids"], append=0))
        follows = np.setdiff1d(np.arange(32), last)
        real = follows[row["segment_ids"][follows] > 0]
        assert np.array_equal(row["targets"][real], row["tokens"][real + 1])
        assert not inside[row["tokens"] == tokenizer.endoftext].any()
    assert seen == len(corpus.tokens) - len(corpus)


@pytest.fixture
def mixed(make):
    lengths = np.random.default_rng(1).integers(2, 60, 300).tolist()
    return {"a": make("a", lengths[:200]), "b": make("b", lengths[200:])}


STAGE = Stage("s1", {"a": 0.75, "b": 0.25}, 64, 8)


def test_a_step_does_not_depend_on_what_was_read_before(mixed):
    walked, jumped = (Batches(STAGE, mixed, 3, vocab=290) for _ in range(2))
    target = jumped[40]
    for step in range(41):
        last = walked[step]
    assert same(last, target)
    assert same(walked[0], Batches(STAGE, mixed, 3, vocab=290)[0])
    assert same(pickle.loads(pickle.dumps(walked))[7], walked[7])


def test_any_rows_of_any_host_are_those_of_the_whole_batch(mixed):
    batches = Batches(STAGE, mixed, 3, vocab=290)
    whole = batches[5]
    for rows in ([0, 1], [7], [6, 2]):
        part = batches.rows(5, rows)
        assert all(np.array_equal(part[name], whole[name][rows]) for name in FIELDS)


def test_batches_and_hash_follow_seed_stage_mixture_and_corpus(mixed, make):
    first = Batches(STAGE, mixed, 3, vocab=290)
    others = {
        "seed": Batches(STAGE, mixed, 4, vocab=290),
        "stage": Batches(dataclasses.replace(STAGE, name="s2"), mixed, 3, vocab=290),
        "weights": Batches(
            dataclasses.replace(STAGE, mixture={"a": 1, "b": 1}), mixed, 3, vocab=290
        ),
        "across": Batches(dataclasses.replace(STAGE, across_documents=True), mixed, 3, vocab=290),
        "corpus": Batches(STAGE, mixed | {"b": make("b2", [9] * 99)}, 3, vocab=290),
    }
    assert Batches(STAGE, mixed, 3, vocab=290).hash == first.hash
    hashes = {first.hash} | {other.hash for other in others.values()}
    assert len(hashes) == 1 + len(others)
    assert not [name for name, other in others.items() if same(other[2], first[2])]


def test_the_report_counts_what_was_read(mixed):
    batches = Batches(STAGE, mixed, 3, vocab=290)
    report = batches.report(30)
    tokens = sum(int((batches[step]["segment_ids"] > 0).sum()) for step in range(30))
    assert report["rows"] == {"a": 180, "b": 60}
    assert sum(report["tokens"].values()) == tokens
    assert report["wasted"] == pytest.approx(1 - tokens / (30 * 8 * 64))
    for name, corpus in mixed.items():
        assert report["epochs"][name] == pytest.approx(
            report["tokens"][name] / len(corpus.tokens), rel=0.02
        )
    assert report["split"] == {"a": 0, "b": 0}
    assert 1 <= report["epoch_rows"]["a"] * 64 / len(mixed["a"].tokens) < 1.06
    assert batches.report(0)["wasted"] == 0


def test_filters_reach_the_batch(make, tokenizer):
    labels = [{"language": ("en", "zh")[d % 2]} for d in range(100)]
    corpus = make("c", [6] * 100, labels)
    stage = Stage("s", {"only": MixturePart(1, "c", keep={"language": ["zh"]})}, 12, 4)
    batch = Batches(stage, {"c": corpus}, 0, vocab=290)[1]
    assert set(batch["tokens"][:, [0, 6]].ravel() % 2) == {1}


def test_wrong_stages_are_refused_with_the_choices(mixed, make, tokenizer, tmp_path):
    def refused(message, *, stage=STAGE, given=mixed, vocab=290):
        with pytest.raises(ValueError, match=message):
            Batches(stage, given, 0, vocab=vocab)

    stage = dataclasses.replace(STAGE, mixture={"a": 1, "web": 1})
    refused("weight to 'web', but there is no corpus 'web'; choose from .'a', 'b'.", stage=stage)
    refused("tokenizer has 290 ids, the model only 256 vocabulary rows", vocab=256)
    small = {"a": make("small", [5, 6])}
    stage = Stage("s", {"a": 1}, 16, 4)
    refused(
        "'a' .*makes 1 rows of 16 tokens, a batch takes 4; .*repeat_small", stage=stage, given=small
    )
    stage = dataclasses.replace(stage, repeat_small=True)
    batch = Batches(stage, small, 0, vocab=290)[0]
    assert (batch["segment_ids"].max(1) == 2).all()
    with pytest.raises(IndexError, match="step -1 is below 0"):
        Batches(STAGE, mixed, 0, vocab=290)[-1]


def test_corpora_of_two_tokenizers_do_not_mix(mixed, tmp_path):
    from made_documents import Made

    from qwen3.data.sources import Document
    from qwen3.data.tokenizer import Tokenizer

    other = Tokenizer.train(["abab cdcd " * 9], 284)
    made = Made([Document("abab" * 50, {})])
    given = mixed | {"b": corpora.prepare(made, other, tmp_path / "other")}
    with pytest.raises(ValueError, match="'s1' mixes corpora of different tokenizers"):
        Batches(STAGE, given, 0, vocab=290)


def test_grain_reads_ahead_in_threads_and_in_workers_and_changes_nothing(mixed):
    batches = Batches(STAGE, mixed, 3, vocab=290)
    assert isinstance(batches, grain.sources.RandomAccessDataSource)
    mesh = make_mesh()
    sharding = batch_sharding(mesh)
    for workers in (0, 1):
        read = Feed(batches, mesh, start=11, threads=2, workers=workers)
        for step in range(11, 15):
            batch = read()
            assert batch["tokens"].sharding == sharding
            assert same(jax.device_get(batch), batches[step])
        assert read.waited > 0
