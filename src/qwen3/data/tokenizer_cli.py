"""The commands `qwen3 tokenizer train | import | show`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from qwen3.data import sources
from qwen3.data.document import RowSource, leave_out
from qwen3.data.special_tokens import ADDED_TOKENS, OFFICIAL_RANKS
from qwen3.data.text_pieces import text_pieces
from qwen3.data.tokenizer import SMALLEST, Tokenizer
from qwen3.data.unpacked import BadData


def add_parser(subparsers: Any) -> None:
    """Add `tokenizer` and its commands; each sets `run`, called with the parsed arguments."""
    parser = subparsers.add_parser("tokenizer", help="train, import or show a tokenizer")
    commands = parser.add_subparsers(dest="verb", required=True)

    train = commands.add_parser("train", help="learn a byte-level BPE from text")
    train.add_argument(
        "files", nargs="+", help="text, JSON lines, Parquet, ...; globs and URLs too"
    )
    train.add_argument("--size", type=int, required=True, help=f"number of ids, {SMALLEST} or more")
    train.add_argument("--out", required=True, help="folder to write")
    train.add_argument("--skip-broken", action="store_true", help="leave broken rows out")
    train.set_defaults(run=run_train)

    get = commands.add_parser("import", help="build the released one from its rank file")
    get.add_argument("ranks", help="rank file, such as qwen.tiktoken")
    get.add_argument("--out", required=True, help="folder to write")
    get.add_argument("--any-size", action="store_true", help=f"not only {OFFICIAL_RANKS:,} ranks")
    get.set_defaults(run=run_import)

    show = commands.add_parser("show", help="sizes and special tokens, or the tokens of a text")
    show.add_argument("folder")
    show.add_argument("--text", help="text to split into tokens; - reads standard input")
    show.add_argument("--plain", action="store_true", help="control tokens in the text are text")
    show.set_defaults(run=run_show)


def run_train(args: argparse.Namespace) -> None:
    """Learn a tokenizer from the texts of files and save it."""
    opened = [sources.open_source(path, skip_broken=args.skip_broken) for path in args.files]
    tokenizer = Tokenizer.train(texts(opened), args.size)
    tokenizer.save(args.out)
    for source in opened:
        for problem in source.skipped:
            print(f"skipped {problem}", file=sys.stderr)
    print(f"{args.out}: {describe(tokenizer)}")


def run_import(args: argparse.Namespace) -> None:
    """Build a tokenizer from a rank file and save it."""
    expected = None if args.any_size else OFFICIAL_RANKS
    tokenizer = Tokenizer.from_ranks(args.ranks, expected=expected)
    tokenizer.save(args.out)
    print(f"{args.out}: {describe(tokenizer)}")


def run_show(args: argparse.Namespace) -> None:
    """Print the sizes and special tokens of a tokenizer, or the tokens of a text."""
    tokenizer = Tokenizer.load(args.folder)
    if args.text is None:
        print(describe(tokenizer))
        for token in ADDED_TOKENS:
            kind = "special" if token.special else "kept when decoding"
            print(f"{getattr(tokenizer, token.name):>8}  {token.text:<22}{kind}")
        return
    text = sys.stdin.read() if args.text == "-" else args.text
    ids = tokenizer.encode(text, allow_special=not args.plain)
    for i in ids:
        print(f"{i:>8}  {tokenizer.decode([i])!r}")
    count = len(text.encode())
    print(
        f"{len(ids)} tokens, {len(text)} characters, {count / max(len(ids), 1):.2f} bytes a token"
    )


def describe(tokenizer: Tokenizer) -> str:
    """The number of ids, of added tokens and of vocabulary rows, as a phrase."""
    return (
        f"{tokenizer.vocab_size:,} ids ({len(tokenizer.added)} added), "
        f"{tokenizer.vocab_rows:,} vocabulary rows"
    )


def texts(opened: Sequence[RowSource]) -> Iterator[str]:
    """All texts of sources, long ones in pieces: training takes 100 times the size of a text."""
    for source in opened:
        for document in source:
            if not isinstance(document.content, str):
                raise ValueError(f"{source!r} holds token ids; a tokenizer is trained on text")
            try:
                yield from text_pieces(document.content)
            except ValueError as error:
                leave_out(source, BadData(f"{document.place}: {error}"))
