"""Rows of files: every form of a file gives the same rows, and every fault names file and line."""

import gzip
import json
import os

import fsspec
import pytest

from qwen3.data import atomic, jsonl, unpacked
from qwen3.data.jsonl import read_rows, write_rows

ROWS = [{"text": "one"}, {"text": "a\u2028b\u0085c\x0bd", "n": [1, None]}, {"text": "三 \\u"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data):
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


FORMS = {
    "plain.jsonl": LINES,
    "no_newline.jsonl": LINES[:-1],
    "crlf.jsonl": LINES.replace(b"\n", b"\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES,
    "packed.jsonl.gz": gzip.compress(LINES[:30]) + gzip.compress(LINES[30:]),
    "packed.jsonl.zst": LINES,
}


@pytest.mark.parametrize("chunk", [3, 1 << 22])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_gives_the_same_numbered_rows(name, chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(unpacked, "CHUNK", chunk)
    data = FORMS[name]
    (tmp_path / name).write_bytes(zstd(data) if name.endswith("zst") else data)
    assert list(read_rows(tmp_path / name)) == list(enumerate(ROWS, 1))


def test_blank_lines_are_passed_over_and_counted(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\n{"a": 1}\n \t\r\n{"a": 2}\n\n')
    assert list(read_rows(tmp_path / "a.jsonl")) == [(2, {"a": 1}), (4, {"a": 2})]
    (tmp_path / "a.jsonl").write_bytes(b"")
    assert list(read_rows(tmp_path / "a.jsonl")) == []
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf\n")
    assert list(read_rows(tmp_path / "a.jsonl")) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "new/folder/a.jsonl"])
def test_rows_come_back_as_they_were_written_and_lines_are_literal(name, tmp_path):
    pytest.importorskip("zstandard")
    path = tmp_path / name
    write_rows(path, ROWS)
    assert [row for _, row in read_rows(path)] == ROWS
    assert b"".join(unpacked.chunks(str(path))) == LINES
    before = path.read_bytes()
    write_rows(path, ROWS)
    assert path.read_bytes() == before  # no time in the header


def test_urls_are_read_and_written():
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        write_rows(f"memory://made/{name}", ROWS)
        assert [row for _, row in read_rows(f"memory://made/{name}")] == ROWS
    assert fsspec.filesystem("memory").cat("/made/rows.jsonl") == LINES
    with pytest.raises(ValueError, match="cannot open 'gz://x'"):
        list(read_rows("gz://x"))


def test_parquet_holds_the_fields_of_every_row(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    write_rows(path, [{"a": 1}, {"b": [{"c": "x"}]}])
    assert list(read_rows(path)) == [
        (1, {"a": 1, "b": None}),
        (2, {"a": None, "b": [{"c": "x"}]}),
    ]
    with pytest.raises(ValueError, match="a.parquet: rows that Parquet cannot hold"):
        write_rows(path, [{"a": 1}, {"a": "x"}])
    with pytest.raises(ValueError, match="a.parquet: rows that Parquet cannot hold"):
        write_rows(path, [{"a": {}}])
    with pytest.raises(ValueError, match="a.parquet, row 1: no field .'d'."):
        list(read_rows(path, fields=["d"]))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="a.parquet: not a whole Parquet file"):
        list(read_rows(path))


def test_objects_of_different_fields_come_back_from_parquet_without_nulls(tmp_path):
    pytest.importorskip("pyarrow")
    calls = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {"b": ["x", None]}}]
    rows = [{"calls": calls, "score": 1}, {"calls": [], "score": float("nan"), "note": "x"}]
    write_rows(tmp_path / "a.parquet", rows)
    (_, first), (_, second) = read_rows(tmp_path / "a.parquet")
    assert first == {"calls": calls, "score": 1, "note": None}
    assert second["calls"] == [] and second["score"] != second["score"]
    with pytest.raises(ValueError, match="a.parquet, row 2: Parquet would change it"):
        write_rows(tmp_path / "a.parquet", [{"a": {"b": 1}}, {"a": {"b": None}}])
    assert len(list(read_rows(tmp_path / "a.parquet"))) == 2  # the old file


