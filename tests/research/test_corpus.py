"""Reading a folder of documents, good and bad, and searching it."""

import pytest
from made_corpus import WRITERS

from qwen3.research import source_files
from qwen3.research.model_calls import json_list
from qwen3.research.passages import LONGEST, PassageIndex, split, words
from qwen3.research.source_files import SourceFile, read_folder

TEXT = "The mill of Aldham ground 4,711 tonnes."


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """A folder with one good file of each kind, and bad ones."""
    folder = tmp_path_factory.mktemp("damaged")
    for kind, writer in WRITERS.items():
        writer(folder / f"good.{kind}", "Papers", [TEXT])
    pdf = (folder / "good.pdf").read_bytes()
    bad = {
        "cut.pdf": pdf[: len(pdf) // 2],
        "noise.pdf": b"%PDF-1.7\n" + bytes(range(256)) * 40,
        "empty.pdf": b"",
        "empty.md": b"",
        "blank.txt": b" \n\n\t",
        "latin.txt": "Caf\u00e9".encode("latin-1"),
        "zero.txt": b"a\0b",
        "photo.jpg": b"\xff\xd8",
        "script.html": b"<html><script>only()</script></html>",
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    with (folder / "line.txt").open("wb") as file:
        file.truncate(100 * 2**20)  # 100 MB of one line, that take no room on the disk
    (folder / ".hidden.txt").write_text("not for readers")
    (folder / "link.txt").symlink_to(folder / "missing.txt")
    return folder


def test_what_cannot_be_read_is_named_with_its_reason_and_disturbs_nothing(damaged):
    corpus = read_folder(damaged)
    assert [file.path for file in corpus.files] == [
        f"good.{k}" for k in ("html", "md", "pdf", "txt")
    ]
    for file in corpus.files:
        assert TEXT in " ".join(" ".join(file.pages).split()), file.path
        assert file.title == "Papers", file.path
    reasons = dict(corpus.unread)
    assert {name: reason.split(":")[0].split(" (")[0] for name, reason in reasons.items()} == {
        "blank.txt": "no text in it",
        "cut.pdf": reasons["cut.pdf"].split(":")[0],
        "empty.md": "empty file",
        "empty.pdf": "empty file",
        "latin.txt": "not UTF-8",
        "line.txt": "104857600 bytes, at most 33554432 are read",
        "noise.pdf": "broken PDF",
        "photo.jpg": ".jpg",
        "script.html": "no text in it",
        "zero.txt": "binary data, not text",
    }
    assert reasons["cut.pdf"].startswith(("broken PDF", "no text"))
    assert "good.html" not in reasons and "read are .txt, .md" in reasons["photo.jpg"]


def test_a_pdf_that_keeps_its_reader_busy_is_given_up(damaged, monkeypatch):
    monkeypatch.setattr(source_files, "PDF_SECONDS", 0.001)
    reasons = dict(read_folder(damaged).unread)
    assert reasons["good.pdf"] == "the PDF was not read within 0.001 s"


def test_a_changed_file_changes_the_digest(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    first = read_folder(tmp_path).digest
    assert read_folder(tmp_path).digest == first
    (tmp_path / "a.txt").write_text("two")
    assert read_folder(tmp_path).digest != first


def test_a_folder_that_is_none_or_holds_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="missing is no folder"):
        read_folder(tmp_path / "missing")
    with pytest.raises(ValueError, match="nothing to read there .no files"):
        read_folder(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="a.txt: empty file"):
        read_folder(tmp_path)


def index(*texts):
    return PassageIndex(split([SourceFile(f"{i}", "", (t,)) for i, t in enumerate(texts)]))


def test_passages_are_found_by_their_words_in_spaced_and_unspaced_languages():
    found = index(TEXT, "The river froze.", "水磨坊每年磨面粉一千吨。", "หมู่บ้านริมน้ำ", "Die Mühle")
    for query, want in (
        ("tonnes ground", "0"),
        ("RIVER", "1"),
        ("面粉", "2"),
        ("หมู่บ้าน", "3"),
        ("mühle", "4"),
        ("ｒｉｖｅｒ", "1"),  # full-width letters
    ):
        assert [passage.path for passage in found.search(query, 3)][:1] == [want], query
    for nothing in ("", "zebra", '"', "* ^ : ( ) -", "\0"):
        assert found.search(nothing, 3) == [], nothing
    assert found.search('mill" OR "river NEAR(', 1)  # nothing of it is read as syntax
    assert len(index(*["same words"] * 9).search("same", 4)) == 4


def test_a_long_line_is_cut_at_sentences_spaces_or_anywhere():
    for text in ("It is so. " * 900, "word " * 900, "x" * 5000, "没有空格。" * 900):
        pieces = [passage.text for passage in split([SourceFile("a", "", (text,))])]
        assert max(map(len, pieces)) <= LONGEST
        assert "".join("".join(pieces).split()) == "".join(text.split())
    sentences = split([SourceFile("a", "", ("It is so. " * 900,))])
    assert all(passage.text.endswith("It is so.") for passage in sentences)
    assert words("Größe, 3.5 km") == ["grösse", "3", "5", "km"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('Sure: [{"a": 1}]', [{"a": 1}]),
        ('[1] says ```json\n[{"a": [1]}, 2]```', [{"a": [1]}, 2]),
        ("[]", []),
        ("see [1] and [2]", None),
        ('[{"a": ', None),
        ("[" * 50_000, None),
        ('[{"a":' * 3000, None),
    ],
)
def test_the_first_list_of_objects_in_a_reply_is_read(text, want):
    assert json_list(text) == want
