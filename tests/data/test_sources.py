"""Every kind of file gives the same documents by index and in a pass; every bad one is named."""

import gzip
import json
import random
import sys

import fsspec
import numpy as np
import pytest

from qwen3.data.sources import JsonLinesFiles, TextFiles, open_source
from qwen3.data.unpacked import BadData, line_starts

ROWS = [
    {"text": "one", "language": "en", "quality": 0.5},
    {"text": "zwei\nzwei", "language": "de", "quality": 1},
    {"text": "三", "language": "zh", "quality": None},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def plain(path):
    path.write_bytes(LINES)


def gzipped(path):
    path.write_bytes(gzip.compress(LINES[:40]) + gzip.compress(LINES[40:]))


def zstd(path):
    zstandard = pytest.importorskip("zstandard")
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(LINES[:40]) + compress(LINES[40:]))


def parquets(path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)


def array_record(path):
    module = pytest.importorskip("array_record.python.array_record_module")
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for row in ROWS:
        writer.write(json.dumps(row).encode())
    writer.close()


FILES = {
    "a.jsonl": plain,
    "a.jsonl.gz": gzipped,
    "a.jsonl.zst": zstd,
    "a.parquet": parquets,
    "a.array_record": array_record,
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_documents_by_index_and_in_a_pass(name, tmp_path):
    FILES[name](tmp_path / name)
    source = open_source(tmp_path / name)
    expected = [
        ("one", {"language": "en", "quality": 0.5}),
        ("zwei\nzwei", {"language": "de", "quality": 1.0}),
        ("三", {"language": "zh", "quality": None}),
    ]
    assert [(d.content, d.labels) for d in source] == expected
    assert [(source[i].content, source[i].labels) for i in (2, 0, -2)] == [
        expected[i] for i in (2, 0, 1)
    ]
    assert len(source) == 3
    with pytest.raises(IndexError):
        source[3]


def test_text_is_one_document_a_file_a_line_or_a_paragraph(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffone\ntwo\n\n \nthree", encoding="utf-8")
    (tmp_path / "b.txt").write_text("four\r\n\r\nfive\n")

    def texts(unit):
        return [d.content.strip() for d in TextFiles(tmp_path, unit=unit)]

    assert texts("file") == ["one\ntwo\n\n \nthree", "four\r\n\r\nfive"]
    assert texts("line") == ["one", "two", "three", "four", "five"]
    assert texts("paragraph") == ["one\ntwo", "three", "four", "five"]
    assert TextFiles(tmp_path, unit="line", labels={"domain": "x"})[3].labels == {"domain": "x"}


def test_remote_paths_and_globs_are_read_through_fsspec():
    remote = fsspec.filesystem("memory")
    for name, data in (("x-0.jsonl", LINES), ("x-1.jsonl.gz", gzip.compress(LINES))):
        remote.pipe(f"/bucket/{name}", data)
    source = JsonLinesFiles("memory://bucket/x-*", label_fields={"domain": "language"})
    assert len(source) == 6
    assert source[5].content == "三"
    assert source[4].labels["domain"] == "de"


def test_line_starts_are_right_across_chunks(monkeypatch):
    monkeypatch.setattr("qwen3.data.unpacked.CHUNK", 3)
    assert line_starts(b"a\nbc\n\ndefg").tolist() == [0, 2, 5, 6, 10]
    assert line_starts(b"a\n").tolist() == [0, 2]


BROKEN = {
    "empty.jsonl": (b"", "empty.jsonl: the file is empty"),
    "binary.txt": (b"ab\0\1cd", "binary.txt: binary data"),
    "cut.jsonl.gz": (gzip.compress(LINES * 50)[:-20], "cut.jsonl.gz: the file is truncated"),
    "fake.jsonl.gz": (b"not gzip at all", "fake.jsonl.gz: not a valid .gz file"),
    "latin.txt": ("Málaga".encode("latin-1"), "latin.txt, byte 0: not UTF-8"),
    "latin.jsonl": (b'\n{"text": "M\xe1laga"}', "latin.jsonl, line 2: not JSON"),
    "row.jsonl": (LINES + b'{"text": "cut', "row.jsonl, line 4: not JSON"),
    "list.jsonl": (b"[1]\n", "list.jsonl, line 1: a JSON list, not an object"),
    "other.jsonl": (b'{"body": "x"}\n', r"line 1: the text field 'text' not in \['body'\]"),
    "number.jsonl": (b'{"text": 3}\n', "line 1: the text field 'text' is int"),
    "label.jsonl": (b'{"text": "x", "domain": {}}\n', "line 1: label 'domain' is dict"),
    "cut.parquet": (b"PAR1 and no more", "cut.parquet: not a whole Parquet file"),
    "cut.array_record": (b"no record", "cut.array_record: not a whole ArrayRecord file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_files_and_rows_are_named_and_left_out_only_if_asked(name, tmp_path):
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadData, match=message) as caught:
        list(open_source(tmp_path / name))
    assert "skip_broken=True" in str(caught.value)
    lenient = open_source(tmp_path / name, skip_broken=True)
    assert len(list(lenient)) == (3 if name == "row.jsonl" else 0)
    assert len(lenient.skipped) == 1 and name in lenient.skipped[0]


def test_a_truncated_zstd_file_is_an_error_not_a_short_one(tmp_path):
    zstd(tmp_path / "a.jsonl.zst")
    whole = (tmp_path / "a.jsonl.zst").read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(whole[:-9])
    with pytest.raises(BadData, match="a.jsonl.zst: the file is truncated"):
        list(open_source(tmp_path / "a.jsonl.zst"))


def test_unknown_paths_endings_options_and_units_name_the_choices(tmp_path):
    (tmp_path / "a.docx").write_text("x")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match="no file matches .*nothing"):
        open_source(tmp_path / "nothing*")
    with pytest.raises(ValueError, match="known endings: .*jsonl"):
        open_source(tmp_path / "a.docx")
    with pytest.raises(ValueError, match="no option .'units'.; choose from .*'unit'"):
        open_source(tmp_path / "a.txt", units="line")
    with pytest.raises(ValueError, match="unit 'word': choose from"):
        open_source(tmp_path / "a.txt", unit="word")
    with pytest.raises(ValueError, match="cannot open 'gz://x'"):
        open_source("gz://x")


def test_a_missing_library_names_the_extra_that_brings_it(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'qwen3\[data\]'"):
        len(open_source(tmp_path / "a.parquet"))


def test_token_ids_are_taken_as_they_are(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"tokens": [1, 2, 3]}\n{"tokens": [1.5]}\n')
    source = JsonLinesFiles(tmp_path / "a.jsonl", text="tokens")
    assert np.array_equal(source[0].content, [1, 2, 3])
    with pytest.raises(BadData, match="line 2: a list that is not one of token ids"):
        source[1]


def test_damaged_parquet_is_left_out_row_by_row_or_file_by_file(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = pyarrow.array([b"one", b"\xff", b"three", b"four"], pyarrow.binary())
    table = pyarrow.table({"text": texts.view(pyarrow.string()), "quality": [1.0, 2.0, 3.0, 4.0]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2, compression="none")
    with pytest.raises(BadData, match="a.parquet, row 2: unreadable .*skip_broken=True"):
        list(open_source(tmp_path / "a.parquet"))
    source = open_source(tmp_path / "a.parquet", skip_broken=True)
    assert [d.content for d in source] == ["one", "three", "four"] and len(source.skipped) == 1
    assert source[2].content == "three"
    draw, data = random.Random(0), (tmp_path / "a.parquet").read_bytes()
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "b.parquet").write_bytes(damaged)
        damaged = open_source(tmp_path / "b.parquet", skip_broken=True)
        contents = [d.content for d in damaged]  # raises nothing
        assert damaged.skipped or len(contents) == 4
        assert all("b.parquet" in message for message in damaged.skipped)


def test_a_tfds_set_needs_no_tensorflow(make, tokenizer, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    from qwen3.data import corpora
    from qwen3.data.tfds_source import Tfds, builder

    labels = [{"language": "en", "quality": 0.5}, {"language": "zh"}, {"quality": 1.0}]
    corpus = make("small", [5, 3, 9], labels)
    stored = builder(corpus, "small", str(tmp_path / "sets"))
    stored.download_and_prepare()
    source = Tfds(str(stored.data_dir), text="tokens")
    assert len(source) == 3
    assert source[1].content.tolist() == corpus[1].content.tolist()
    assert corpora.prepare(source, tokenizer, tmp_path / "again").hash == corpus.hash
    with pytest.raises(BadData, match="record 0: the text field 'words' not in"):
        list(Tfds(str(stored.data_dir), text="words"))
    lenient = Tfds(str(stored.data_dir), text="words", skip_broken=True)
    assert list(lenient) == [] and "record 2" in lenient.skipped[2]
    with pytest.raises(ValueError, match=r"no split 'test'; choose from \['train'\]"):
        Tfds(str(stored.data_dir), split="test")
    assert "tensorflow" not in sys.modules
