"""Token stores: what they hold, when they are reused, and that a failed build loses nothing."""

import argparse
import errno
import json
import os
import pickle
import socket

import numpy as np
import pytest

from qwen3.data import corpora, corpus_cli, token_store
from qwen3.data.corpora import Corpus, prepare
from qwen3.data.sources import JsonLinesFiles, TextFiles

ROWS = [
    {"text": "the cat", "language": "en", "quality": 1},
    {"text": " \n"},
    {"text": "a <|endoftext|> b", "language": "de"},
    {"text": "the end", "language": "en", "safety": "safe"},
]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_a_store_holds_ids_ends_and_labels(rows, tokenizer, tmp_path):
    corpus = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    assert len(corpus) == 3 and corpus.manifest["empty"] == 1
    for document, row in zip(corpus, [ROWS[0], ROWS[2], ROWS[3]], strict=True):
        ids = document.content.tolist()
        assert ids[-1] == tokenizer.endoftext
        # Special tokens written in a text are plain text there.
        assert tokenizer.endoftext not in ids[:-1]
        assert tokenizer.decode(ids[:-1]) == row["text"]
    assert corpus[0].labels == {"language": "en", "quality": 1.0, "safety": None}
    assert corpus[-1].labels == {"language": "en", "quality": None, "safety": "safe"}
    assert corpus.lengths.tolist() == [len(d.content) for d in corpus]
    assert corpus.tokens.dtype == np.uint16
    assert pickle.loads(pickle.dumps(corpus)).hash == corpus.hash
    with pytest.raises(IndexError):
        corpus[3]


def test_a_store_is_reused_until_sources_or_tokenizer_change(
    rows, tokenizer, tmp_path, monkeypatch
):
    first = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "write", lambda *a: pytest.fail("tokenised again"))
        assert prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c").hash == first.hash
    rows.write_text(json.dumps(ROWS[0]) + "\n")
    with pytest.raises(ValueError, match="holds something else .*rebuild=True"):
        prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    assert Corpus(tmp_path / "c", verify=True).hash == first.hash
    again = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c", rebuild=True)
    assert len(again) == 1 and again.hash != first.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "rows.jsonl"]


def test_a_full_disk_leaves_the_old_corpus_and_no_rubbish(rows, tokenizer, tmp_path, monkeypatch):
    first = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")

    rows.write_text(json.dumps(ROWS[0]) + "\n")

    def open_full(path, mode):
        return open("/dev/full" if mode == "wb" else path, mode)

    monkeypatch.setattr(token_store, "open", open_full, raising=False)
    with pytest.raises(
        OSError, match="No space left .* preparing .*c; nothing was changed"
    ) as full:
        prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c", rebuild=True)
    assert full.value.errno == errno.ENOSPC
    assert Corpus(tmp_path / "c", verify=True).hash == first.hash
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "rows.jsonl"]


def test_what_a_killed_build_left_is_cleared_away_or_put_back(rows, tokenizer, tmp_path):
    first = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c").hash
    left = tmp_path / f".c.building.{socket.gethostname()}.{2**22 + 1}"
    left.mkdir()
    (left / "tokens.bin").write_bytes(b"half")
    os.rename(tmp_path / "c", f"{left}.old")
    assert prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c").hash == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "rows.jsonl"]


def test_the_slower_of_two_builds_takes_what_the_faster_made(
    rows, tokenizer, tmp_path, monkeypatch
):
    def slow(*args):
        with monkeypatch.context() as patch:
            patch.setattr(corpora, "write", token_store.write)
            patch.setattr(os, "getpid", lambda: 1)
            prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
        inode.append((tmp_path / "c").stat().st_ino)
        return token_store.write(*args)

    inode = []
    monkeypatch.setattr(corpora, "write", slow)
    assert len(prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")) == 3
    assert [(tmp_path / "c").stat().st_ino] == inode
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "rows.jsonl"]


def test_damage_is_found(rows, tokenizer, tmp_path):
    folder = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c").folder
    tokens = (folder / "tokens.bin").read_bytes()
    (folder / "tokens.bin").write_bytes(tokens[:-1] + b"x")
    with pytest.raises(ValueError, match="tokens.bin: wrong checksum: damaged"):
        Corpus(folder, verify=True)
    source = JsonLinesFiles(rows)
    assert Corpus(prepare(source, tokenizer, folder, rebuild=True).folder, verify=True)
    (folder / "tokens.bin").write_bytes(tokens[:-2])
    with pytest.raises(ValueError, match="damaged, prepare it again"):
        prepare(source, tokenizer, folder)
    with pytest.raises(ValueError, match=r"tokens.bin: \d+ bytes, \d+ expected: damaged"):
        Corpus(folder)
    os.remove(folder / "corpus.json")
    with pytest.raises(ValueError, match="holds no prepared corpus"):
        Corpus(folder)


def test_a_broken_row_stops_the_build_unless_it_may_be_skipped(rows, tokenizer, tmp_path):
    with open(rows, "a") as file:
        file.write("{broken\n")
    with pytest.raises(ValueError, match="rows.jsonl, line 5: not JSON .*skip_broken=True"):
        prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    corpus = prepare(JsonLinesFiles(rows, skip_broken=True), tokenizer, tmp_path / "c")
    assert len(corpus) == 3
    assert "line 5" in corpus.manifest["skipped"][0]


def test_sources_without_text_and_odd_labels_are_errors(tokenizer, tmp_path):
    (tmp_path / "blank.txt").write_text("\n" * 50)
    with pytest.raises(ValueError, match="no document with text"):
        prepare(TextFiles(tmp_path / "blank.txt"), tokenizer, tmp_path / "c")
    (tmp_path / "odd.jsonl").write_text('{"text":"a","domain":"x"}\n{"text":"b","domain":3}\n')
    with pytest.raises(ValueError, match="odd.jsonl, line 2: label 'domain' is 3.0, and words in"):
        prepare(JsonLinesFiles(tmp_path / "odd.jsonl"), tokenizer, tmp_path / "c")
    (tmp_path / "ids.jsonl").write_text('{"ids":[1, 290]}\n')
    with pytest.raises(ValueError, match="token id 290 outside the tokenizer's 290 ids"):
        prepare(JsonLinesFiles(tmp_path / "ids.jsonl", text="ids"), tokenizer, tmp_path / "c")
    with pytest.raises(ValueError, match="gs://x/c: a corpus is mapped"):
        prepare(TextFiles(tmp_path / "blank.txt"), tokenizer, "gs://x/c")


def test_commands_prepare_measure_and_show(rows, tokenizer, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    corpus_cli.add_parser(parser.add_subparsers())
    tokenizer.save(tmp_path / "tokenizer")

    def command(*words):
        args = parser.parse_args(["corpus", *map(str, words)])
        args.run(args)
        return capsys.readouterr().out

    where = ["--tokenizer", tmp_path / "tokenizer"]
    out = command("prepare", rows, *where, "--out", tmp_path / "c", "--label", "domain=pets")
    assert "3 documents, " in out
    out = command("stats", tmp_path / "c", "--length", 8, "--verify")
    assert "documents   3 (1 empty and 0 broken left out)" in out
    assert "wasted" in out and "pets" in out and "100.00%" in out
    out = command("show", tmp_path / "c", *where, "--first", 2)
    assert out.startswith("--- 2: ") and "language=en" in out and "the end<|endoftext|>" in out
