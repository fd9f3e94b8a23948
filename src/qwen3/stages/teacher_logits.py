"""Writing a teacher's top-k logits on conversations: the data of logit distillation (report 4.5).

`run` reads the conversations as `sft` does, and writes files of `part` sequences each into the
workdir, `logits-00000.npz` and so on. `sft.Config(data=(WORKDIR,), stored=Distill(...))` trains on
them. A run that was interrupted goes on with the first file that is missing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from etils import epath
from rich.progress import track

from qwen3 import hosts
from qwen3.config import MeshConfig
from qwen3.curate import stored_logits
from qwen3.data.rows import TokenSequence
from qwen3.data.tokenizer import Tokenizer
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.stages import conversations
from qwen3.stages import teacher as teachers
from qwen3.stages.rollout_batches import RolloutBatches
from qwen3.train.run_config import RunConfig
from qwen3.train.writing import WorkdirError, write_atomically

log = logging.getLogger("qwen3")

Scored: TypeAlias = Callable[[list[TokenSequence]], list[TokenSequence]]  # with logits added


@dataclass(frozen=True)
class Config:
    """The report does not say how many logits it stores; 64 keep all but little of the mass."""

    teacher: str  # run, checkpoint or Hugging Face folder
    data: tuple[str, ...]  # files of stages.conversations
    length: int  # slots of a row; longer sequences see `too_long`
    tokenizer: str = ""  # folder that renders the conversations; "": the teacher's own
    top: int = 64  # logits kept of a token, with the normaliser of all
    temperature: float = 1.0  # of the teacher's softmax; the loss must be at the same
    batch: int = 16  # sequences at a time
    part: int = 1024  # sequences of a file
    too_long: str = "error"  # or "drop" (stages.conversations.fitting)
    empty_think: str = "target"  # see data.chat.render_tokens
    name: str = "teacher_logits"
    mesh: MeshConfig = MeshConfig()
    execution: dict[str, Any] = field(default_factory=dict)  # changes to Execution.for_mesh

    def __post_init__(self) -> None:
        for name in ("top", "batch", "part", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is below 1")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} is not above 0")


def run(config: Config, workdir: str) -> list[str]:
    """Write the files that are missing in `workdir`; returns all of them in order.

    Raises ValueError for malformed conversations (file, line), another vocabulary, and fewer ids
    than `top`; WorkdirError where the folder holds logits of other settings.
    """
    folder = epath.Path(workdir)
    _claim(folder, config)
    mesh = make_mesh(config.mesh)
    execution = Execution.for_mesh(mesh, **config.execution)
    with jax.set_mesh(mesh):
        teacher = teachers.load(config.teacher, mesh, dtype=jnp.dtype(execution.dtype))
        sequences, pad = _sequences(config, teacher)
        apply = transformer.bind(teacher.model, execution)
        top = stored_logits.top_logits(apply, config.top, temperature=config.temperature)
        batches = RolloutBatches(mesh, config.length, most=config.batch, microbatches=1, pad=pad)

        def scored(part: list[TokenSequence]) -> list[TokenSequence]:
            values = batches.read_back(top(teacher.params, batches.batch(part)), part)
            return [
                dataclasses.replace(sequence, fields=fields)
                for sequence, fields in zip(part, values, strict=True)
            ]

        return _write_parts(config, folder, sequences, scored)


def _claim(folder: epath.Path, config: Config) -> None:
    """Store the settings in the folder, or refuse others than those that are stored there."""
    settings, file = RunConfig(config, free=("mesh", "execution", "batch")), folder / "config.json"
    if file.exists():
        changes = settings.changes(json.loads(file.read_text()))
        if changes:
            raise WorkdirError(
                f"{folder} holds logits of other settings: {'; '.join(changes)}. Choose another "
                "workdir"
            )
    elif jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(settings.stored(), indent=1))


def _sequences(config: Config, teacher: teachers.Teacher) -> tuple[list[TokenSequence], int]:
    """(the sequences to score, the id of padding)."""
    if not (config.tokenizer or teacher.tokenizer):
        raise ValueError(f"teacher {config.teacher!r} says no tokenizer; set `tokenizer`")
    tokenizer = Tokenizer.load(config.tokenizer) if config.tokenizer else teacher.tokenizer
    assert tokenizer is not None
    teachers.shared_vocabulary(teacher.model, tokenizer, teacher.model, teacher.tokenizer)
    if config.top > teacher.model.vocab:
        raise ValueError(f"top {config.top} of a vocabulary of {teacher.model.vocab}")
    sequences = [
        sequence
        for path in config.data
        for sequence in conversations.read(path, tokenizer, empty_think=config.empty_think)
    ]
    return conversations.fitting(sequences, config.length, config.too_long), tokenizer.pad


def _write_parts(
    config: Config, folder: epath.Path, sequences: list[TokenSequence], scored: Scored
) -> list[str]:
    parts = {
        f"logits-{number:05d}.npz": sequences[begin : begin + config.part]
        for number, begin in enumerate(range(0, len(sequences), config.part))
    }
    # Process 0 says for all hosts what is there: they have to run the same programs.
    present = hosts.decided(lambda: " ".join(path.name for path in folder.glob("logits-*.npz")))
    missing = [name for name in parts if name not in present.split()]
    for name in track(missing, "teacher's logits", disable=jax.process_index() != 0):
        rows = []
        for begin in range(0, len(parts[name]), config.batch):
            rows += scored(parts[name][begin : begin + config.batch])
        if jax.process_index() == 0:
            stored_logits.write(
                folder / name, rows, teacher=config.teacher, temperature=config.temperature
            )
    log.info("%d sequences with logits of %s in %s", len(sequences), config.teacher, folder)
    return [str(folder / name) for name in parts]
