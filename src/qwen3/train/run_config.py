"""A run's settings as its workdir stores and compares them: what may differ when a run goes on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

from qwen3.config import differences, to_dict
from qwen3.train import input_digests

# Version of the stored settings. A release that adds a setting whose default is the old behaviour
# keeps it; one that renames a setting or changes what a value means raises it.
SCHEMA = 1

# Settings that may change when a run goes on: how and where it runs, what is measured and saved,
# and how long it trains, be it in one stage or in the last of several. (With more steps a schedule
# that decays is stretched, from the resumed step on.)
FREE = ("mesh", "execution", "keep", "log", "evaluation", "steps", "save_every", "save_minutes")


class RunConfig:
    """The settings of a run, with digests of what they name.

    config: a dataclass or a plain dict. free: settings that may change when the run goes on.

    Inputs (`input_digests.INPUTS`) are compared by their content, whatever their path. A setting
    that the stored config lacks, since an older release wrote it, counts as the default of its
    field: a release that adds a setting does not strand running workdirs.
    """

    def __init__(self, config: Any, *, free: Iterable[str] = FREE) -> None:
        self.plain = plain(config)
        self.content = input_digests.digests(self.plain)
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
        then, now = with_defaults(stored["config"], self._config), self.plain
        digests = stored.get("content") or {}
        by_content = set(self.content) & set(digests) - self._free
        by_words = (set(then) | set(now)) - self._free - by_content
        if "steps" in self._free:
            then, now = _with_open_end(then), _with_open_end(now)
        lines = differences(_only(then, by_words), _only(now, by_words))
        for name in sorted(by_content):
            old, new = then.get(name), now.get(name)
            if digests[name] != self.content[name] and not (old == new and self._begun_with(name)):
                lines.append(f"{name}: {old!r} -> {new!r}, whose content differs")
        return lines

    def free_changes(self, stored: Mapping[str, Any]) -> list[str]:
        """Lines "a.b: stored -> now" of all settings that differ and may."""
        then = with_defaults(stored["config"], self._config)
        return differences(_only(then, self._free), _only(self.plain, self._free))

    def _begun_with(self, name: str) -> bool:
        """Whether an input is read once, when a run begins, and may have changed since.

        A run that trains adapters reads the model that they are added to at every start.
        """
        return name == "init_from" and not (self.plain.get("lora") or {}).get("rank")


def _only(config: Mapping[str, Any], names: Iterable[str]) -> dict:
    return {name: value for name, value in config.items() if name in names}


def _with_open_end(config: Mapping[str, Any]) -> dict:
    """The config without the number of steps of its last stage, where it is of several stages."""
    stages = config.get("stages")
    if not isinstance(stages, list) or not stages or not isinstance(stages[-1], dict):
        return dict(config)
    last = {name: value for name, value in stages[-1].items() if name != "steps"}
    return {**config, "stages": [*stages[:-1], last]}


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
