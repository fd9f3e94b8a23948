"""Stop strings, searched in bytes: how tokens or characters are cut does not matter.

The tokens of an answer hold the string that ended it, for they were sampled; its text does not.
"""

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


class StopCut:
    """Passes tokens on until the first stop string, whose bytes and what follows are left out."""

    def __init__(self, token_bytes: Sequence[bytes], strings: Sequence[str]):
        self.token_bytes = token_bytes
        self.strings = [string.encode() for string in strings]
        self.held: list[int] = []  # tokens whose bytes may begin a stop string
        self.text = b""  # theirs
        self.stopped = False

    def feed(self, token: int) -> tuple[list[int], bytes]:
        """(tokens that are no part of a stop string, bytes of a token that one has cut)."""
        if not self.strings or self.stopped:
            return ([] if self.stopped else [token]), b""
        self.held.append(token)
        self.text += self.token_bytes[token]
        starts = [at for string in self.strings if (at := self.text.find(string)) >= 0]
        if not starts:
            return self._release(len(self.text) - self._beginning()), b""
        self.stopped = True
        before = self.text[: min(starts)]
        released = self._release(len(before))
        return released, before[sum(len(self.token_bytes[i]) for i in released) :]

    def feed_all(self, tokens: Iterable[int]) -> tuple[list[int], bytes]:
        """`feed` of several tokens; what a stop string has cut stands behind them."""
        fed = [self.feed(token) for token in tokens]
        return [i for released, _ in fed for i in released], b"".join(part for _, part in fed)

    def close(self) -> list[int]:
        """The tokens held back, where no stop string came."""
        return [] if self.stopped else self.held

    def _beginning(self) -> int:
        """Bytes at the end of the text that begin a stop string."""
        longest = min(max(map(len, self.strings)) - 1, len(self.text))
        for size in range(longest, 0, -1):
            if any(string.startswith(self.text[-size:]) for string in self.strings):
                return size
        return 0

    def _release(self, size: int) -> list[int]:
        """The held tokens that end within the first `size` bytes."""
        count, end = 0, 0
        for token in self.held:
            if end + len(self.token_bytes[token]) > size:
                break
            count, end = count + 1, end + len(self.token_bytes[token])
        released, self.held = self.held[:count], self.held[count:]
        self.text = self.text[end:]
        return released


def text_before(tokenizer: Tokenizer, ids: Sequence[int], strings: Sequence[str]) -> str:
    """The text of an answer's tokens up to the first of its stop strings."""
    if not strings:
        return tokenizer.decode(ids)
    cut = StopCut(tokenizer.token_bytes, strings)
    released, part = cut.feed_all(ids)
    whole = [tokenizer.token_bytes[i] for i in (*released, *cut.close())]
    return b"".join([*whole, part]).decode("utf-8", "replace")
