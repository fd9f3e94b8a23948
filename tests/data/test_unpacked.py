"""Compressed files that are hostile: what they cost is bounded, whatever they unpack to."""

import gzip
import json
import shutil
import subprocess
import sys
import tempfile

import pytest

from qwen3.data import unpacked
from qwen3.data.jsonl import read_rows
from qwen3.data.sources import open_source
from qwen3.data.unpacked import BadData, Unpacked

BOMB = """
import resource, sys
import zstandard
from qwen3.data import jsonl, unpacked
with open(sys.argv[1], "wb") as file, zstandard.ZstdCompressor().stream_writer(file) as out:
    for _ in range(1 << 10):
        out.write(b"0" * (1 << 20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.argv[2] == "chunks":
    assert max(map(len, unpacked.chunks(sys.argv[1]))) <= 64 << 20
else:
    try:
        list(jsonl.read_rows(sys.argv[1]))
    except ValueError as error:
        assert "a line of more than 256 MiB, after line 0" in str(error), error
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before >> 10)
"""


@pytest.mark.parametrize("how, most", [("chunks", 250), ("rows", 700)])
def test_a_zstd_bomb_is_unpacked_in_bounded_memory(how, most, tmp_path):
    pytest.importorskip("zstandard")
    path = tmp_path / "a.jsonl.zst"
    done = subprocess.run([sys.executable, "-c", BOMB, path, how], capture_output=True, text=True)
    assert path.stat().st_size < 100_000  # and 1 GiB unpacked
    assert int(done.stdout) < most, done.stderr  # MiB; 2,000 where the input is decoded at once


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_a_file_that_unpacks_to_too_much_is_refused_by_name(name, tmp_path, monkeypatch):
    lines = (json.dumps({"text": "the same"}) + "\n").encode() * (1 << 18)
    zstandard = pytest.importorskip("zstandard")
    pack = gzip.compress if name.endswith("gz") else zstandard.ZstdCompressor().compress
    (tmp_path / name).write_bytes(pack(lines))
    monkeypatch.setattr(unpacked, "MOST_UNPACKED", 1 << 20)
    with pytest.raises(BadData, match=f"{name}: unpacks to more than 0 GiB; .*the plain file"):
        Unpacked(str(tmp_path / name))
    lenient = open_source(tmp_path / name, skip_broken=True)
    assert list(lenient) == [] and name in lenient.skipped[0]
    assert sum(1 for _ in read_rows(tmp_path / name)) == 1 << 18  # streamed, nothing is stored
    (tmp_path / "plain.jsonl").write_bytes(lines)
    assert len(open_source(tmp_path / "plain.jsonl")) == 1 << 18


def test_unpacking_leaves_room_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n'))
    disk = shutil.disk_usage(tempfile.gettempdir())
    monkeypatch.setattr(unpacked.shutil, "disk_usage", lambda path: disk._replace(free=200 << 20))
    with pytest.raises(OSError, match="200 MiB of disk left while unpacking .*a.jsonl.gz .*TMPDIR"):
        len(open_source(tmp_path / "a.jsonl.gz", skip_broken=True))
    small = disk._replace(total=1 << 30, free=200 << 20)  # a small disk needs less room
    monkeypatch.setattr(unpacked.shutil, "disk_usage", lambda path: small)
    assert len(open_source(tmp_path / "a.jsonl.gz")) == 1


def test_the_temporary_copy_goes_with_the_file_and_with_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text"))
    opened = Unpacked(str(tmp_path / "a.txt.gz"))
    assert opened.data[:] == b"some text" and len(list((tmp_path / "copies").iterdir())) == 1
    opened.close()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"\0"))
    with pytest.raises(BadData, match="binary data"):
        Unpacked(str(tmp_path / "a.txt.gz"))
    assert not list((tmp_path / "copies").iterdir())


def test_blank_ranges_of_any_length_are_no_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + " " * 50 + '\n\n   {"text": "b"}\n\t\n')
    assert [document.content for document in open_source(tmp_path / "a.jsonl")] == ["a", "b"]
    (tmp_path / "a.jsonl").write_text("\ufeff" + '{"text": "a"}\n', encoding="utf-8")
    assert [document.content for document in open_source(tmp_path / "a.jsonl")] == ["a"]
