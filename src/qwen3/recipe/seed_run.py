"""One seed of the recipe: its folder, settings, its stages' results, engines over their models."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TextIO

import jax
from etils import epath
from jax.sharding import Mesh

from qwen3.config import MeshConfig, differences
from qwen3.data.jsonl import read_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.mesh import make_mesh
from qwen3.model import hf, hf_config, sizes
from qwen3.model.sizes import ModelConfig, count_parameters
from qwen3.recipe.budgets import Budget
from qwen3.stages.start import parameters
from qwen3.train import workdir_lock
from qwen3.train.checkpoint import Keep
from qwen3.train.recording import Log
from qwen3.train.writing import write_atomically

VERSION = 2  # of what a workdir holds; raise it when an old workdir cannot be gone on with
NEEDED = 600 * 2**20  # bytes that a seed writes at most, with models of this size
MODELS = 20  # models that a seed leaves, with those of experts and cold-start sizes
FIRST_FILES = {"lock", "recipe.json.new"}  # what a start leaves that is killed at its beginning
LOG = Log(every=5)
# As in 0.6B the heads together are twice as wide as the model; heads of 16 take almost twice the
# steps to learn to look up (docs/log/2026-11-22-heads-and-copying.md).
HEADS = {"heads": 4, "kv_heads": 2, "head_dim": 32}
CONTEXT = 512  # tokens of a prompt and its answer in evaluations
UNTRAINED = "untrained.txt"  # in the folder of a stage that could not learn: which model goes on
WEIGHTS = "model"  # folder of a large model's weights, in the Hugging Face layout
ONE = MeshConfig(data=1, fsdp=1)  # one device, however many there are


class TrainingStage(Protocol):
    """A module of `qwen3.stages` that trains, such as `sft`."""

    def run(self, config: Any, workdir: str) -> Any: ...


def large(model: ModelConfig) -> bool:
    """Whether memory is what training and compiling a model is short of."""
    return model.layers > 8


def execution(model: ModelConfig) -> dict[str, Any]:
    """Settings of `Execution`.

    A few layers run faster written out than as a loop; many would take long to compile, and much
    memory if what they compute were kept for the gradients.
    """
    return {"scan": large(model), "remat": "full" if large(model) else "none"}


def open_workdir(path: Path, settings: Mapping[str, Any], needed: int = NEEDED) -> TextIO:
    """Make or reopen the folder of a run; what lies there is not changed if it cannot serve.

    Returns its lock, see `train.workdir_lock`. Raises ValueError for a folder of another run, of
    another version of the recipe or with other files, OSError where it cannot be written or the
    disk has no room for `needed` bytes in all, and WorkdirError where another recipe is at work.
    """
    file = path / "recipe.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(0, "Permission denied")
    except OSError as error:
        message = f"--workdir {path}: {error.strerror}; give a folder that can be written"
        raise OSError(message) from None
    wanted = json.loads(json.dumps({"version": VERSION, **settings}))
    if file.exists():
        check_same_run(path, _settings_in(file), wanted)
    elif {child.name for child in path.iterdir()} - FIRST_FILES:
        raise ValueError(
            f"--workdir {path} holds other files and no recipe.json; give a new or empty folder"
        )
    free, needed = shutil.disk_usage(path).free, needed - _bytes_below(path)
    if free < needed:
        raise OSError(
            f"--workdir {path}: {free >> 20} MiB free, {needed >> 20} MiB are needed; "
            "make room, or give a folder on another disk"
        )
    held = workdir_lock.lock(epath.Path(path))
    write(file, wanted)
    return held


def _settings_in(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text())
        if isinstance(settings, dict):
            return settings
    except ValueError:
        pass
    raise ValueError(f"--workdir {file.parent}: {file.name} is damaged; give another folder")


def _bytes_below(folder: Path) -> int:
    """Bytes of all files in a folder; those that a process is just deleting do not count."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def check_same_run(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raises ValueError unless a workdir was begun by this version and with these settings."""
    if (version := stored.get("version", 1)) != VERSION:
        raise ValueError(
            f"--workdir {path} holds a run of version {version} of the recipe, this is version "
            f"{VERSION}: give another folder, or delete this one"
        )
    if lines := differences(stored, wanted):
        raise ValueError(
            f"--workdir {path} holds another run (there -> now): {'; '.join(lines)}; give another "
            "folder, or the settings of that run"
        )


def write(path: Path, value: Any) -> None:
    """Write JSON; a reader finds all of it or the file as it was. WorkdirError if that fails."""
    write_atomically(
        epath.Path(path), json.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n"
    )


def add_time(file: Path, seconds: float) -> float:
    """Add the seconds of this start to those of earlier ones in `file`; returns the sum."""
    total = seconds + (json.loads(file.read_text()) if file.exists() else 0.0)
    write(file, total)
    return total


