"""A tokenizer's vocabulary in the layout of the Hugging Face hub.

It is tokenizer.json, or vocab.json with merges.txt as slow tokenizers store it. added_tokens.json
and tokenizer_config.json may name further added tokens. (`tokenizer_settings` reads the rest.)
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from qwen3.data.atomic import write_atomically
from qwen3.data.ranks import byte_alphabet
from qwen3.data.special_tokens import ADDED_TOKENS, SPLIT
from qwen3.hosts import local_folder
from qwen3.model.hf_folder import read_json

FLAGS = ("lstrip", "rstrip", "single_word", "normalized")  # of an added token, besides special
# Tokenizers in other forms, and what to do with a folder that has only such a one.
SAVE_AGAIN = "load it with transformers (AutoTokenizer) and save it again, which writes it"
OTHER_FORMS = {
    "qwen.tiktoken": "build it with `qwen3 tokenizer import`",
    "tokenizer.model": SAVE_AGAIN,
    "spiece.model": SAVE_AGAIN,
    "tekken.json": SAVE_AGAIN,
    "vocab.txt": SAVE_AGAIN,
    "vocab.json": "merges.txt is missing beside vocab.json",
}
# Settings of a BPE model under which the same vocabulary and merges give other ids.
PLAIN_BPE = {
    "type": ("BPE",),
    "dropout": (None, 0),
    "unk_token": (None, ""),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (None, False),
    "ignore_merges": (None, False),
}


def holds_tokenizer(folder: str | Path) -> bool:
    """Whether a folder has a tokenizer, be it in a form that `read` refuses."""
    return any((Path(folder) / name).is_file() for name in ("tokenizer.json", *OTHER_FORMS))


def read(folder: str | Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder.

    Truncation and padding, which transformers stores with a tokenizer after a call that used them,
    are switched off with a warning. Raises ValueError if the files are missing or broken, or depart
    from Qwen3's form in what would silently give other ids (normaliser, pre-tokeniser, flags of
    added tokens, settings of the BPE, vocabulary), and for added tokens whose ids are not free.
    """
    folder = local_folder(folder)
    if (folder / "tokenizer.json").is_file():
        backend = _read_tokenizer_json(folder / "tokenizer.json")
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        backend = _read_vocab_and_merges(folder)
    else:
        raise ValueError(_no_tokenizer(folder))
    _add_tokens(backend, folder)
    return backend


def _no_tokenizer(folder: Path) -> str:
    """Why a folder has no tokenizer, and what to do."""
    message = f"no tokenizer at {folder}: wanted tokenizer.json, or vocab.json and merges.txt"
    advice = next((OTHER_FORMS[name] for name in OTHER_FORMS if (folder / name).is_file()), "")
    return f"{message}; {advice}" if advice else message


def _read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    try:
        text = path.read_text(encoding="utf-8")
        stored = json.loads(text, object_pairs_hook=_without_duplicates)
        departure = next(_departures(stored), None)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a readable tokenizer: {error}") from error
    if departure:
        raise ValueError(f"{path} is not in Qwen3's form: {departure}")
    backend = _parsed(text, path)
    settings = [name for name in ("truncation", "padding") if stored.get(name) is not None]
    if settings:
        names = " and ".join(settings)
        warnings.warn(f"{path}: its {names} is switched off: texts are encoded whole", stacklevel=4)
        backend.no_truncation()
        backend.no_padding()
    return backend


def _read_vocab_and_merges(folder: Path) -> tokenizers.Tokenizer:
    """A bare BPE of vocab.json (piece -> id) and merges.txt (two pieces a line)."""
    path = folder / "vocab.json"
    try:
        text = path.read_text(encoding="utf-8")
        vocab = json.loads(text, object_pairs_hook=_without_duplicates)
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        pairs = [line.split(" ") for line in lines if line and line[:8] != "#version"]
        merges = [(first, second) for first, second in pairs]
        # Added tokens may stand in vocab.json too, behind the pieces; `_add_tokens` adds them.
        added = {token for token, _, _ in _stored_added_tokens(folder)}
        vocab = {piece: i for piece, i in vocab.items() if piece not in added}
        departure = next(_model_departures({"type": "BPE", "vocab": vocab}), None)
        if departure:
            raise ValueError(f"not in Qwen3's form: {departure}")
        return tokenizers.Tokenizer(models.BPE(vocab, merges))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # as in `_parsed`
        raise ValueError(f"{path} and merges.txt are not a readable tokenizer: {error}") from error


