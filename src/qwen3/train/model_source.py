"""Where a model comes from: a Hugging Face folder or Hub name, an adapter, a run, one checkpoint.

Everything that takes a model by name asks here: `qwen3.load`, `init_from`, a teacher, a reference.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh, Sharding

from qwen3.config import from_dict
from qwen3.data.tokenizer import Tokenizer
from qwen3.data.tokenizer_files import holds_tokenizer
from qwen3.mesh import shardings_of
from qwen3.model import hf, hf_config, hf_folder, hf_lora, lora, transformer
from qwen3.model.lora import LoraConfig
from qwen3.model.sizes import ModelConfig
from qwen3.train import checkpoint
from qwen3.train.manifest import MANIFEST, read_manifest


@dataclass(frozen=True)
class ModelSource:
    """A model that was found: its config is known, its arrays are not read yet."""

    name: str  # as it was given; of a Hub repository with the commit, "org/name@commit"
    path: Any  # what finds it again: a folder in the Hugging Face layout, a checkpoint, a workdir
    config: ModelConfig
    run: Mapping[str, Any] | None = None  # config of the run; None for a Hugging Face folder
    base: ModelSource | None = None  # what the adapter at `path`, in PEFT's layout, is added to

    @property
    def adapter(self) -> Path | None:
        """The folder of its adapter in PEFT's layout, if it is one."""
        return None if self.base is None else Path(self.path)

    @property
    def folder(self) -> Path | None:
        """The Hugging Face folder of its whole weights; None for a run."""
        if self.base is not None:
            return self.base.folder
        return Path(self.path) if self.run is None else None

    @property
    def tokenizer_folder(self) -> str:
        """Where its tokenizer is; "" where that is not told."""
        if self.run is not None:
            return _tokenizer_of(self.run)
        if holds_tokenizer(self.path):
            return str(self.path)
        return "" if self.base is None else self.base.tokenizer_folder

    def params(self, mesh: Mesh, dtype: Any = None) -> Any:
        """Its parameters on `mesh`, adapters merged, in `dtype` (None: as they are stored).

        Raises ValueError for arrays of another model, naming them.
        """
        if self.base is not None:
            return _merged(self.base.params(mesh, dtype), *hf_lora.read(self.path, self.config))
        if self.run is None:
            return hf.load_params(self.path, self.config, mesh, dtype)
        dtype = jnp.float32 if dtype is None else dtype  # masters are stored in fp32
        settings = lora_of(self.run)
        if not settings.rank:
            return checkpoint.load_params(self.path, abstract_parameters(self.config, mesh, dtype))
        return _merged(
            find(str(self.run["init_from"])).params(mesh, dtype),
            checkpoint.load_params(self.path, abstract_adapters(settings, self.config, mesh)),
            settings,
        )

    def save_adapter(self, folder: str | Path, mesh: Mesh) -> None:
        """Write the adapters of a run, alone, as a folder that PEFT loads on the run's base model.

        The tokenizer goes along with the chat template that it was used with. Raises ValueError for
        a run that trains the whole model, and where the base is no Hugging Face folder.
        """
        settings = lora_of(self.run or {})
        if not settings.rank:
            raise ValueError(f"{self.name} trains no adapters; export the whole model")
        base = find(str((self.run or {})["init_from"]))
        if base.folder is None or base.base is not None:
            raise ValueError(
                f"the adapters of {self.name} are added to {base.name}, which is "
                f"{'a run' if base.folder is None else 'itself an adapter'}, so that PEFT would "
                "not find their base; export the whole model"
            )
        label, _, commit = (hf_folder.hub_name(base.folder) or str(base.folder)).partition("@")
        factors = checkpoint.load_params(self.path, abstract_adapters(settings, self.config, mesh))
        with tempfile.TemporaryDirectory() as written:
            if self.tokenizer_folder:
                Tokenizer.load(self.tokenizer_folder).save(written)
            hf_lora.write(
                folder,
                factors,
                settings,
                self.config,
                base=label,
                revision=commit or None,
                files=tuple(sorted(Path(written).iterdir())),
            )


@partial(jax.jit, static_argnums=2)
def _merged(base: Any, factors: Any, settings: LoraConfig) -> Any:
    return lora.merge(base, factors, settings)


