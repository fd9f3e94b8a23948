"""A run's settings as its workdir stores and compares them: what may differ when a run goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from qwen3.config import differences, to_dict

# Version of the stored settings. A release that adds a setting whose default is the old behaviour
# keeps it; one that renames a setting or changes what a value means raises it.
SCHEMA = 1

# Settings that may change when a run goes on: how and where it runs, not what it computes.
FREE = ("mesh", "execution", "keep", "log")
# Read once, when a run begins; later they only have to be the same words or the same content.
READ_AT_START = ("init_from",)


class RunConfig:
    """The settings of a run, with digests of the files that they name.

    config: a dataclass or a plain dict. free: settings that may change when the run goes on.
    content: setting -> digest of what it names (a tokenizer, data, weights), so that it is known
    by its content and not by its path, and a run goes on from another mount or after a move.

    A setting that the stored config lacks, since an older release wrote it, counts as the default
    of its field: a release that adds a setting does not strand running workdirs.
    """

    def __init__(
        self,
        config: Any,
        *,
        free: Iterable[str] = FREE,
        content: Mapping[str, str] | None = None,
    ) -> None:
        self.plain = plain(config)
        self.content = {name: value for name, value in (content or {}).items() if value}
        self._config = config
        self._free = frozenset(free)

    def stored(self) -> dict:
        """What is stored with each checkpoint, for `changes` to compare."""
        return {"schema": SCHEMA, "config": self.plain, "content": self.content}

    def changes(self, stored: Mapping[str, Any]) -> list[str]:
        """Lines "a.b: stored -> now" of all settings that differ and may not."""
        schema = stored.get("schema", SCHEMA)
        if schema > SCHEMA:
            return [f"schema: {schema} -> {SCHEMA}, stored by a newer qwen3: update to go on"]
        then = with_defaults(stored["config"], self._config)
        digests = stored.get("content") or {}
        by_content = {name for name in self.content if name in digests}
        apart = self._free | by_content
        lines = differences(
            {name: value for name, value in then.items() if name not in apart},
            {name: value for name, value in self.plain.items() if name not in apart},
        )
        for name in sorted(by_content - self._free):
            old, new = then.get(name), self.plain.get(name)
            same_words = name in READ_AT_START and old == new
            if digests[name] != self.content[name] and not same_words:
                lines.append(f"{name}: {old!r} -> {new!r}, whose content differs")
        return lines


def with_defaults(stored: Any, config: Any) -> Any:
    """`stored` with the default of every field of `config`, at any depth, that it lacks."""
    if dataclasses.is_dataclass(config) and isinstance(stored, dict):
        absent = {
            field.name: plain(default)
            for field in dataclasses.fields(config)
            if field.name not in stored
            if (default := _default(field)) is not dataclasses.MISSING
        }
        inner = {
            name: with_defaults(value, getattr(config, name, None))
            for name, value in stored.items()
        }
        return {**inner, **absent}
    if isinstance(config, dict) and isinstance(stored, dict):
        return {name: with_defaults(value, config.get(name)) for name, value in stored.items()}
    if isinstance(config, (tuple, list)) and isinstance(stored, list):
        if len(config) == len(stored):
            return [with_defaults(*pair) for pair in zip(stored, config, strict=True)]
    return stored


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def plain(value: Any) -> Any:
    """A dataclass or any other value as JSON gives it back: tuples are lists, keys are strings."""
    is_config = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return json.loads(json.dumps(to_dict(value) if is_config else value))
