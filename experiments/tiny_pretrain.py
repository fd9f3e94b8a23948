"""Three-stage pretraining (report 3.2) of a 0.2M model on real text.

Without --corpus the text is what every Python installation has: the standard library's sources
("code") and its docstrings and language reference ("prose"). With --corpus it is a folder of
en_*, math_* and code_* files (text or JSON lines, also .gz). Tokenizer and corpora are made once,
beside the workdir (--data names another place). S1 is mostly prose at 128 tokens, S2 mostly the
reasoning sets with a faster decay, S3 rows of 512, 75% of them from long documents, with the RoPE
base raised from 10,000 to 1,000,000 (ABF).

Command:   python experiments/tiny_pretrain.py --workdir runs/tiny_pretrain [--corpus FOLDER]
               [--set a.b=c]
Hardware:  two cores; 20 minutes beside other work.
Expected:  evaluation.json in the workdir, printed as a table at the end, in which S2 lowers the
           loss of the reasoning sets below S1's end (math 3.231 to 2.270) and S3 the loss at
           positions from 128 on (docs/log/2026-11-21-three-stage-pretraining.md).
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qwen3.run import main
from qwen3.config import OptimConfig
from qwen3.data import corpora
from qwen3.data.held_out import hold_out
from qwen3.data.mixture import LONG_CONTEXT, LengthBands, Stage
from qwen3.data.sources import Document, open_source
from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import size
from qwen3.stages import pretrain
from qwen3.stages.pretrain import Config, Evaluation, StageConfig
from qwen3.train.recording import Log

SECTION = 10_000  # characters: a longer document becomes several, so that some can be held out
LIMIT = 2_000_000  # characters a domain: several times what the run reads
SHORT, LONG = 128, 512
FILES = {"prose": "en_*", "math": "math_*", "code": "code_*"}  # domain -> files of --corpus


def config(data: Path | str, domains: Sequence[str] = ("prose", "math", "code")) -> Config:
    """Prose in S1; the others, "reasoning", in S2; both in S3."""
    reasoning = [name for name in domains if name != "prose"]

    def mixture(prose: float) -> dict[str, float]:
        return {"prose": prose} | {name: (1 - prose) / len(reasoning) for name in reasoning}

    def stage(
        name: str,
        prose: float,
        length: int,
        batch: int,
        steps: int,
        theta: float,
        optim: OptimConfig,
        lengths: LengthBands | None = None,
    ) -> StageConfig:
        edges = (0, 64) if length == SHORT else (0, 64, SHORT, 256)
        return StageConfig(
            Stage(name, mixture(prose), length, batch, lengths),
            steps,
            optim,
            theta,
            evaluation=Evaluation(tuple(domains), edges, rows=128),
        )

    return Config(
        model=size("tiny"),
        stages=(
            stage("s1", 0.9, SHORT, 8, 1500, 1e4, OptimConfig(peak=3e-3, final=0.6, warmup=50)),
            stage("s2", 0.2, SHORT, 8, 1000, 1e4, OptimConfig(peak=1.8e-3, final=0.05, warmup=0)),
            stage(
                "s3",
                0.4,
                LONG,
                2,
                400,
                1e6,
                OptimConfig(peak=1.5e-3, final=0.1, warmup=20),
                LONG_CONTEXT.scaled(LONG),
            ),
        ),
        corpora={name: f"{data}/{name}" for name in domains},
        held_out={name: f"{data}/{name}-held-out" for name in domains},
        save_every=500,
        log=Log(every=20),
    )


CONFIG = config("runs/tiny_pretrain_data", ("prose", "code"))


class Sections:
    """Documents of at most SECTION characters, LIMIT characters in all, evenly chosen."""

    def __init__(self, domain: str, texts: Sequence[str]):
        self.domain, self.skipped = domain, []
        pieces = [
            text[start : start + SECTION]
            for text in texts
            for start in range(0, len(text), SECTION)
        ]
        stride = max(1, -(-sum(map(len, pieces)) // LIMIT))
        self.texts = [piece for piece in pieces[::stride] if piece.strip()]

    def __iter__(self) -> Iterator[Document]:
        return (Document(text, {"domain": self.domain}) for text in self.texts)

    def describe(self) -> dict[str, Any]:
        digest = hashlib.sha256("\0".join(self.texts).encode("utf-8")).hexdigest()
        return {"domain": self.domain, "texts": digest}


def standard_library() -> dict[str, list[str]]:
    """{"prose": texts, "code": texts}: docstrings and the language reference; sources."""
    folder = Path(sysconfig.get_path("stdlib"))
    prose, code = [], []
    for path in sorted((*folder.glob("*.py"), *folder.glob("[a-z]*/*.py"))):
        if {"site-packages", "test", "tests", "idlelib"} & set(path.parts[-2:-1]):
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        if path.name == "topics.py":
            prose += [str(value) for value in ast.literal_eval(text[text.index("{") :]).values()]
            continue
        code.append(text)
        nodes = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docs = [ast.get_docstring(n) for n in ast.walk(ast.parse(text)) if isinstance(n, nodes)]
        prose.append("\n\n".join(filter(None, docs)))
    return {"prose": prose, "code": code}


def prepare(folder: Path | None, data: Path) -> tuple[str, ...]:
    """Make tokenizer and corpora in `data`, from the texts in `folder`; returns the domains."""
    if folder:
        texts = {
            name: [d.content for path in sorted(folder.glob(glob)) for d in open_source(path)]
            for name, glob in FILES.items()
        }
    else:
        texts = standard_library()
    missing = [FILES[name] for name, documents in texts.items() if not documents]
    if missing:
        raise SystemExit(f"{folder} has no files {', '.join(missing)}")
    sources = {name: Sections(name, documents) for name, documents in texts.items()}
    if not (data / "tokenizer").exists():
        sample = [text for source in sources.values() for text in source.texts[::4]]
        Tokenizer.train(sample, size("tiny").vocab).save(data / "tokenizer")
    tokenizer = Tokenizer.load(data / "tokenizer")
    for name, source in sources.items():
        kept, held_out = hold_out(source, every=20)
        corpora.prepare(kept, tokenizer, data / name)
        corpora.prepare(held_out, tokenizer, data / f"{name}-held-out")
    return tuple(sources)


def show(workdir: Path) -> None:
    """The evaluations as a table, and the share of the time spent waiting for input."""
    print(f"{'stage':<6}{'step':>6}{'base':>10}  {'set':<7}{'loss':>7}  loss by position")
    for row in json.loads((workdir / "evaluation.json").read_text()):
        for name, measured in row["sets"].items():
            spans = "  ".join(f"{k} {v:.3f}" for k, v in measured["by_position"].items())
            stage = f"{row['stage']:<6}{row['step']:>6}{row['rope_theta']:>10.0f}"
            print(f"{stage}  {name:<7}{measured['loss']:>7.3f}  {spans}")
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    rows = [line for line in lines if line["step"] > 100]
    wait = sum(r["input_wait"] * r["seconds"] for r in rows) / sum(r["seconds"] for r in rows)
    print(f"input wait {wait:.2%} of the time; last {rows[-1]['tokens_per_second']:,.0f} tokens/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--data", type=Path)
    options, rest = parser.parse_known_args()
    (workdir,) = re.findall(r"--workdir[= ](\S+)", " ".join(rest)) or ["runs/tiny_pretrain"]
    data = options.data or Path(f"{workdir}_data")
    if {"-h", "--help"} & set(sys.argv):
        main(pretrain.run, CONFIG, ["--help"])
    main(pretrain.run, config(data, prepare(options.corpus, data)), rest)
    show(Path(workdir))