def _tokenizer_of(run: Mapping[str, Any]) -> str:
    """The folder of a run's tokenizer; from another machine's cache of the Hub, of this one."""
    folder = str(run.get("tokenizer") or "")
    if folder and not Path(folder).is_dir() and hf_folder.hub_name(Path(folder)):
        return str(hf_folder.find(folder))
    return folder


def find(name: str | Path, *, revision: str | None = None) -> ModelSource:
    """The model of that name.

    name: a folder in the Hugging Face layout, an adapter's folder, a run's workdir, one of its
    checkpoints, or a Hub repository "org/name", also with a revision, "org/name@commit". revision:
    of the Hub repository. An adapter is added to the weights beside it, else to the model that it
    names. Raises ValueError or FileNotFoundError saying what is there instead, or what would be
    downloaded.
    """
    path = epath.Path(name)
    if revision is None and (path / MANIFEST).exists():
        manifest = read_manifest(path)
        return _of_run(str(name), path, manifest["config"], manifest["step"])
    if revision is None and (steps := checkpoint.steps_in(path / "checkpoints")):
        record = json.loads((path / "config.json").read_text())
        return _of_run(str(name), path, record, steps[-1])
    folder = hf_folder.find(name, revision=revision)
    is_local = Path(name).expanduser().is_dir()
    label = str(name) if is_local else hf_folder.hub_name(folder) or str(name)
    if hf_lora.has_adapter(folder):
        base = _base_of(folder)
        return ModelSource(label, folder, base.config, base=base)
    record = hf_folder.read_json(folder / "config.json")
    if "model" in record and "architectures" not in record:
        raise ValueError(f"{name} is a run's workdir without a checkpoint: it has trained nothing")
    config = hf_config.from_hf(record, folder.name if is_local else label.partition("@")[0])
    return ModelSource(label, folder, config)


def _base_of(folder: Path) -> ModelSource:
    """The model that the adapter in a folder is added to: weights beside it, else by its name.

    Warns in one line where weights lie beside an adapter on another model.
    """
    name, revision = hf_lora.base_name(folder)
    if not hf_folder.holds_weights(folder):
        try:
            return find(name, revision=None if Path(name).is_dir() else revision)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} holds an adapter on a model: {error}") from error
    if name and Path(name).expanduser().resolve() != folder.resolve():
        warnings.warn(
            f"{folder}: the adapter is added to the weights beside it, as transformers 5 does, not "
            f"to {name!r}, its base; if they hold it already, take adapter_config.json away",
            stacklevel=3,
        )
    record = hf_folder.read_json(folder / "config.json")
    return ModelSource(str(folder), folder, hf_config.from_hf(record, folder.name))


def _of_run(name: str, path: Any, record: Mapping[str, Any], step: int) -> ModelSource:
    if "model" not in record:
        raise ValueError(f"the config of {name} names no model")
    config = from_dict(ModelConfig, record["model"])
    # Pretraining changes the RoPE base from stage to stage (report 3.2: ABF in S3).
    taken = 0
    for stage in record.get("stages", ()):
        if step > taken:
            config = config.replace(rope_theta=stage["rope_theta"])
        taken += stage["steps"]
    return ModelSource(name, path, config, record)


def lora_of(record: Mapping[str, Any]) -> LoraConfig:
    """The adapters that a run trains; rank 0 where it trains the whole model."""
    return from_dict(LoraConfig, record["lora"]) if "lora" in record else LoraConfig()


def abstract_parameters(model: ModelConfig, mesh: Mesh, dtype: Any = jnp.float32) -> Any:
    """ShapeDtypeStructs of the parameters with their shardings; nothing is allocated."""
    return _placed(transformer.abstract(model, dtype), mesh)


def abstract_adapters(settings: LoraConfig, model: ModelConfig, mesh: Mesh) -> Any:
    """ShapeDtypeStructs of the adapters with their shardings; nothing is allocated."""
    return _placed(lora.abstract(settings, model), mesh)


def _placed(boxed: Any, mesh: Mesh) -> Any:
    def placed(leaf: jax.ShapeDtypeStruct, sharding: Sharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, nn.meta.unbox(boxed), shardings_of(boxed, mesh))