def test_a_parquet_row_that_is_not_utf8_is_named_and_the_others_are_read(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = pyarrow.array([b"one", b"\xff", b"three"], pyarrow.binary()).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a.parquet, row 2: unreadable"):
        list(read_rows(tmp_path / "a.parquet"))
    skipped = []
    rows = list(read_rows(tmp_path / "a.parquet", skipped=skipped))
    assert rows == [(1, {"text": "one"}), (3, {"text": "three"})] and "row 2" in skipped[0]


FAULTS = {
    "not JSON": (b"{broken", "not JSON .* at character 2.: '{broken'"),
    "cut off": (b'{"a": "x', "not JSON .Unterminated"),
    "a list": (b"[1]", "a JSON list, not an object"),
    "binary": (b"\x1f\x8b\x08\x00\x00", "binary data, not text"),
    "UTF-16": ("\ufeff{}".encode("utf-16"), "binary data, not text"),
    "Latin-1": (b'{"a": "M\xe1laga"}', "not JSON .byte 8 is not UTF-8"),
    "nested too deep": (b'{"a": ' + b"[" * 100_000, "nested too deep"),
    "a huge number": (b'{"a": ' + b"9" * 5000 + b"}", "a whole number of more digits"),
    "a lone surrogate": (b'{"a": ["\\uD83D\\uDE00", "\\ud800"]}', r"a lone surrogate .'\\ud800'."),
    "a lone surrogate in a name": (b'{"\\udfff": 1}', "a lone surrogate"),
    "no field": (b'{"a": 1}', r"no field \['text'\]; wanted: \['text'\]"),
}


@pytest.mark.parametrize("line, message", FAULTS.values(), ids=FAULTS)
def test_a_bad_line_is_named_or_left_out_and_noted(line, message, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(LINES + line + b"\n" + LINES)
    with pytest.raises(ValueError, match=f"bad.jsonl, line 4: {message}") as caught:
        list(read_rows(path, fields=["text"]))
    assert len(str(caught.value)) < 300 + len(str(path))
    skipped = []
    rows = [row for _, row in read_rows(path, fields=["text"], skipped=skipped)]
    assert rows == ROWS * 2
    assert len(skipped) == 1 and "line 4" in skipped[0]


def test_a_surrogate_pair_is_one_character(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\\uD83D\\uDE00"}')
    assert list(read_rows(tmp_path / "a.jsonl")) == [(1, {"a": "😀"})]


@pytest.mark.parametrize("name, pack", [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstd)])
def test_a_cut_compressed_file_is_an_error_that_says_how_far_it_could_be_read(name, pack, tmp_path):
    texts = os.urandom(3000).hex()
    lines = "".join(json.dumps({"text": texts[i : i + 60]}) + "\n" for i in range(0, 6000, 60))
    (tmp_path / name).write_bytes(pack(lines.encode())[:-900])
    with pytest.raises(ValueError, match=f"{name}: the file is truncated .*, after line \\d+"):
        list(read_rows(tmp_path / name, skipped=[]))
    (tmp_path / name).write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"{name}: not a valid .*, after line 0"):
        list(read_rows(tmp_path / name))


def test_a_line_too_long_to_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(LINES + b" " * (2 << 20))
    with pytest.raises(ValueError, match="a.jsonl: a line of more than 1 MiB, after line 3"):
        list(read_rows(tmp_path / "a.jsonl"))


def test_a_missing_file_is_no_empty_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        list(read_rows(tmp_path / "none.jsonl"))


def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.jsonl"
    write_rows(path, ROWS)

    def rows():
        yield {"text": "new"}
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_rows(path, rows())
    with pytest.raises(ValueError, match=r"a.jsonl, line 2: a lone surrogate '\\ud800'"):
        write_rows(path, [{"text": "new"}, {"text": "\ud800"}])
    with pytest.raises(RuntimeError):
        write_rows("memory://kept/a.jsonl", rows())
    assert path.read_bytes() == LINES and os.listdir(tmp_path) == ["a.jsonl"]
    assert not fsspec.filesystem("memory").exists("/kept/a.jsonl")


def test_text_is_replaced_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "a" / "b.json"
    atomic.write_atomically(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(5, "disk")))
    with pytest.raises(OSError, match="disk"):
        atomic.write_atomically(path, "new")
    assert path.read_text() == "é\n" and os.listdir(path.parent) == ["b.json"]
