"""Token stores: what they hold, when they are reused, and that a failed build loses nothing."""

import argparse
import errno
import hashlib
import json
import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

from qwen3.data import corpora, corpus_cli, token_store
from qwen3.data.corpora import Corpus, prepare
from qwen3.data.held_out import hold_out
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


def test_a_corpus_is_on_the_disk_before_it_has_its_name(rows, tokenizer, tmp_path, monkeypatch):
    events, fsync, rename = [], os.fsync, os.rename

    def synced(number):
        events.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def renamed(source, target):
        events.append("renamed")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    corpus = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    before = events[: events.index("renamed")]
    assert {file.name for file in corpus.folder.rglob("*")} <= {*before}
    assert events[-1] == tmp_path.name


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


def test_a_byte_that_changed_is_found_when_a_corpus_is_opened(rows, tokenizer, tmp_path):
    folder = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c").folder
    names = ["corpus.json", "label.language.npy", "offsets.npy", "tokens.bin"]
    for name in names:
        data = (folder / name).read_bytes()
        middle = len(data) // 2
        (folder / name).write_bytes(data[:middle] + b"\xff" + data[middle + 1 :])
        with pytest.raises(ValueError, match=f"{name}: (wrong checksum: )?damaged"):
            Corpus(folder)
        (folder / name).write_bytes(data)
    assert len(Corpus(folder)) == 3
    (folder / "corpus.json").write_text('{"format": ')
    with pytest.raises(ValueError, match="corpus.json: damaged .*, prepare it again"):
        Corpus(folder)


