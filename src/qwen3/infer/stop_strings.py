"""Stop strings found in bytes, so that it does not matter how tokens or characters are cut."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import budget

_TEXTS: weakref.WeakKeyDictionary[Tokenizer, list[bytes]] = weakref.WeakKeyDictionary()


def texts(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes of every id; made once for a tokenizer."""
    if tokenizer not in _TEXTS:
        found = [b""] * tokenizer.vocab_size
        for i, text in budget.token_bytes(tokenizer).items():
            found[i] = text
        for text, i in tokenizer.added.items():
            found[i] = text.encode()
        _TEXTS[tokenizer] = found
    return _TEXTS[tokenizer]


class StopStrings:
    """Watches one answer grow."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]):
        self.texts = texts(tokenizer)
        self.strings = [string.encode() for string in strings]
        self.tail, self.longest = b"", max(map(len, self.strings))

    def feed(self, ids: Iterable[int]) -> int | None:
        """Index among the new ids of the one that completes a string; None for none."""
        for index, i in enumerate(ids):
            text = self.tail + self.texts[i]
            if any(string in text for string in self.strings):
                return index
            self.tail = text[max(len(text) - self.longest + 1, 0) :]
        return None
