"""A run of the recipe: its folder, settings, what its stages left, engines over their models."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import time
from functools import cached_property
from pathlib import Path

import jax

from qwen3.config import MeshConfig, differences
from qwen3.data.atomic import write_atomically
from qwen3.data.jsonl import read_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.mesh import make_mesh
from qwen3.model import hf, hf_config, sizes
from qwen3.model.sizes import count_parameters
from qwen3.recipe.budgets import Budget
from qwen3.stages.start import parameters
from qwen3.train.checkpoint import Keep
from qwen3.train.recording import Log

VERSION = 2  # of what a workdir holds; raise it when an old workdir cannot be gone on with
NEEDED = 600 * 2**20  # bytes a seed writes at most, with models of this size
MODELS = 20  # that a seed leaves, with those of experts and cold-start sizes
LOG = Log(every=5)
# As in 0.6B the heads together are twice as wide as the model; heads of 16 take almost twice the
# steps to learn to look up (LOG.md).
HEADS = {"heads": 4, "kv_heads": 2, "head_dim": 32}
CONTEXT = 512  # of evaluations
UNTRAINED = "untrained.txt"  # says whose model goes on
WEIGHTS = "model"  # folder of a large model's weights, in the Hugging Face layout
ONE = MeshConfig(data=1, fsdp=1)  # one device, however many there are


def large(model) -> bool:
    """Whether memory is what a model is short of."""
    return model.layers > 8


def execution(model) -> dict:
    """A few layers run faster written out than as a loop; many would take long to compile, and much
    memory if what they compute were kept for the gradients."""
    return {"scan": large(model), "remat": "full" if large(model) else "none"}


def open_workdir(path: Path, settings: dict, needed: int = NEEDED) -> None:
    """Make or reopen the folder. Raises ValueError for one that holds another run, OSError where
    it cannot be written or the disk has no room for `needed` bytes in all; neither changes what
    lies there."""
    file = path / "recipe.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable", str(path))
    except OSError as error:
        raise OSError(error.errno, f"--workdir {path}: {error.strerror}; give another") from None
    settings = json.loads(json.dumps({"version": VERSION, **settings}))
    if file.exists():
        then = json.loads(file.read_text())
        if (version := then.get("version", 1)) != VERSION:
            raise ValueError(
                f"--workdir {path} holds a run of version {version} of the recipe, this is version "
                f"{VERSION}: give another folder, or delete this one"
            )
        if lines := differences(then, settings):
            raise ValueError(
                f"--workdir {path} holds another run (there -> now): {'; '.join(lines)}. "
                "Take another workdir, or the old settings"
            )
    elif any(path.iterdir()):
        raise ValueError(f"--workdir {path} holds other files and no recipe.json; give another")
    free = shutil.disk_usage(path).free
    needed -= sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if free < needed:
        raise OSError(errno.ENOSPC, f"{path}: {free >> 20} MiB free, {needed >> 20} MiB are needed")
    write(file, settings)


def write(path: Path, value) -> None:
    """JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n")


def add_time(file: Path, seconds: float) -> float:
    """Seconds of all starts of a run so far, this one's with them."""
    before = json.loads(file.read_text()) if file.exists() else 0.0
    write(file, before + seconds)
    return before + seconds


def _plain(value):
    return value.item() if hasattr(value, "item") else str(value)


@dataclasses.dataclass
class SeedRun:
    """One seed. path: its folder. exam: "final", or "dev" while designing. real: the user's own
    input by flag name ({"corpus": [...], "tasks": [...], "init_from": ...}), empty for none."""

    path: Path
    budget: Budget
    seed: int
    exam: str = "final"
    real: dict = dataclasses.field(default_factory=dict)

    def folder(self, name) -> Path:
        """Of a stage."""
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def result(self, name) -> dict | None:
        """What a finished stage reported, None if it is not done."""
        file = self.path / name / "result.json"
        return json.loads(file.read_text()) if file.exists() else None

    def weights(self, name) -> Path:
        """Where the model of a stage lies: its folder, the weights in there, or, where it could not
        learn, those of the stage it started from."""
        folder = self.path / name
        if (folder / UNTRAINED).exists():
            return Path((folder / UNTRAINED).read_text())
        return folder / WEIGHTS if (folder / WEIGHTS).exists() else folder

    def train(self, stage, name, config) -> None:
        """stage.run(config) in the folder of the stage, on from where it stands. Of a large model
        only the weights stay: a checkpoint is three times their size."""
        folder = self.folder(name)
        if not large(config.model):
            stage.run(config, str(folder))
        elif not (folder / WEIGHTS).exists():
            config = dataclasses.replace(config, keep=Keep(last=1))
            hf.save(folder / WEIGHTS, config.model, stage.run(config, str(folder)).params)
            shutil.rmtree(folder / "checkpoints")

    def finish(self, name, result) -> None:
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

    def model(self, size, **changes):
        """A size with this tokenizer's vocabulary and the RoPE base after pretraining."""
        rows = self.tokenizer.vocab_rows
        return sizes.size(size).replace(
            vocab=rows, **HEADS, **{"rope_theta": self.theta, **changes}
        )

    @cached_property
    def first_teacher(self):
        """The teacher before S3: RoPE base 10,000, or the user's checkpoint as it is."""
        if folder := self.real.get("init_from"):
            raw = json.loads((Path(folder) / "config.json").read_text())
            return hf_config.from_hf(raw, Path(folder).name)
        return self.model(self.budget.model, rope_theta=1e4)

    @property
    def large(self) -> bool:
        """Whether the user's own checkpoint is."""
        return bool(self.real.get("init_from")) and large(self.first_teacher)

    @property
    def needed(self) -> int:
        """Bytes that it writes at most."""
        if not self.large:
            return NEEDED
        weights = 4 * count_parameters(self.first_teacher).total
        return NEEDED + weights * (MODELS + 3)  # and one checkpoint with its moments

    @property
    def student(self):
        """One layer less than the teacher, from its own pretraining."""
        teacher = self.teacher
        return teacher.replace(layers=max(1, teacher.layers - 1), name=f"{teacher.name}-student")

    @property
    def teacher(self):
        return self.first_teacher.replace(rope_theta=self.theta)

    @property
    def base(self) -> str:
        """The pretrained model that post-training starts from."""
        return str(self.weights("long" if self.long else "pretrain"))

    @cached_property
    def mesh(self):
        return make_mesh(ONE)

    @cached_property
    def _engines(self):
        return {}

    def engine(self, model, source) -> Engine:
        """An engine over a run's parameters; engines of one model share their programs."""
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


def logged(folder: Path) -> list[dict]:
    """Rows of metrics of the steps that were taken in the folder of a stage, every nth of them. A
    torn last line, of a start that was killed, is none."""
    file = folder / "metrics.jsonl"
    return [row for _, row in read_rows(file, skipped=[])] if file.exists() else []


class Clock:
    """Seconds since it was made, of which `compiling` went into programs, and, of training in a
    folder, those of the steps that earlier starts took there."""

    def __init__(self, folder: Path | None = None):
        rows = logged(folder) if folder else []
        steps = [0, *(row["step"] for row in rows)]
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


COMPILING = {
    f"/jax/core/compile/{name}_duration" for name in ("jaxpr_to_mlir_module", "backend_compile")
}
COMPILED = [0.0]  # seconds in which this process has lowered and compiled programs, or read them


def _compiled(event: str, seconds: float, **_) -> None:
    # Not tracing, which is timed within itself.
    if event in COMPILING:
        COMPILED[0] += seconds


jax.monitoring.register_event_duration_secs_listener(_compiled)