def test_a_large_file_is_sampled_at_even_distances_and_read_through_on_request(tmp_path):
    path, data = tmp_path / "f", bytearray(os.urandom(8 << 20))
    path.write_bytes(data)
    sample = token_store.sample(path)
    blocks = [(len(data) - (1 << 14)) * i // 63 for i in range(64)]
    expected = hashlib.sha256(b"".join(data[b : b + (1 << 14)] for b in blocks)).hexdigest()
    assert sample == expected
    data[blocks[30] + 3] ^= 1
    path.write_bytes(data)
    assert token_store.sample(path) != sample
    data[blocks[30] + 3] ^= 1
    data[blocks[30] - 1] ^= 1  # between two blocks
    path.write_bytes(data)
    assert token_store.sample(path) == sample
    assert token_store.sha256(path) == hashlib.sha256(data).hexdigest()


def test_a_corpus_without_samples_of_an_earlier_version_is_opened(rows, tokenizer, tmp_path):
    corpus = prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    manifest = json.loads((corpus.folder / "corpus.json").read_text())
    for facts in manifest["files"].values():
        del facts["sample"]
    (corpus.folder / "corpus.json").write_text(json.dumps(manifest))
    assert Corpus(corpus.folder, verify=True).hash == corpus.hash


UNFIT = {
    "a lone surrogate": (b'{"text": "a\\ud800"}', "lone surrogate"),
    "nested too deep": (b'{"text": "a", "x": ' + b"[" * 100_000, "nested too deep"),
    "a huge number beside the text": (b'{"text": "a", "x": ' + b"9" * 5000 + b"}", "digits"),
    "a ragged list": (b'{"text": [[1], [1, 2]]}', "a list that is not one of token ids"),
    "an id beyond 64 bits": (b'{"text": [18446744073709551615]}', "token id 18446744073709551615"),
    "an id beyond all integers": (b'{"text": [1' + b"0" * 30 + b"]}", "not one of token ids"),
    "an id outside the vocabulary": (b'{"text": [1, 290]}', "token id 290 outside"),
    "a negative id": (b'{"text": [-1, 2]}', "token id -1 outside"),
    "a huge label": (b'{"text": "a", "quality": 1' + b"0" * 400 + b"}", "beyond a 32-bit float"),
    "an infinite label": (b'{"text": "a", "quality": 1e999}', "beyond a 32-bit float"),
    "a word for a number": (b'{"text": "a", "quality": "good"}', "'good', and numbers in"),
    "a number for a word": (b'{"text": "a", "domain": "y", "language": 3}', "3.0, and words in"),
    "a text of a million letters": (b'{"text": "' + b"\xe4\xbd\xa0" * 1_100_000 + b'"}', "to cut"),
}


@pytest.mark.parametrize("line, reason", UNFIT.values(), ids=UNFIT)
def test_a_row_that_cannot_be_stored_is_named_or_skipped(line, reason, rows, tokenizer, tmp_path):
    rows.write_bytes(rows.read_bytes() + line + b"\n" + json.dumps(ROWS[0]).encode())
    with pytest.raises(ValueError, match=f"rows.jsonl, line 5: .*{reason}.*skip_broken=True"):
        prepare(JsonLinesFiles(rows), tokenizer, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    corpus = prepare(JsonLinesFiles(rows, skip_broken=True), tokenizer, tmp_path / "c")
    assert len(corpus) == 4
    [message] = corpus.manifest["skipped"]
    assert "rows.jsonl, line 5" in message and len(message) < 500
    # What was skipped leaves nothing behind, not even a label.
    assert [d.labels for d in corpus][-1] == {"language": "en", "quality": 1.0, "safety": None}


def test_the_held_out_part_of_a_lenient_source_skips_too(rows, tokenizer, tmp_path):
    rows.write_text('{"text": [1, 290]}\n' + rows.read_text())
    train, held = hold_out(JsonLinesFiles(rows, skip_broken=True), every=2)
    corpus = prepare(train, tokenizer, tmp_path / "train")
    assert len(corpus) == 1 and "token id 290" in corpus.manifest["skipped"][0]
    assert len(prepare(held, tokenizer, tmp_path / "held")) == 2
    with pytest.raises(ValueError, match="token id 290"):
        prepare(hold_out(JsonLinesFiles(rows), every=2)[0], tokenizer, tmp_path / "strict")


def test_a_long_document_is_stored_like_a_short_one(tokenizer, tmp_path):
    text = ("the cat and the hat, " * 50 + "\n") * 500  # twice the characters of a batch
    (tmp_path / "long.txt").write_text(text)
    corpus = prepare(TextFiles(tmp_path / "long.txt"), tokenizer, tmp_path / "c")
    assert corpus[0].content[:-1].tolist() == tokenizer.encode(text, allow_special=False)


LONG = """
import resource, sys
from qwen3.data import corpora, sources, tokenizer
rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
learnt = tokenizer.Tokenizer.load(sys.argv[1] + "/tokenizer")
before = rss()
corpora.prepare(sources.TextFiles(sys.argv[1] + "/long.txt"), learnt, sys.argv[1] + "/c")
print(rss() - before)
"""


def test_a_long_document_takes_little_memory(tokenizer, tmp_path):
    (tmp_path / "long.txt").write_text("the cat and the hat " * 100_000)  # 2 MB in one line
    tokenizer.save(tmp_path / "tokenizer")
    done = subprocess.run([sys.executable, "-c", LONG, tmp_path], capture_output=True, text=True)
    assert int(done.stdout) < 150, done.stderr  # MiB; it is 300 where it is encoded in one piece


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


@pytest.fixture
def command(tokenizer, tmp_path):
    """command(*words): runs `qwen3 corpus` with the tokenizer saved in the folder."""
    parser = argparse.ArgumentParser()
    corpus_cli.add_parser(parser.add_subparsers())
    tokenizer.save(tmp_path / "tokenizer")

    def run(*words):
        args = parser.parse_args(["corpus", *map(str, words)])
        args.run(args)

    return run


def test_the_command_counts_and_names_what_is_skipped(rows, command, tmp_path, capsys):
    rows.write_text(rows.read_text() + '{"text": 1}\n{broken\n')
    where = ["--tokenizer", tmp_path / "tokenizer", "--out", tmp_path / "c"]
    command("prepare", rows, *where, "--skip-broken")
    told = capsys.readouterr()
    assert "3 documents, " in told.out and "2 files or rows left out" in told.out
    first, second = told.err.splitlines()
    assert "rows.jsonl, line 5: the text field 'text' is int" in first
    assert "rows.jsonl, line 6: not JSON" in second


def test_commands_prepare_measure_and_show(rows, command, tmp_path, capsys):
    where = ["--tokenizer", tmp_path / "tokenizer"]
    command("prepare", rows, *where, "--out", tmp_path / "c", "--label", "domain=pets")
    out = capsys.readouterr().out
    assert "3 documents, " in out
    command("stats", tmp_path / "c", "--length", 8, "--verify")
    out = capsys.readouterr().out
    assert "documents   3 (1 empty and 0 broken left out)" in out
    assert "wasted" in out and "pets" in out and "100.00%" in out
    command("show", tmp_path / "c", *where, "--first", 2)
    out = capsys.readouterr().out
    assert out.startswith("--- 2: ") and "language=en" in out and "the end<|endoftext|>" in out
