"""The data pipeline's figures: MB a second and core of each step, duplicates found and falsely
accused, evaluation items found in disguise, languages told apart, PDF pages a second.

Text is the folder's corpora. Near duplicates are planted: copies of paragraphs with up to 4% of
their words replaced; truth is the Jaccard index of every planted pair. Items are those of the
suites below the folder, in five disguises and once with all numbers changed; clean texts are
paragraphs of the corpora, of which none may be accused.

Command:   python experiments/bench_pipeline.py --data FOLDER [--only rates,duplicates,items]
Hardware:  one core, two minutes; processor time is measured.
Expected:  docs/log/2026-11-30-data-pipeline.md
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from qwen3.data.sources import open_source
from qwen3.pipeline import (
    decontamination,
    near_duplicates,
    normalizers,
    personal_data,
    quality_rules,
)
from qwen3.pipeline.evaluation_items import evaluation_items
from qwen3.pipeline.language_identifier import train
from qwen3.pipeline.language_texts import declarations, halves, word_lists
from qwen3.pipeline.near_duplicates import DuplicateSettings
from qwen3.pipeline.pdf_text import read_pdf
from qwen3.pipeline.text_record import TextRecord, record_id

FILES = ("en_c4_demo", "en_peps", "zh_d2l", "math_hott_book")
SETTINGS = DuplicateSettings()


def documents(folder: Path) -> list[str]:
    """The texts of the corpora, as they lie."""
    paths = [str(folder / f"corpus/{name}.jsonl.gz") for name in FILES]
    return [str(d.content) for path in paths for d in open_source(path, skip_broken=True)]


def timed(work: Callable[[], object]) -> float:
    """Processor seconds of `work`."""
    began = time.process_time()
    work()
    return time.process_time() - began


def rates(folder: Path) -> None:
    """Print MB/s of each step, and of normalise, rules, exact and near duplicates together."""
    texts = documents(folder)
    size = sum(len(text.encode()) for text in texts) / 1e6
    records = [TextRecord(record_id(text, "x", {}), text, "x") for text in texts]
    table = train((code, "\n".join(lines)) for code, lines in declarations(udhr(folder)))
    index = decontamination.ItemIndex(row["text"] for row in evaluation_items(["all"], folder))

    def copies() -> None:
        for record in records:
            near_duplicates.exact_key(record.text)
            hashes = near_duplicates.word_runs(record.text, SETTINGS.shingle)
            near_duplicates.band_keys(hashes, SETTINGS)

    steps: dict[str, Callable[[], object]] = {
        "normalize": lambda: list(map(normalizers.build(), records)),
        "quality": lambda: list(map(quality_rules.build(), records)),
        "duplicates": copies,
        "personal_data": lambda: list(map(personal_data.build(), records)),
        "language": lambda: [table.identify(text) for text in texts],
        "decontaminate": lambda: [index.matches(text) for text in texts],
    }
    seconds = {name: timed(work) for name, work in steps.items()}
    for name, value in seconds.items():
        print(f"{name:<16} {size / value:>8.1f} MB/s")
    cleaning = sum(seconds[name] for name in ("normalize", "quality", "duplicates"))
    print(f"{'first three':<16} {size / cleaning:>8.1f} MB/s of {size:.1f} MB")


def replaced(text: str, share: float, choose: random.Random) -> str:
    """The text with a share of its words replaced."""
    words = text.split()
    for i in choose.sample(range(len(words)), round(share * len(words))):
        words[i] = f"word{choose.randrange(10**6)}"
    return " ".join(words)


def duplicates(folder: Path) -> None:
    """Print recall and precision on planted copies."""
    choose = random.Random(0)
    paragraphs = [p for text in documents(folder) for p in text.split("\n\n")]
    unique = {near_duplicates.exact_key(p): p for p in paragraphs if len(p.split()) >= 60}
    texts = list(unique.values())[:3000]
    copies = [replaced(text, choose.uniform(0, 0.04), choose) for text in texts]
    named = [(f"a{i}", text) for i, text in enumerate(texts)]
    named += [(f"b{i}", text) for i, text in enumerate(copies)]
    sets = {name: near_duplicates.shingles(text, SETTINGS.shingle) for name, text in named}
    truth = {
        i
        for i in range(len(texts))
        if near_duplicates.jaccard(sets[f"a{i}"], sets[f"b{i}"]) >= SETTINGS.jaccard
    }
    dropped = near_duplicates.find(named, SETTINGS)
    right = sum(f"a{i}" in dropped or f"b{i}" in dropped for i in truth)
    false = sum(
        near_duplicates.jaccard(sets[name], sets[kept]) < SETTINGS.jaccard
        for name, (kept, _) in dropped.items()
    )
    print(f"duplicates       {len(truth):,} planted pairs, recall {right / len(truth):.4f}")
    print(f"                 {len(dropped):,} dropped, {false} of them below the threshold")


DISGUISES: dict[str, Callable[[str, str], str]] = {
    "in a paragraph": lambda item, filler: f"{filler} {item} {filler}",
    "in short lines": lambda item, filler: "\n".join(textwrap.wrap(f"{filler} {item}", 48)),
    "quoted": lambda item, filler: "\n".join(f"> {line}" for line in textwrap.wrap(item, 60)),
    "in capitals": lambda item, filler: f"{filler} {item.upper()}",
    "without marks": lambda item, filler: re.sub(r"[^\w\s]", "", item),
    "other numbers": lambda item, filler: re.sub(r"\d+", lambda m: f"{int(m.group()) + 17}", item),
}


def items(folder: Path) -> None:
    """Print the recall of items by disguise, and how many clean documents are accused."""
    texts = list(dict.fromkeys(row["text"] for row in evaluation_items(["all"], folder)))
    index = decontamination.ItemIndex(texts)
    long = [i for i in range(len(texts)) if i not in set(index.too_short)]
    sample = random.Random(0).sample(long, min(1500, len(long)))
    clean = [t for text in documents(folder) for t in text.split("\n\n") if len(t) > 300][:2500]
    print(f"items            {len(texts):,}, {len(index.too_short):,} of them too short")
    for name, disguise in DISGUISES.items():
        hits = 0
        for number, i in enumerate(sample):
            text = disguise(texts[i], clean[number % len(clean)][:400])
            hits += any(match.item == i for match in index.matches(text))
        print(f"  {name:<14} recall {hits / len(sample):.4f}")
    accused = [text for text in clean if index.matches(text)]
    print(f"  clean texts    {len(accused)} of {len(clean):,} accused")
    for text in accused[:5]:
        print("   ", texts[index.matches(text)[0].item][:80].replace("\n", " "))


def udhr(folder: Path) -> str:
    return str(folder / "corpus/multi_udhr2.zip")


def languages(folder: Path) -> None:
    """Print the macro accuracy on second halves of declarations, and the languages below 0.95."""
    texts = {code: halves(lines) for code, lines in declarations(udhr(folder))}
    pairs = [(code, "\n".join(first)) for code, (first, _) in texts.items()]
    table = train(pairs + list(word_lists(str(folder / "gatitos"))))
    shares = {}
    for code, (_, lines) in texts.items():
        guesses = Counter(table.identify(line)[0] for line in lines if len(line) >= 20)
        shares[code] = guesses[code] / guesses.total()
    print(f"languages        {len(shares)}, macro {sum(shares.values()) / len(shares):.4f}")
    print("  below 0.95    ", {code: round(s, 2) for code, s in shares.items() if s < 0.95})


def pages(folder: Path) -> Iterator[str]:
    for text in documents(folder):
        if text.isascii():
            lines = [line for part in text.split("\n") for line in textwrap.wrap(part, 90) or [""]]
            yield from ("\n".join(lines[i : i + 50]) for i in range(0, len(lines), 50))


def pdf(folder: Path) -> None:
    """Print pages a processor second, the start of the child process included."""
    from reportlab.pdfgen import canvas

    with tempfile.TemporaryDirectory() as place:
        drawing = canvas.Canvas(f"{place}/book.pdf")
        count = 0
        for count, page in zip(range(1, 1001), pages(folder), strict=False):  # noqa: B007
            for i, line in enumerate(page.split("\n")):
                drawing.drawString(50, 800 - 14 * i, line)
            drawing.showPage()
        drawing.save()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.process_time()
        text, _ = read_pdf(f"{place}/book.pdf")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.process_time() - began
        seconds += after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(
        f"pdf              {count / seconds:.0f} pages a second, {len(text) / 1e6:.1f} MB of text"
    )


PARTS = {"rates": rates, "duplicates": duplicates, "items": items, "languages": languages}
PARTS |= {"pdf": pdf}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", default=",".join(PARTS))
    args = parser.parse_args()
    for name in args.only.split(","):
        if name not in PARTS:
            raise SystemExit(f"no part {name!r}; choose from {', '.join(PARTS)}")
        PARTS[name](args.data)


if __name__ == "__main__":
    main()
