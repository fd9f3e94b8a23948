"""What a folder says of its tokenizer beside the vocabulary: chat template, special texts, stops.

A chat template stands in chat_template.jinja, tokenizer_config.json or, as older processors write
it, chat_template.json; transformers prefers them in this order. Others by name, such as "tool_use",
stand in a list there, or as files in additional_chat_templates beside chat_template.jinja. The
template of Qwen3's first release is built in (`data.chat`); any other is kept and rendered as it is
(`data.folder_template`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qwen3.data.atomic import write_atomically
from qwen3.data.chat_template import CHAT_TEMPLATE, is_built_in
from qwen3.data.special_tokens import ADDED_TOKENS
from qwen3.model import hf_generation
from qwen3.model.hf_folder import read_json

MODEL_MAX_LENGTH = 131_072
CONFIG = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "errors": "replace",
    "model_max_length": MODEL_MAX_LENGTH,
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
}
# Texts with a role, by the names that transformers gives them and hands to chat templates.
SPECIAL_TEXTS: Mapping[str, Any] = MappingProxyType(
    {
        "additional_special_tokens": [t.text for t in ADDED_TOKENS[1:] if t.special],
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
    }
)
TEMPLATE_FILES = ("chat_template.jinja", "tokenizer_config.json", "chat_template.json")
NAMED_TEMPLATES = "additional_chat_templates"  # folder of NAME.jinja


@dataclass(frozen=True)
class TokenizerSettings:
    """How a tokenizer is used."""

    chat_template: str | None = None  # a Jinja template; None: the built-in one
    special_texts: Mapping[str, Any] = field(default_factory=lambda: SPECIAL_TEXTS)  # name -> text
    stop_ids: tuple[int, ...] = ()  # ids that end an answer, besides im_end and endoftext


def read(folder: str | Path) -> TokenizerSettings:
    """The settings of a folder.

    Warns in one line where it has no chat template, or several. Raises ValueError naming the file
    that is not readable, or the value.
    """
    folder = Path(folder)
    path = folder / "tokenizer_config.json"
    config = read_json(path) if path.is_file() else {}
    templates = _templates(folder, config, named=_named_templates(folder))
    template = next(iter(templates.values()), None)
    _warn_of_choice(folder, templates)
    stops = hf_generation.stop_ids(folder)
    if template is None or is_built_in(template):
        return TokenizerSettings(stop_ids=stops)
    return TokenizerSettings(template, _special_texts(path, config), stops)


def write(settings: TokenizerSettings, folder: Path, added_tokens: Mapping[str, Any]) -> None:
    """Write tokenizer_config.json with the chat template, and bring files that hold another one to
    the same. added_tokens: of the file's added_tokens_decoder."""
    template = settings.chat_template or CHAT_TEMPLATE
    config = {
        "added_tokens_decoder": added_tokens,
        **dict(sorted({**CONFIG, **settings.special_texts}.items())),
        "chat_template": template,
    }
    text = json.dumps(config, ensure_ascii=False, indent=2)
    write_atomically(folder / "tokenizer_config.json", text + "\n")
    for path in (folder / NAMED_TEMPLATES).glob("*.jinja"):
        path.unlink()
    # Loaders prefer the first of these; one of an earlier tokenizer would hide the template above.
    if (folder / "chat_template.jinja").exists():
        write_atomically(folder / "chat_template.jinja", template)
    if (folder / "chat_template.json").exists():
        text = json.dumps({"chat_template": template}, ensure_ascii=False)
        write_atomically(folder / "chat_template.json", text + "\n")


def names_template(folder: str | Path, template: str | None) -> bool:
    """Whether the folder's files, without folders in it, say that its chat template is `template`
    (None: the built-in one)."""
    path = Path(folder) / "tokenizer_config.json"
    templates = _templates(Path(folder), read_json(path) if path.is_file() else {}, named={})
    stored = next(iter(templates.values()), None)
    return is_built_in(stored) if template is None else stored == template


def _named_templates(folder: Path) -> dict[str, Path]:
    """{name: file} of the templates beside the default one.

    Raises ValueError where there are some and no default: transformers has none then either.
    """
    named = {path.stem: path for path in sorted((folder / NAMED_TEMPLATES).glob("*.jinja"))}
    if named and not (folder / TEMPLATE_FILES[0]).is_file():
        raise ValueError(f"{folder}: {NAMED_TEMPLATES} without a {TEMPLATE_FILES[0]}")
    return named


def _templates(
    folder: Path, config: Mapping[str, Any], *, named: Mapping[str, Path]
) -> dict[str, str]:
    """{file: its chat template}, the one that counts first.

    config: of tokenizer_config.json. named: files of templates beside chat_template.jinja.
    """
    templates: dict[str, str] = {}
    for name in TEMPLATE_FILES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            if name.endswith(".jinja"):
                texts = {"default": path, **named}
                stored: Any = [
                    {"name": key, "template": file.read_text(encoding="utf-8")}
                    for key, file in texts.items()
                ]
                stored = stored if named else stored[0]["template"]
            else:
                stored = (config if name == TEMPLATE_FILES[1] else read_json(path)).get(
                    "chat_template"
                )
            if stored:
                templates[name] = _one_template(stored)
        except ValueError as error:
            raise ValueError(f"{path}: chat template not readable: {error}") from error
    return templates


def _warn_of_choice(folder: Path, templates: Mapping[str, str]) -> None:
    """Warn of a folder without a template, and of one with several that differ."""
    if not templates:
        warnings.warn(
            f"{folder} has no chat template: conversations are written as by Qwen3's first release",
            stacklevel=4,
        )
        return
    first, *others = templates
    if any(not _same(templates[first], templates[other]) for other in others):
        warnings.warn(
            f"{folder}: {' and '.join(templates)} have different chat templates; {first} is "
            "followed, as transformers does",
            stacklevel=4,
        )


def _same(template: str, other: str) -> bool:
    return template.strip() == other.strip() or (is_built_in(template) and is_built_in(other))


def _one_template(stored: Any) -> str:
    """A template, also of a list of named ones: the default, and "tool_use" where there are tools.

    Raises ValueError for other forms, and for a list without a default.
    """
    if isinstance(stored, str):
        return stored
    try:
        named = {entry["name"]: str(entry["template"]) for entry in stored}
        default = named["default"].removesuffix("\n")
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{stored!r:.80}: wanted a text, or a list of {{name, template}} with a default"
        ) from error
    if "tool_use" not in named:
        return default
    # A line break behind a block is not printed, and `+` keeps the blanks before one.
    tool_use = named["tool_use"].removesuffix("\n")
    return f"{{% if tools is not none %}}\n{tool_use}{{%+ else %}}\n{default}{{%+ endif %}}"


def _special_texts(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """{name: text} of the roles that the folder fills. A token may stand there with its flags."""
    texts: dict[str, Any] = {}
    for name in SPECIAL_TEXTS:
        value = config.get(name, SPECIAL_TEXTS[name])
        if name == "additional_special_tokens":
            if not isinstance(value, list | tuple | None):
                raise ValueError(f"{path}: {name} {value!r:.80} is no list of tokens")
            texts[name] = [_text(path, name, item) for item in value or ()]
        else:
            texts[name] = None if value is None else _text(path, name, value)
    return texts


def _text(path: Path, name: str, value: Any) -> str:
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise ValueError(f"{path}: {name} {value!r:.80} is no token's text")
    return text
