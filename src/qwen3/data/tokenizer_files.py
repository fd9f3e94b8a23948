"""A tokenizer folder in the form of the Hugging Face hub: tokenizer.json, tokenizer_config.json."""

import json
from pathlib import Path

import tokenizers

from qwen3.data.atomic import write_atomically
from qwen3.data.chat_template import CHAT_TEMPLATE
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


def read(folder: str | Path) -> tokenizers.Tokenizer:
    """The folder's tokenizer.json. ValueError if it is missing, broken, or of another form (other
    normaliser, split or added-token flags would silently give other ids)."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no tokenizer at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        stored = json.loads(text)
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception for a file it cannot parse
        raise ValueError(f"{path} is not a readable tokenizer: {error}") from error
    for problem in _departures(stored):
        raise ValueError(f"{path} is not in Qwen3's form: {problem}")
    return backend


def _departures(stored: dict):
    """What a parsed tokenizer.json does otherwise than Qwen3's, in words."""
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


def _steps(stored: dict, key: str, inner: str) -> list[dict]:
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