def _plain(value: Any) -> Any:
    """A numpy scalar as Python's, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)


@dataclasses.dataclass
class SeedRun:
    """One seed of the recipe."""

    path: Path  # its folder
    budget: Budget
    seed: int
    exam: str = "final"  # which held-out problems; "dev" while designing
    # The user's own input by flag name: {"corpus": [...], "tasks": [...], "init_from": ...}.
    own: dict[str, Any] = dataclasses.field(default_factory=dict)

    def folder(self, name: str) -> Path:
        """The folder of a stage, made if need be."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def result(self, name: str) -> dict[str, Any] | None:
        """What a finished stage reported, None if it is not done."""
        file = self.path / name / "result.json"
        return json.loads(file.read_text()) if file.exists() else None

    def weights(self, name: str) -> Path:
        """Where the model of a stage lies: its folder, the weights in there or, where it could not
        learn, those of the stage that it started from."""
        folder = self.path / name
        if (folder / UNTRAINED).exists():
            return Path((folder / UNTRAINED).read_text())
        return folder / WEIGHTS if (folder / WEIGHTS).exists() else folder

    def train(self, stage: TrainingStage, name: str, config: Any) -> None:
        """Run `stage.run(config)` in the folder of the stage, on from its last checkpoint.

        Of a large model only the weights stay: a checkpoint is three times their size.
        """
        folder = self.folder(name)
        if not large(config.model):
            stage.run(config, str(folder))
            return
        if not (folder / WEIGHTS).exists():
            config = dataclasses.replace(config, keep=Keep(last=1))
            hf.save(folder / WEIGHTS, config.model, stage.run(config, str(folder)).params)
        if (folder / "checkpoints").exists():  # also where an earlier start was killed just here
            shutil.rmtree(folder / "checkpoints")

    def finish(self, name: str, result: Mapping[str, Any]) -> None:
        """Store the result of a stage, which makes it done."""
        write(self.folder(name) / "result.json", result)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.path / "tokenizer")

    @property
    def tokenizer_folder(self) -> str:
        return str(self.path / "tokenizer")

    @property
    def long(self) -> bool:
        return self.budget.long_context

    @property
    def theta(self) -> float:
        """RoPE base after pretraining: raised where S3 is run (ABF)."""
        return 1e6 if self.long else 1e4

    def model(self, size: str, **changes: Any) -> ModelConfig:
        """A size with this tokenizer's vocabulary and the RoPE base after pretraining."""
        rows = self.tokenizer.vocab_rows
        return sizes.size(size).replace(
            vocab=rows, **HEADS, **{"rope_theta": self.theta, **changes}
        )

    @cached_property
    def first_teacher(self) -> ModelConfig:
        """The teacher before S3: RoPE base 10,000, or the user's checkpoint as it is."""
        if folder := self.own.get("init_from"):
            raw = json.loads((Path(folder) / "config.json").read_text())
            return hf_config.from_hf(raw, Path(folder).name)
        return self.model(self.budget.model, rope_theta=1e4)

    @property
    def large(self) -> bool:
        """Whether the user's own checkpoint is large."""
        return bool(self.own.get("init_from")) and large(self.first_teacher)

    @property
    def needed(self) -> int:
        """Bytes that this seed writes at most."""
        if not self.large:
            return NEEDED
        weights = 4 * count_parameters(self.first_teacher).total
        return NEEDED + weights * (MODELS + 3)  # and one checkpoint with its moments

    @property
    def student(self) -> ModelConfig:
        """One layer less than the teacher, from its own pretraining."""
        teacher = self.teacher
        return teacher.replace(layers=max(1, teacher.layers - 1), name=f"{teacher.name}-student")

    @property
    def teacher(self) -> ModelConfig:
        """The model from S3 on."""
        return self.first_teacher.replace(rope_theta=self.theta)

    @property
    def base(self) -> str:
        """The pretrained model that post-training starts from."""
        return str(self.weights("long" if self.long else "pretrain"))

    @cached_property
    def mesh(self) -> Mesh:
        return make_mesh(ONE)

    @cached_property
    def _engines(self) -> dict[ModelConfig, Engine]:
        return {}

    def engine(self, model: ModelConfig, source: str | Path) -> Engine:
        """The engine of `model` with the parameters in `source`; a model's programs are kept."""
        params = parameters(str(source), model, self.mesh)
        if model not in self._engines:
            # As the rollouts have it, so that programs are shared with them.
            self._engines[model] = Engine(
                model,
                params,
                tokenizer=self.tokenizer,
                slots=self.budget.slots,
                max_length=CONTEXT,
                mesh=self.mesh,
                seed=self.seed,
            )
        else:
            self._engines[model].update(params, self._engines[model].version + 1)
        return self._engines[model]


def logged(folder: Path) -> list[dict[str, Any]]:
    """The metrics that a stage logged in its folder; what a crash tore or damaged is left out."""
    file = folder / "metrics.jsonl"
    rows = read_rows(file, fields=("step",), skipped=[]) if file.exists() else []
    return [row for _, row in rows]


class Clock:
    """Seconds since it was made, and those of them that went into compiling.

    With a folder in which a stage trains, the steps that earlier starts took there count too.
    """

    def __init__(self, folder: Path | None = None):
        rows = logged(folder) if folder else []
        steps = [0, *(row["step"] for row in rows)]
        # A row has the mean seconds of the steps since the row before.
        self._earlier = sum(
            row["seconds"] * (row["step"] - last) for last, row in zip(steps, rows, strict=False)
        )
        self._start, self._compiled = time.perf_counter(), COMPILED[0]

    @property
    def seconds(self) -> float:
        return round(self._earlier + time.perf_counter() - self._start, 1)

    @property
    def cost(self) -> dict[str, float]:
        return {"seconds": self.seconds, "compiling": round(COMPILED[0] - self._compiled, 1)}


# Not tracing, whose time has that of inner traces in it.
COMPILING = {
    f"/jax/core/compile/{name}_duration" for name in ("jaxpr_to_mlir_module", "backend_compile")
}
COMPILED = [0.0]  # seconds in which this process has lowered and compiled programs, or read them


def _compiled(event: str, duration_secs: float, **_: str | int) -> None:
    if event in COMPILING:
        COMPILED[0] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_compiled)
