"""The steps that a recipe can name: one row each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from qwen3.pipeline import (
    annotation,
    decontamination,
    label_heads,
    language_identifier,
    near_duplicates,
    normalizers,
    personal_data,
    quality_rules,
    refinement,
    synthesis,
    unsafe_text,
)
from qwen3.pipeline.text_record import TextRecord

Apply: TypeAlias = Callable[[TextRecord], TextRecord]


@dataclass(frozen=True)
class ModelWork:
    """Tokens that a step has a model write, for estimates."""

    of_byte: float  # for each byte of text
    of_record: float  # and for each record


@dataclass(frozen=True)
class StepKind:
    """A step: its options are the keyword arguments of `build`, with their defaults."""

    # options -> Apply, or a ModelStep that sees many records; of "duplicates", the settings
    build: Callable[..., Any]
    purpose: str
    rate: float  # MB of text a second and core, for estimates
    model: ModelWork | None = None  # of a step that asks one


STEPS = {
    "normalize": StepKind(normalizers.build, "one form of Unicode, blanks and line ends", 30),
    "language": StepKind(language_identifier.build, "label the language, drop unwanted ones", 9),
    "quality": StepKind(quality_rules.build, "drop what is not running text", 7),
    "personal_data": StepKind(personal_data.build, "replace addresses and numbers of people", 6),
    "safety": StepKind(unsafe_text.build, "drop texts by word lists and sites", 10),
    "refine": StepKind(
        refinement.build,
        "repair text of PDFs and OCR by a model, guarded",
        0.3,
        ModelWork(of_byte=0.25, of_record=0),
    ),
    "annotate": StepKind(
        annotation.build,
        "label value, field, domain, safety by a model",
        20,
        ModelWork(of_byte=0, of_record=60),
    ),
    "heads": StepKind(label_heads.build, "label by heads that learned a model's labels", 1),
    "synthesize": StepKind(
        synthesis.build,
        "write checked texts from seeds by a model",
        1,
        ModelWork(of_byte=0, of_record=1_500),
    ),
    "decontaminate": StepKind(decontamination.build, "drop texts that hold evaluation items", 5),
    "duplicates": StepKind(
        near_duplicates.DuplicateSettings, "drop exact and near copies, each verified", 9
    ),
}
# Options that name a file, whose content belongs to the identity of a run.
FILE_OPTIONS = {"model", "items", "words", "sites"}


def built(step: str, options: Mapping[str, Any]) -> Any:
    """A step ready to use. Raises ValueError for a name, option or value that it does not know."""
    check_options(step, options)
    return STEPS[step].build(**options)


def check_options(step: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for a step or an option that there is not."""
    if step not in STEPS:
        raise ValueError(f"there is no step {step!r}; choose from {sorted(STEPS)}")
    parameters = inspect.signature(STEPS[step].build).parameters
    if unknown := sorted(set(options) - set(parameters)):
        known = sorted(parameters)
        raise ValueError(f"step {step!r} has no option {unknown}; choose from {known}")
    needed = [name for name, p in parameters.items() if p.default is p.empty]
    if missing := sorted(set(needed) - set(options)):
        raise ValueError(f"step {step!r} needs {missing}")
