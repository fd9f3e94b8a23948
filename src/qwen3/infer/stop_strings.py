"""Stop strings, searched in bytes: how tokens or characters are cut does not matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qwen3.data.tokenizer import Tokenizer


class StopStrings:
    """Watches one answer grow for the first of its stop strings."""

    def __init__(self, tokenizer: Tokenizer, strings: Sequence[str]):
        self.token_bytes = tokenizer.token_bytes
        self.strings = [string.encode() for string in strings]
        self.longest = max(map(len, self.strings))
        self.tail = b""  # the answer's last bytes, which may begin a stop string

    def feed(self, ids: Iterable[int]) -> int | None:
        """Index among the new ids of the one that completes a stop string; None for none."""
        for index, i in enumerate(ids):
            text = self.tail + self.token_bytes[i]
            if any(string in text for string in self.strings):
                return index
            self.tail = text[max(len(text) - self.longest + 1, 0) :]
        return None