def _add_tokens(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """Give the tokenizer the added tokens of the folder's other files that it does not have yet."""
    for text, wanted, special in _stored_added_tokens(folder):
        number = backend.token_to_id(text)
        if number is None:
            token = tokenizers.AddedToken(text, normalized=False, special=special)
            (backend.add_special_tokens if special else backend.add_tokens)([token])
            number = backend.token_to_id(text)
        if number != wanted:
            raise ValueError(
                f"{folder}: the added token {text!r} has id {wanted} in added_tokens.json or "
                f"tokenizer_config.json, and {number} in the tokenizer"
            )


def _stored_added_tokens(folder: Path) -> list[tuple[str, int, bool]]:
    """(text, id, special) of added_tokens.json and of tokenizer_config.json, by id."""
    special = {token.text: token.special for token in ADDED_TOKENS}
    tokens: dict[str, tuple[int, bool]] = {}
    path = folder / "added_tokens.json"
    try:
        if path.is_file():
            for text, number in read_json(path).items():
                tokens[text] = (int(number), special.get(text, False))
        path = folder / "tokenizer_config.json"
        stored = read_json(path).get("added_tokens_decoder") if path.is_file() else None
        for number, token in (stored or {}).items():
            if departure := _flags(token):
                raise ValueError(departure)
            tokens[token["content"]] = (int(number), bool(token.get("special")))
        for text in tokens:
            if not isinstance(text, str):
                raise ValueError(f"{text!r:.80} is no text")
            text.encode()  # fails for a lone surrogate
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: added tokens are not readable: {error}") from error
    return sorted(((text, *token) for text, token in tokens.items()), key=lambda token: token[1])


def _parsed(text: str, path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(text)
    except (KeyboardInterrupt, SystemExit):
        raise
    # The library raises bare Exception, and a panic of its Rust code is not even an Exception.
    except BaseException as error:
        raise ValueError(f"{path} is not a readable tokenizer: {error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; ValueError for a name that stands twice, such as a piece."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        ((name, count),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"{name!r} stands there {count} times")
    return mapping


def _departures(stored: dict[str, Any]) -> Iterator[str]:
    """Each point in which a parsed tokenizer.json differs from Qwen3's form, in words."""
    if _steps(stored, "normalizer", "normalizers") != [{"type": "NFC"}]:
        yield f"normalizer {stored.get('normalizer')}, wanted NFC"
    steps = _steps(stored, "pre_tokenizer", "pretokenizers")
    if [step["type"] for step in steps] != ["Split", "ByteLevel"]:
        yield f"pre_tokenizer {[step['type'] for step in steps]}, wanted Split, ByteLevel"
    elif steps[0]["pattern"] != {"Regex": SPLIT}:
        yield f"split pattern {steps[0]['pattern']}, wanted {SPLIT}"
    elif steps[1].get("add_prefix_space"):
        yield "a space is put in front of the text"
    if any(step["type"] != "ByteLevel" for step in _steps(stored, "post_processor", "processors")):
        yield f"post_processor {stored['post_processor']} may add tokens"
    yield from filter(None, map(_flags, stored.get("added_tokens", [])))
    yield from _model_departures(stored["model"])


def _flags(token: Mapping[str, Any]) -> str:
    """What is wrong with the flags of an added token, "" for nothing.

    `normalized`, the default for tokens that users add, changes nothing in a text of ASCII.
    """
    flags = [flag for flag in FLAGS if token.get(flag)]
    if flags == ["normalized"] and token["content"].isascii():
        return ""
    return f"added token {token['content']!r} has flags {flags}, wanted none" if flags else ""


def _model_departures(model: dict[str, Any]) -> Iterator[str]:
    for name, allowed in PLAIN_BPE.items():
        if model.get(name) not in allowed:
            yield f"model.{name} is {model.get(name)!r}, wanted {allowed[0]!r}"
    vocab, alphabet = model["vocab"], byte_alphabet()
    letters = set().union(*vocab)
    if strange := sorted(letters - set(alphabet)):
        pieces = [piece for piece in vocab if strange[0] in piece]
        yield f"the piece {pieces[0]!r} has {strange[0]!r}, which stands for no byte"
    if missing := [letter for letter in alphabet if letter not in vocab]:
        yield f"{len(missing)} of the 256 single bytes are not in the vocabulary"
    if sorted(vocab.values()) != list(range(len(vocab))):
        yield f"the {len(vocab)} pieces do not have the ids 0 to {len(vocab) - 1}, once each"


def _steps(stored: dict[str, Any], key: str, inner: str) -> list[dict[str, Any]]:
    step = stored.get(key)
    if step is None:
        return []
    return step[inner] if step["type"] == "Sequence" else [step]


def added_tokens(backend: tokenizers.Tokenizer) -> dict[str, dict[str, Any]]:
    """{id: text and flags}, the added_tokens_decoder of tokenizer_config.json."""
    return {
        str(i): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for i, token in sorted(backend.get_added_tokens_decoder().items())
    }


def write(backend: tokenizers.Tokenizer, folder: str | Path) -> None:
    """Write tokenizer.json in one step (`atomic`), so that it is never cut off."""
    path = local_folder(folder) / "tokenizer.json"
    write_atomically(path, backend.to_str(pretty=False))
