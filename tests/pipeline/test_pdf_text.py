"""PDFs: the text layer without furniture and broken words; what cannot be read is named."""

import textwrap

import pytest

from qwen3.data.unpacked import BadData
from qwen3.pipeline import pdf_text
from qwen3.pipeline.pdf_text import assemble, read_pdf, without_furniture

pytest.importorskip("pypdfium2")
canvas = pytest.importorskip("reportlab.pdfgen.canvas")

SENTENCES = [
    f"Paragraph {name} tells of the {name} house on the hill and of those who lived there once."
    for name in ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
]


def write_pdf(path, pages, encrypt=None, columns=1):
    """A PDF of pages of lines, with a header and a numbered footer."""
    drawing = canvas.Canvas(str(path), pagesize=(595, 842), encrypt=encrypt)
    for number, lines in enumerate(pages, 1):
        drawing.drawString(50, 810, "A Book of Houses")
        for i, line in enumerate(lines):
            column, row = divmod(i, -(-len(lines) // columns))
            drawing.drawString(50 + 260 * column, 780 - 14 * row, line)
        drawing.drawString(280, 20, f"Page {number} of {len(pages)}")
        drawing.showPage()
    drawing.save()


def test_furniture_goes_and_columns_follow_each_other(tmp_path):
    path = tmp_path / "book.pdf"
    pages = [textwrap.wrap(f"{a} {b}", 40) for a, b in zip(SENTENCES, SENTENCES[1:], strict=False)]
    write_pdf(path, pages, columns=2)
    text, history = read_pdf(str(path))
    assert history == ["pdf: pages 1-7 text layer"]
    assert "Book of Houses" not in text and "Page" not in text
    words = " ".join(text.split())
    assert all(sentence in words for sentence in SENTENCES)


def test_words_broken_at_a_line_end_are_joined_and_paragraphs_kept():
    page = (
        "The miller had been there since the morn-\n"
        "ing with a lamp, and the well-known coun\ufffe\n"
        "cil met at eight.\n"
        "A second paragraph begins here and it is\n"
        "longer than a single line of this page."
    )
    assert assemble([page]) == (
        "The miller had been there since the morning with a lamp, and the well-known council "
        "met at eight.\n\nA second paragraph begins here and it is longer than a single line of "
        "this page."
    )


def test_a_line_that_stands_on_one_page_is_no_furniture():
    words = ["apples", "bears", "cherries", "deer"]
    pages = [f"Chapter {n}\n{word}\nmiddle\nKings, Queens\n{n}" for n, word in enumerate(words)]
    assert without_furniture(pages) == [f"{word}\nmiddle" for word in words]


def test_sentences_run_on_over_a_page_break():
    assert assemble(["the end of a page that is not", "the end of a sentence at all."]) == (
        "the end of a page that is not the end of a sentence at all."
    )


@pytest.mark.parametrize("kind", ["encrypted", "cut", "garbage", "empty", "blank"])
def test_a_file_that_cannot_be_read_is_named(kind, tmp_path):
    path = tmp_path / "broken.pdf"
    if kind == "encrypted":
        from reportlab.lib.pdfencrypt import StandardEncryption

        write_pdf(path, [SENTENCES], encrypt=StandardEncryption("user", "owner"))
    elif kind == "blank":
        drawing = canvas.Canvas(str(path))
        drawing.showPage()
        drawing.save()
    else:
        write_pdf(tmp_path / "good.pdf", [SENTENCES])
        data = (tmp_path / "good.pdf").read_bytes()
        path.write_bytes({"cut": data[:200], "garbage": b"%PDF-1.7 nothing", "empty": b""}[kind])
    words = {"encrypted": "encrypted", "empty": "the file is empty", "blank": "no text on 1 pages"}
    with pytest.raises(BadData, match=f"broken.pdf: .*{words.get(kind, 'unreadable')}"):
        read_pdf(str(path))


def test_ocr_without_tesseract_is_refused(monkeypatch):
    monkeypatch.setattr(pdf_text.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="needs the program tesseract"):
        read_pdf("any.pdf", ocr="eng")


def test_pages_without_text_are_recognised_and_blank_ones_are_not_asked_about(
    tmp_path, monkeypatch
):
    program = tmp_path / "bin/tesseract"
    program.parent.mkdir()
    # A stand-in that notes each call, and says the size of the picture that it was given.
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$4" >> {tmp_path}/calls\n'
        'head -c 4 "$1" | grep -q PNG && echo "Words that stood on a scanned page."\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    drawing = canvas.Canvas(str(tmp_path / "scan.pdf"))
    drawing.drawString(50, 700, "A page that has a text layer of its own, read as it is.")
    drawing.showPage()
    drawing.rect(100, 100, 200, 50, fill=1)
    drawing.showPage()
    drawing.showPage()
    drawing.save()
    text, history = read_pdf(str(tmp_path / "scan.pdf"), ocr="deu+fra")
    assert "its own, read as it is." in text and "Words that stood on a scanned page." in text
    assert history == ["pdf: pages 1 text layer, 2-3 OCR"]
    assert (tmp_path / "calls").read_text() == "deu+fra\n"
