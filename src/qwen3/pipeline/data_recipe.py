"""What a pipeline run does: inputs, steps with their options, and the form of the output."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from qwen3.data.unpacked import BadData, chunks
from qwen3.pipeline.step_table import FILE_OPTIONS, built, check_options

T = TypeVar("T")
LAST = "duplicates"  # compares records with each other, so it comes after all that look at one


@dataclasses.dataclass(frozen=True)
class InputFiles:
    """Files of one origin."""

    name: str  # stands in every record as its `source`
    paths: tuple[str, ...]  # paths, folders, globs or URLs of text, JSON lines, Parquet, PDF, ...
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the file reader


@dataclasses.dataclass(frozen=True)
class StepChoice:
    """A step of the recipe by its name, with the options that differ from the defaults."""

    step: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class DataRecipe:
    """A pipeline run."""

    inputs: tuple[InputFiles, ...]
    steps: tuple[StepChoice, ...]
    shards: int = 16  # files of the output
    most_failed: float = 0.05  # share of records set aside as failed at which the run is refused
    longest_text: int = 10_000_000  # characters; a longer text is set aside as failed
    part_bytes: int = 8 << 20  # of a file, compressed or not, that make one unit of work

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.inputs]
        if not self.inputs or len(set(names)) < len(names):
            raise ValueError(f"inputs {names}: wanted is at least one, each with its own name")
        order = [choice.step for choice in self.steps]
        if len(set(order)) < len(order):
            raise ValueError(f"steps {order}: a step stands twice")
        if LAST in order[:-1]:
            raise ValueError(f"steps {order}: {LAST!r} compares records and must come last")
        for choice in self.steps:
            check_options(choice.step, choice.options)
        for name, least, value in [("shards", 1, self.shards), ("part_bytes", 1, self.part_bytes)]:
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} = {value!r}: wanted is a whole number from {least}")

    @property
    def files(self) -> list[str]:
        """The files that options of steps name: models, word lists, evaluation items."""
        pairs = [pair for choice in self.steps for pair in sorted(choice.options.items())]
        return [str(value) for name, value in pairs if name in FILE_OPTIONS and value]

    def functions(self) -> list[Any]:
        """The built steps that look at one record, in order."""
        return [built(choice.step, choice.options) for choice in self.steps if choice.step != LAST]

    def to_json(self) -> str:
        """The recipe as JSON; the same for equal recipes."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "recipe") -> DataRecipe:
        """Read a recipe. Raises ValueError naming `where` and a field that is unknown or unfit."""
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        fields = _checked(cls, fields, where)
        for name, kind in [("inputs", InputFiles), ("steps", StepChoice)]:
            entries = fields[name]
            if not isinstance(entries, list):
                raise ValueError(f"{where}: {name} is {type(entries).__name__}, not a list")
            fields[name] = tuple(
                kind(**_checked(kind, entry, f"{where}, {name}[{i}]"))
                for i, entry in enumerate(entries)
            )
        try:
            return cls(**fields)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error

    @classmethod
    def load(cls, path: str) -> DataRecipe:
        """Read a recipe's file (a path or URL)."""
        try:
            return cls.from_json(b"".join(chunks(path)).decode(), path)
        except UnicodeDecodeError as error:
            raise BadData(f"{path}: not UTF-8 (byte {error.start})") from error


def _checked(kind: type, fields: Any, where: str) -> dict[str, Any]:
    """`fields` as the arguments of a dataclass; ValueError for unknown and missing ones."""
    if not isinstance(fields, dict):
        raise ValueError(f"{where}: {fields!r} is not an object")
    known = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(set(fields) - set(known)):
        raise ValueError(f"{where}: unknown {unknown}; choose from {sorted(known)}")
    needed = [name for name, field in known.items() if _required(field) and name not in fields]
    if needed:
        raise ValueError(f"{where}: {needed} missing")
    paths = fields.get("paths")
    if isinstance(paths, str):
        return fields | {"paths": (paths,)}
    if isinstance(paths, Sequence):
        return fields | {"paths": tuple(paths)}
    return dict(fields)


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
