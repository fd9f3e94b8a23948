"""Pieces of a long text: their ids, one after the other, are those of the whole."""

import random

import pytest

from qwen3.data.text_pieces import LONGEST_UNCUT, PIECE, text_pieces
from qwen3.data.tokenizer import Tokenizer

# Blanks of all kinds, marks that compose under NFC, contractions, digits that are no digits.
ATOMS = [*"\n \t,._-'1½Ⅷ。，你한eéſ", "\r\n", "  ", "\n\n", "\u0301", "\u0308", "\u2028", "\xa0"]
ATOMS += ["\u3000", "\x1c", "\x85", "\u200b", "\ufeff", "\u037e", "ᄒ", "ᅡ", "ᆫ", "'s", "'S", "'ſ"]
ATOMS += [" the", " cat", "THE", "🧑🏽‍💻", "<|im_end|>", "．", "！"]


@pytest.fixture(scope="module")
def tiny():
    text = (
        "the cat's and the user's hat, the bat; 1234\n\n x\t  y ,, . .\r\n" * 3 + "你好，世界。" * 9
    )
    return Tokenizer.train([text], 310)


def test_ids_of_the_pieces_are_those_of_the_text(tiny):
    cuts = 0
    for seed in range(5000):
        draw = random.Random(seed)
        text = "".join(draw.choices(ATOMS, k=draw.randrange(1, 30)))
        pieces = list(text_pieces(text, draw.choice((1, 2, 5))))
        assert "".join(pieces) == text and all(pieces)
        ids = [i for piece in pieces for i in tiny.encode(piece, allow_special=False)]
        assert ids == tiny.encode(text, allow_special=False), (text, pieces)
        cuts += len(pieces) - 1
    assert cuts > 5000


@pytest.mark.parametrize("unit", ["a line\n", "word ", "语言，没有空格。", "x=1;", "a\t\nb"])
def test_texts_of_all_kinds_are_cut_near_the_size_that_is_asked(unit):
    text = unit * (200_000 // len(unit))
    assert max(map(len, text_pieces(text))) <= PIECE + len(unit)


def test_a_text_without_a_place_to_cut_is_refused_unless_it_is_short():
    assert list(text_pieces("")) == []
    assert list(text_pieces("a" * LONGEST_UNCUT)) == ["a" * LONGEST_UNCUT]
    with pytest.raises(ValueError, match="1,081,346 characters from 1 on without a place to cut"):
        list(text_pieces("a " + "b" * (LONGEST_UNCUT + PIECE) + "c", 1))


def test_a_tokenizer_learns_the_same_from_pieces():
    draw = random.Random(0)
    text = "".join(
        draw.choices([" the", " cat", " hat", ", and", "\nWe", " 12", " 语言"], k=20_000)
    )
    pieces = list(text_pieces(text, 1000))
    assert len(pieces) > 50
    one, other = Tokenizer.train([text], 294), Tokenizer.train(pieces, 294)
    assert one.backend.to_str() == other.backend.to_str()
