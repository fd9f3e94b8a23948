"""A teacher from a run's workdir, one of its checkpoints, or a Hugging Face folder."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax.sharding import Mesh

from qwen3.data.tokenizer import Tokenizer
from qwen3.model.sizes import ModelConfig
from qwen3.stages.start import parameters
from qwen3.train import model_source


class Teacher(NamedTuple):
    """A model to learn from."""

    model: ModelConfig
    params: Any
    tokenizer: Tokenizer | None  # None where the source does not say


def load(source: str, mesh: Mesh, *, dtype: Any) -> Teacher:
    """The teacher, its parameters in `dtype` on `mesh`.

    Raises ValueError where `source` is neither a run, nor a checkpoint, nor a folder.
    """
    model, tokenizer = described(source)
    return Teacher(model, parameters(source, model, mesh, dtype), tokenizer)


def described(source: str) -> tuple[ModelConfig, Tokenizer | None]:
    """The size of the model of `source`, and its tokenizer."""
    try:
        origin = model_source.find(source)
    except FileNotFoundError as error:
        raise ValueError(
            f"teacher {source!r} is no workdir, no checkpoint and no folder with config.json: "
            f"{error}"
        ) from error
    folder = origin.tokenizer_folder
    return origin.config, Tokenizer.load(folder) if folder else None


def shared_vocabulary(
    student: ModelConfig, tokenizer: Tokenizer, teacher: ModelConfig, other: Tokenizer | None
) -> int | None:
    """Vocabulary rows to which both output heads are cut; None where they have the same number.

    Rows beyond the tokenizer's ids may differ. Raises ValueError for a teacher with another
    vocabulary, naming the first id that differs.
    """
    if other is not None:
        own, others = tokenizer.backend.get_vocab(True), other.backend.get_vocab(True)
        differ = {token for token in {*own, *others} if own.get(token) != others.get(token)}
        if differ:
            first = min(vocab[t] for vocab in (own, others) for t in differ & set(vocab))
            raise ValueError(
                f"the teacher has another vocabulary: {len(others)} tokens against the student's "
                f"{len(own)}; id {first} is {other.backend.id_to_token(first)!r} there, "
                f"{tokenizer.backend.id_to_token(first)!r} here. Distillation compares "
                "probabilities id by id"
            )
    if student.vocab == teacher.vocab:
        return None
    if other is None:
        raise ValueError(
            f"the teacher has {teacher.vocab} vocabulary rows, the student "
            f"{student.vocab}, and no tokenizer says that ids agree"
        )
    return tokenizer.vocab_size
