"""Long texts in pieces that a tokenizer of Qwen3's form encodes to the same ids as the whole.

The tokenizers library keeps some 200 bytes per byte of text while it encodes, so that a book in one
string takes gigabytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

PIECE = 1 << 15  # characters of a piece, up to the next place to cut
LONGEST_UNCUT = 1 << 20  # characters; memory for this much text is what a document may cost

# Where every match of the pre-tokeniser's regex (`special_tokens.SPLIT`) ends, whatever follows,
# and where normalisation (NFC) joins nothing: behind a line break, before a single space between
# two words, and between a letter or digit and punctuation.
_CUT = re.compile(r"(?<=\n)(?=\S)|(?<=\S)(?= \S)|(?<=[^\W_])(?=[,.;:!?，。；：！？、])")


def text_pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Pieces of at least `size` characters (but the last) that together are the text.

    encode(a + b) == encode(a) + encode(b) for neighbours, without added tokens. Raises ValueError
    for a text with more than LONGEST_UNCUT characters and no place to cut, such as base64.
    """
    start = 0
    while len(text) - start > size:
        cut = _CUT.search(text, start + size)
        end = cut.start() if cut else len(text)
        if end - start > size + LONGEST_UNCUT:
            raise ValueError(f"{end - start:,} characters from {start:,} on without a place to cut")
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]
