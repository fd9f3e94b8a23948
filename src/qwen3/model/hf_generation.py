"""What a model's folder says of generation: end tokens and sampling defaults.

It stands in generation_config.json; where there is none, config.json may name the end tokens.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qwen3.model.hf_folder import read_json

FILE = "generation_config.json"
# Fields of infer.requests.SamplingParams, under the names that the file uses too.
SAMPLING_FIELDS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
# Settings that say nothing of the tokens that are drawn.
OTHER_FIELDS = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "use_cache", "max_length"),
    *("cache_implementation", "cache_config", "return_legacy_cache", "return_dict_in_generate"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("transformers_version", "_from_model_config"),
)


def read(folder: str | Path) -> dict[str, Any]:
    """The settings of a folder; {} where it has no such file.

    Raises ValueError naming a file that is no JSON object.
    """
    path = Path(folder) / FILE
    return read_json(path) if path.is_file() else {}


def stop_ids(folder: str | Path) -> tuple[int, ...]:
    """The ids that end an answer by the folder's own account, () where it names none.

    Raises ValueError naming the file and the value for what is neither an id nor a list of ids.
    """
    path, settings = Path(folder) / FILE, read(folder)
    if not path.is_file() and (Path(folder) / "config.json").is_file():
        path = Path(folder) / "config.json"
        settings = read_json(path)
    value = settings.get("eos_token_id")
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise ValueError(f"{path}: eos_token_id {value!r:.80}: wanted a token id, or a list of ids")
    return tuple(ids)


def sampling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of SamplingParams that the settings name, {} where they name none.

    do_sample false is temperature 0, as in transformers. Values are not checked here.
    """
    named = {name: settings[name] for name in SAMPLING_FIELDS if settings.get(name) is not None}
    if named.get("top_k") == -1:  # vLLM's word for all tokens
        named["top_k"] = 0
    return {**named, "temperature": 0.0} if settings.get("do_sample") is False else named


def warn_of_others(folder: str | Path, settings: Mapping[str, Any]) -> None:
    """Warn in one line of settings of generation that are read but not followed."""
    known = (*SAMPLING_FIELDS, *OTHER_FIELDS)
    neutral: tuple[Any, ...] = (None, 0, 1, [], {})  # such as one beam, or a penalty that is 1
    others = [
        f"{key} = {value!r:.40}"
        for key, value in settings.items()
        if key not in known and value not in neutral
    ]
    if others:
        warnings.warn(f"{Path(folder) / FILE}: not followed: {', '.join(others)}", stacklevel=3)
