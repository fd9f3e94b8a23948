"""Where a model comes from: a Hugging Face folder or Hub name, an adapter, a run, one checkpoint.

Everything that takes a model by name asks here: `qwen3.load`, `init_from`, a teacher, a reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh, Sharding

from qwen3.config import from_dict
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

    name: str  # as it was given
    path: Any  # folder in the Hugging Face layout, checkpoint, or workdir of a run
    config: ModelConfig
    run: Mapping[str, Any] | None = None  # config of the run; None for a Hugging Face folder
    adapter: Path | None = None  # folder of an adapter in PEFT's layout, added to the model

    @property
    def tokenizer_folder(self) -> str:
        """Where its tokenizer is; "" where that is not told."""
        if self.run is not None:
            return str(self.run.get("tokenizer") or "")
        if self.adapter is not None and holds_tokenizer(self.adapter):
            return str(self.adapter)
        return str(self.path) if holds_tokenizer(self.path) else ""

    def params(self, mesh: Mesh, dtype: Any = None) -> Any:
        """Its parameters on `mesh`, adapters merged, in `dtype` (None: as they are stored).

        Raises ValueError for arrays of another model, naming them.
        """
        if self.run is None:
            params = hf.load_params(self.path, self.config, mesh, dtype)
            if self.adapter is None:
                return params
            factors, settings = hf_lora.read(self.adapter, self.config)
            return jax.jit(lora.merge, static_argnums=2)(params, factors, settings)
        dtype = jnp.float32 if dtype is None else dtype  # masters are stored in fp32
        settings = lora_of(self.run)
        if not settings.rank:
            return checkpoint.load_params(self.path, abstract_parameters(self.config, mesh, dtype))
        base = find(str(self.run["init_from"])).params(mesh, dtype)
        factors = checkpoint.load_params(self.path, abstract_adapters(settings, self.config, mesh))
        return jax.jit(lora.merge, static_argnums=2)(base, factors, settings)


def find(name: str | Path, *, revision: str | None = None) -> ModelSource:
    """The model of that name.

    name: a folder in the Hugging Face layout, an adapter's folder, a run's workdir, one of its
    checkpoints, or a Hub repository "org/name". revision: of the Hub repository. Raises ValueError
    or FileNotFoundError saying what is there instead, or what would be downloaded.
    """
    path = epath.Path(name)
    if (path / MANIFEST).exists():
        manifest = read_manifest(path)
        return _of_run(str(name), path, manifest["config"], manifest["step"])
    if path.exists() and (steps := checkpoint.steps_in(path / "checkpoints")):
        record = json.loads((path / "config.json").read_text())
        return _of_run(str(name), path, record, steps[-1])
    folder = hf_folder.find(name, revision=revision)
    if hf_lora.has_adapter(folder) and not (folder / "config.json").is_file():
        base = find(hf_lora.base_name(folder))
        return ModelSource(str(name), base.path, base.config, base.run, adapter=folder)
    record = hf_folder.read_json(folder / "config.json")
    if "model" in record and "architectures" not in record:
        raise ValueError(f"{name} is a run's workdir without a checkpoint: it has trained nothing")
    label = folder.name if Path(name).expanduser().is_dir() else str(name)
    config = hf_config.from_hf(record, label)
    adapter = folder if hf_lora.has_adapter(folder) else None
    return ModelSource(str(name), folder, config, adapter=adapter)


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
