"""Grammars that answers must follow: what the engine asks of them, and sets of tokens as bits.

A grammar lives on the host, so that a request with one is decoded token by token; requests beside
it get the same ids as ever. Bit v % 32 of word v // 32 stands for token v.
"""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

ALL = np.uint32(0xFFFFFFFF)  # a word that allows its 32 tokens


class Matcher(Protocol):
    """Follows one answer."""

    def allowed(self) -> np.ndarray:
        """uint32 [words]: the tokens that may come next, at least one."""
        ...

    def accept(self, token: int, *, forced: bool) -> None:
        """The next token. forced: it was written by the budget or the mode, not chosen among
        `allowed`.
        """
        ...


class Grammar(Protocol):
    """What answers must be; shared by the samples of a prompt."""

    def matcher(self) -> Matcher:
        """A matcher at the beginning of an answer."""
        ...


def words(vocab: int) -> int:
    """How many words hold a bit for each token."""
    return -(-vocab // 32)


def unpacked(words_SW: jax.Array, vocab: int) -> jax.Array:
    """bool [S, V] of sets of tokens as bits."""
    bits_SWB = (words_SW[:, :, None] >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return bits_SWB.reshape(words_SW.shape[0], -1)[:, :vocab].astype(bool)
