"""Byte-level BPE in Qwen3's form: NFC, one split regex, 26 added tokens, no BOS, no unknown.

    tokenizer = Tokenizer.from_ranks("qwen.tiktoken")       # the released vocabulary
    tokenizer = Tokenizer.train(texts, size=4096)           # the same form, any size
    tokenizer = Tokenizer.load(folder); tokenizer.save(folder)   # the form transformers loads

Ids of the added tokens are attributes (`tokenizer.im_end`), see `special_tokens.ADDED_TOKENS`;
nothing else in the project may hard-code an id. (Qwen3 report 3.1)
"""

import contextlib
import re
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from qwen3.data import ranks, tokenizer_files, tokenizer_settings
from qwen3.data.special_tokens import ADDED_TOKENS, OFFICIAL_RANKS, OFFICIAL_ROWS, SPLIT
from qwen3.data.tokenizer_settings import TokenizerSettings

SMALLEST = 256 + len(ADDED_TOKENS)
MOST_STOPS = 8  # ids that may end an answer, the columns of the engine's table


class Tokenizer:
    """Text <-> ids, by a `tokenizers.Tokenizer` whose added tokens include Qwen3's 26.

    vocab_size: number of ids. added: text -> id of the added tokens; added_pattern finds them in a
    text, control_pattern those that are special. chat_template: the Jinja
    template of conversations, None for the one of Qwen3's first release, which is built in.
    special_texts: what such a template may name, as eos_token. stop_ids: the ids that end a
    generation: im_end and endoftext, as in the released generation config, and the folder's own.
    Raises ValueError when one of the 26 is missing.
    """

    endoftext: int
    im_start: int
    im_end: int
    tool_call_open: int
    tool_call_close: int
    tool_response_open: int
    tool_response_close: int
    think_open: int
    think_close: int

    def __init__(self, backend: tokenizers.Tokenizer, settings: TokenizerSettings | None = None):
        tokens = backend.get_added_tokens_decoder()
        added = {token.content: i for i, token in tokens.items()}
        special = {token.content: token.special for token in tokens.values()}
        missing = [token.text for token in ADDED_TOKENS if token.text not in added]
        if missing:
            raise ValueError(f"the tokenizer lacks {len(missing)} of Qwen3's tokens: {missing}")
        for token in ADDED_TOKENS:
            setattr(self, token.name, added[token.text])
        self.backend = backend
        self.added = added
        self.vocab_size = 1 + max(max(added.values()), backend.get_vocab_size(False) - 1)
        self._plain = _form(tokenizers.Tokenizer(backend.model))
        longest_first = sorted(added, key=len, reverse=True)
        self.added_pattern = re.compile("|".join(map(re.escape, longest_first)))
        control = [text for text in longest_first if special[text]]
        self.control_pattern = re.compile("|".join(map(re.escape, control)))
        settings = settings or TokenizerSettings()
        self.chat_template = settings.chat_template
        self.special_texts = dict(settings.special_texts)
        self.stop_ids = self._stop_ids(settings.stop_ids)

    # Roles of the special tokens. A chat turn ends with im_end, a document with endoftext.

    @property
    def eos(self) -> int:
        """The id that ends an assistant's turn."""
        return self.im_end

    @property
    def pad(self) -> int:
        """The id that fills the slots of a batch without a token."""
        return self.endoftext

    def _stop_ids(self, others: Sequence[int]) -> tuple[int, ...]:
        """The stop ids, of which those that are no tokens and those beyond MOST_STOPS are left out
        with a warning."""
        own = self.backend.token_to_id(self.special_texts["eos_token"] or "")
        named = [self.im_end, self.endoftext, *others, *([] if own is None else [own])]
        ids = [i for i in dict.fromkeys(named) if i < self.vocab_size][:MOST_STOPS]
        if left_out := set(named) - set(ids):
            warnings.warn(
                f"the end tokens {sorted(left_out)} are not followed: answers end with at most "
                f"{MOST_STOPS} ids, all below {self.vocab_size}",
                stacklevel=4,
            )
        return tuple(ids)

    # The model's vocabulary matrix has more rows than the tokenizer has tokens.

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding to give a model: 151,936 for the released vocabulary, else the next
        multiple of 128."""
        if self.vocab_size == OFFICIAL_RANKS + len(ADDED_TOKENS):
            return OFFICIAL_ROWS
        return -(-self.vocab_size // 128) * 128

    def check_fits(self, rows: int) -> None:
        """Raise ValueError if a model with `rows` vocabulary rows cannot hold every id."""
        if rows < self.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.vocab_size} ids, the model only {rows} vocabulary rows; "
                f"use at least {self.vocab_rows} rows or a smaller tokenizer"
            )

    def never_sampled(self, rows: int) -> np.ndarray:
        """bool [rows]: True for ids that no text has, whose logits are masked when sampling."""
        self.check_fits(rows)
        mask = np.ones(rows, bool)
        mask[list(self.backend.get_vocab(with_added_tokens=True).values())] = False
        return mask

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """The bytes that every id stands for: an ordinary token's own, which may cut a character,
        an added token's text in UTF-8, and b"" for an id without a token.
        """
        byte_of = {character: byte for byte, character in enumerate(ranks.byte_alphabet())}
        texts = [b""] * self.vocab_size
        added = {i: text.encode() for text, i in self.added.items()}
        for text, i in self.backend.get_vocab(with_added_tokens=True).items():
            texts[i] = added[i] if i in added else bytes(byte_of[letter] for letter in text)
        return tuple(texts)

    # Text in, text out.

    def encode(self, text: str, *, allow_special: bool = True) -> list[int]:
        """The ids of a text.

        With allow_special=False a control token written in the text is plain text: what a user
        typed can then never end a turn or open a system one. ValueError for a lone surrogate.
        """
        with _text_alone():
            return self._coder(allow_special).encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str], *, allow_special: bool = True) -> list[list[int]]:
        """`encode` of many texts, on all cores. It takes some 200 bytes of memory per byte of text
        meanwhile: see `text_pieces` for long ones."""
        coder = self._coder(allow_special)
        with _text_alone():
            batch = coder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def encode_spans(
        self, text: str, *, literal: Sequence[tuple[int, int]] = ()
    ) -> tuple[list[int], list[int]]:
        """(ids, character of `text` where each token starts).

        Control tokens that touch a `literal` span [start, end) are plain text there; the spans'
        starts ascend, and so do their ends. Without literal spans the ids equal encode(text).
        """
        parts: list[tuple[int, str, int | None]] = []  # (start, plain text, added id behind it)
        ids: list[int] = []
        starts: list[int] = []
        at = 0
        ends = [end for _, end in literal]
        for match in self.added_pattern.finditer(text):
            first = bisect_right(ends, match.start())  # the first span that ends behind its start
            if first == len(literal) or literal[first][0] >= match.end():
                parts.append((at, text[at : match.start()], self.added[match.group()]))
                at = match.end()
        parts.append((at, text[at:], None))
        texts = [part for _, part, _ in parts]
        with _text_alone():
            plain = self._plain.encode_batch(texts, add_special_tokens=False)
        for (start, part, added), encoding in zip(parts, plain, strict=True):
            ids += encoding.ids
            starts += [start + offset for offset, _ in encoding.offsets]
            if added is not None:
                ids.append(added)
                starts.append(start + len(part))
        return ids, starts

    def decode(self, ids: Sequence[int] | np.ndarray, *, skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. ValueError for an unknown id."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is no token; the tokenizer has {self.vocab_size}")
        return self.backend.decode(ids, skip_special_tokens=skip_special)

    def _coder(self, allow_special: bool) -> tokenizers.Tokenizer:
        return self.backend if allow_special else self._plain

    # Loading, saving, training.

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Load a folder in the layout of the Hugging Face hub.

        Its chat template and end tokens are followed; where it has no template, that of Qwen3's
        first release is used, with a warning. Raises ValueError for missing or broken files, and
        for a tokenizer in another form than Qwen3's or without its added tokens.
        """
        backend = _form(tokenizer_files.read(folder))
        return cls(backend, tokenizer_settings.read(folder))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, and tokenizer_config.json with the chat template that is used."""
        tokenizer_files.write(self.backend, folder)
        settings = TokenizerSettings(self.chat_template, self.special_texts, self.stop_ids)
        tokenizer_settings.write(settings, Path(folder), tokenizer_files.added_tokens(self.backend))

    @classmethod
    def from_ranks(cls, path: str | Path, *, expected: int | None = OFFICIAL_RANKS) -> "Tokenizer":
        """Build one from a rank file of `expected` ranks (None: any), see `ranks.read_ranks`."""
        tokens = ranks.read_ranks(path, expected=expected)
        try:
            vocab, merges = ranks.recover_merges(tokens)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        return cls(_with_added_tokens(_form(tokenizers.Tokenizer(models.BPE(vocab, merges)))))

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "Tokenizer":
        """Learn merges from texts until there are `size` ids, the 26 added tokens included.

        Raises ValueError for size < 282 (256 bytes + 26) and for texts too few to give that many
        merges.
        """
        if size < SMALLEST:
            raise ValueError(f"size {size} is below {SMALLEST}: 256 bytes and 26 added tokens")
        backend = _form(tokenizers.Tokenizer(models.BPE()))
        trainer = trainers.BpeTrainer(
            vocab_size=size - len(ADDED_TOKENS),
            initial_alphabet=ranks.byte_alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        reached = backend.get_vocab_size() + len(ADDED_TOKENS)
        if reached != size:
            raise ValueError(f"the texts give only {reached} of {size} ids; add text or ask less")
        return cls(_with_added_tokens(backend))


@contextlib.contextmanager
def _text_alone() -> Iterator[None]:
    """Turns the library's TypeError over what has no UTF-8 into a ValueError."""
    try:
        yield
    except TypeError as error:
        raise ValueError("to encode is text alone, without lone surrogates") from error


def _form(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Put Qwen3's normaliser, pre-tokeniser, decoder and post-processor around a BPE model."""
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # Offsets keep the blanks of a token: loss masks are cut by them.
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _with_added_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    for token in ADDED_TOKENS:
        added = tokenizers.AddedToken(token.text, normalized=False, special=token.special)
        (backend.add_special_tokens if token.special else backend.add_tokens)([added])
    return backend
