"""A tokenizer's folder in the layout of the Hugging Face hub: tokenizer.json and
tokenizer_config.json with the chat template.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from qwen3.data.atomic import write_atomically
from qwen3.data.chat_template import CHAT_TEMPLATE, is_built_in
from qwen3.data.ranks import byte_alphabet
from qwen3.data.special_tokens import ADDED_TOKENS, SPLIT

MODEL_MAX_LENGTH = 131_072
CONFIG = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "additional_special_tokens": [t.text for t in ADDED_TOKENS[1:] if t.special],
    "bos_token": None,
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "model_max_length": MODEL_MAX_LENGTH,
    "pad_token": "<|endoftext|>",
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
    "chat_template": CHAT_TEMPLATE,
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


def read(folder: str | Path) -> tokenizers.Tokenizer:
    """The tokenizer of a folder's tokenizer.json.

    Truncation and padding, which transformers stores with a tokenizer after a call that used them,
    are switched off with a warning. Raises ValueError if the file is missing or broken, or departs
    from Qwen3's form in what would silently give other ids (normaliser, pre-tokeniser, flags of
    added tokens, settings of the BPE, vocabulary).
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no tokenizer at {path}")
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
        warnings.warn(f"{path}: its {names} is switched off: texts are encoded whole", stacklevel=3)
        backend.no_truncation()
        backend.no_padding()
    for file in _other_templates(Path(folder)):
        warnings.warn(
            f"{file} has another chat template than Qwen3's first release; it is not followed: "
            "prompts are rendered by the built-in one (qwen3.data.chat)",
            stacklevel=3,
        )
    return backend


def _other_templates(folder: Path) -> Iterator[Path]:
    """The files of the folder that have a chat template other than the built-in one. A template is
    a program of whoever made the folder: it is compared, not run."""
    for name in ("tokenizer_config.json", "chat_template.json", "chat_template.jinja"):
        if not (folder / name).is_file():
            continue
        try:
            text = (folder / name).read_text(encoding="utf-8")
            template = text if name.endswith("jinja") else json.loads(text).get("chat_template")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{folder / name} is not readable: {error}") from error
        if template and not is_built_in(template):
            yield folder / name


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
    for token in stored.get("added_tokens", []):
        flags = [f for f in ("lstrip", "rstrip", "single_word", "normalized") if token.get(f)]
        if flags:
            yield f"added token {token['content']!r} has flags {flags}, wanted none"
    yield from _model_departures(stored["model"])


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


def write(backend: tokenizers.Tokenizer, folder: str | Path) -> None:
    """Write both files, each in one step (`atomic`), so that none is ever cut off."""
    folder = Path(folder)
    added = {
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
    config = json.dumps({"added_tokens_decoder": added, **CONFIG}, ensure_ascii=False, indent=2)
    write_atomically(folder / "tokenizer.json", backend.to_str(pretty=False))
    write_atomically(folder / "tokenizer_config.json", config + "\n")
