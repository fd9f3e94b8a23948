"""A rank file (`base64-bytes rank` per line) -> byte-level vocabulary and merges of a tokenizer.

Ranks order the merges: a token of two or more bytes joins the two pieces that the merges of lower
rank leave of its bytes. The file does not store these pairs, so they are recovered.
"""

import base64
import binascii
from itertools import pairwise
from pathlib import Path

Merges = list[tuple[str, str]]


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte 0..255 in byte-level BPE (GPT-2's map).

    Printable Latin-1 bytes stand for themselves, the other 68 take U+0100 onwards in order.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def read_ranks(path: str | Path, *, expected: int | None = None) -> list[bytes]:
    """The tokens of a rank file, by rank.

    Raises ValueError naming file and line for a missing or broken file, and for a count other than
    `expected`: a file cut at the end of a line would else be a valid smaller one.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no rank file at {path}")
    tokens: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            code, digits = line.split()
            token, rank = base64.b64decode(code, validate=True), int(digits)
        except (ValueError, binascii.Error):
            start = line[:40]
            raise ValueError(f"{path}:{number}: not `base64-bytes rank`: {start!r}") from None
        if rank != len(tokens) or not token or token in tokens:
            raise ValueError(
                f"{path}:{number}: {token!r} with rank {rank}, wanted a new token of rank "
                f"{len(tokens)}"
            )
        tokens[token] = rank
    if expected is not None and len(tokens) != expected:
        raise ValueError(f"{path}: {len(tokens)} ranks, wanted {expected}; is the file whole?")
    return list(tokens)


def recover_merges(tokens: list[bytes]) -> tuple[dict[str, int], Merges]:
    """(vocabulary: token text -> rank, merges in rank order) of tokens sorted by rank.

    ValueError for a vocabulary without all 256 bytes, or with a token that no pair can make.
    """
    alphabet = byte_alphabet()
    ranks = {token: rank for rank, token in enumerate(tokens)}
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{len(missing)} of the 256 single bytes have no rank, first {missing[0]}")
    merges: Merges = []
    for rank, token in enumerate(tokens):
        if len(token) == 1:
            continue
        pieces = _merge_below(token, ranks, rank)
        if len(pieces) != 2:
            raise ValueError(f"rank {rank}: no pair of lower ranks makes {token!r}")
        left, right = ("".join(alphabet[byte] for byte in piece) for piece in pieces)
        merges.append((left, right))
    vocab = {"".join(alphabet[byte] for byte in token): rank for token, rank in ranks.items()}
    return vocab, merges


def _merge_below(token: bytes, ranks: dict[bytes, int], limit: int) -> list[bytes]:
    """The pieces that the merges of rank < limit leave of a token's bytes."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        pairs = [ranks.get(left + right, limit) for left, right in pairwise(pieces)]
        lowest = min(pairs)
        if lowest >= limit:
            break
        at = pairs.index(lowest)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces
