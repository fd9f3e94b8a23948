"""`qwen3 research QUESTION --corpus FOLDER`: a report with a source for every claim."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

NEEDED = ("pypdfium2", "reportlab", "selectolax")  # the extra [research]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Register the command `research`."""
    parser = subparsers.add_parser(
        "research",
        help="a report from a folder of documents, with a source for every claim",
        description="Asks back, plans, searches, reads and writes report.md and report.pdf. A run "
        "that was cut off goes on with the same command; nothing is asked twice.",
    )
    parser.add_argument("question")
    parser.add_argument("--corpus", type=Path, required=True, help="text, Markdown, HTML, PDF")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a folder, a run's workdir, or a Hub name")
    source.add_argument("--url", help="an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1")
    parser.add_argument("--url-model", help="the server's name of the model; default: its first")
    parser.add_argument("--out", type=Path, help="default: runs/research/ and the question")
    parser.add_argument(
        "--answer", action="append", default=[], help="to a question back; may be given again"
    )
    parser.add_argument("--no-questions", action="store_true", help="ask nothing back")
    parser.add_argument("--sub-questions", type=int, default=6, help="sections, at most")
    parser.add_argument("--passages", type=int, default=8, help="read in one call")
    parser.add_argument("--rounds", type=int, default=2, help="searches for a sub-question")
    parser.add_argument("--max-tokens", type=int, default=4096, help="longest answer of the model")
    parser.add_argument("--tokens", type=int, help="budget: of all prompts and answers")
    parser.add_argument("--minutes", type=float, help="budget: of waiting for the model")
    parser.add_argument("--seed", type=int, default=0)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--think", dest="thinking", action="store_true", default=None)
    mode.add_argument("--no-think", dest="thinking", action="store_false")
    parser.add_argument("--facts", type=Path, help="JSON lines of planted facts, to measure it by")
    parser.set_defaults(run=run)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run the command. ValueError for what cannot be used, OSError for a model that is down."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing: pip install 'qwen3[research]'")
    from qwen3.research import model_calls, research_run, research_score, source_files

    settings = research_run.ResearchSettings(
        question=options.question,
        model=options.model or " ".join(filter(None, (options.url, options.url_model))),
        answers=tuple(options.answer),
        asks=not options.no_questions,
        sub_questions=options.sub_questions,
        passages=options.passages,
        rounds=options.rounds,
        max_tokens=options.max_tokens,
        tokens=options.tokens,
        minutes=options.minutes,
        thinking=options.thinking,
        seed=options.seed,
    )
    if options.url and options.thinking is not None:
        raise ValueError("--think and --no-think are of --model; a server has its own settings")
    facts = research_score.read_facts(options.facts) if options.facts else []
    console = Console(stderr=True)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    corpus = source_files.read_folder(options.corpus)
    for name, reason in corpus.unread:
        console.print(f"not read: {name}: {reason}", markup=False, highlight=False)
    if options.url:
        ask = model_calls.of_url(options.url, options.url_model, seed=options.seed)
    else:
        from qwen3.infer.language_model import load

        ask = model_calls.of_engine(
            load(options.model), thinking=options.thinking, seed=options.seed
        )
    out = options.out or Path("runs/research") / _folder_name(options.question)
    report = research_run.run(settings, corpus, out, ask, _asker(console))
    for name, estimate in research_score.score(report, corpus, facts).items():
        console.print(f"{name}: {estimate}", highlight=False)
    print(out / "report.md", out / "report.pdf", sep="\n")
    return 0


def _asker(console: Console) -> Callable[[str], str]:
    """Puts a question to the person at the terminal; the end of the input is no answer."""

    def ask_user(question: str) -> str:
        console.print(question, markup=False, highlight=False)
        try:
            return console.input("> ")
        except EOFError:
            return ""

    return ask_user


def _folder_name(question: str) -> str:
    """A short name of a question; different questions have different ones."""
    slug = "-".join(re.findall(r"[a-z0-9]+", question.lower()))[:40].strip("-")
    return f"{slug or 'question'}-{hashlib.sha256(question.encode()).hexdigest()[:8]}"
