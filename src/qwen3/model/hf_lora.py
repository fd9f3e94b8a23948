"""LoRA adapters in the layout of the PEFT library: adapter_config.json and its safetensors.

PEFT stores, for a linear layer of weight [out, in], `lora_A.weight` [r, in] and `lora_B.weight`
[out, r]; the weight in use is W + (alpha / r) B A.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from qwen3.model import hf_folder, hf_layouts, hf_names, lora, tensor_file
from qwen3.model.hf_config import Number
from qwen3.model.lora import MATRICES, LoraConfig
from qwen3.model.sizes import ModelConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_RANK, _ALPHA = Number("r", 1, 2**16), Number("lora_alpha", 0.0, 1e9, whole=False)
# Forms of an adapter that are not W + (alpha / r) B A; each is refused by its setting.
_OTHER_FORMS = {
    "use_dora": False,
    "bias": "none",
    "modules_to_save": None,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layers_pattern": None,
}
# The adapter's own name, "default" in memory, stands in files that were not written by PEFT.
_TENSOR = re.compile(r"(?P<weight>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight")


def has_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter that PEFT would load."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def base_name(folder: Path) -> tuple[str, str | None]:
    """(name, revision or None) of the model that the adapter was trained on, by its config."""
    raw = hf_folder.read_json(folder / CONFIG)
    return str(raw.get("base_model_name_or_path") or ""), raw.get("revision") or None


def read(folder: Path, model: ModelConfig) -> tuple[dict[str, Any], LoraConfig]:
    """(adapters as `lora.merge` takes them, their settings); layers without one get zeros.

    Raises ValueError naming a setting that makes another kind of adapter, or a tensor that does
    not belong to this model.
    """
    raw = hf_folder.read_json(folder / CONFIG)
    for name, plain in _OTHER_FORMS.items():
        if raw.get(name, plain) not in (plain, None):
            raise ValueError(f"{folder / CONFIG}: {name} {raw[name]!r} is not supported")
    rank, alpha = _RANK.read(raw.get("r"), CONFIG), _ALPHA.read(raw.get("lora_alpha"), CONFIG)
    if raw.get("use_rslora"):  # scaled by alpha / sqrt(r) (arXiv 2312.03732)
        alpha *= rank**0.5
    factors = _factors(folder, model, rank)
    names = tuple(name for name in MATRICES if name in factors)
    if not names:
        raise ValueError(f"{folder / WEIGHTS} holds no adapter of a matrix of {model.name}")
    adapters: dict[str, dict[str, Any]] = {}
    for name in names:
        adapters.setdefault(lora.module_of(name, model), {})[name] = factors[name]
    return adapters, LoraConfig(rank, alpha, names)


def _factors(folder: Path, model: ModelConfig, rank: int) -> dict[str, dict[str, Any]]:
    """{matrix: {"a": [L, *in, r], "b": [L, r, *out]}} of the matrices that have an adapter."""
    matrices = {matrix.weight: matrix for matrix in _matrices(model)}
    factors: dict[str, dict[str, Any]] = {}
    for name, stored in tensor_file.read_header(folder / WEIGHTS).items():
        match = _TENSOR.fullmatch(name)
        matrix = matrices.get(_matrix_name(match["weight"])) if match else None
        if match is None or matrix is None:
            raise ValueError(
                f"{folder / WEIGHTS}: {name} is no adapter of a matrix of {model.name}"
            )
        shapes = matrix.factor_shapes(rank)
        if matrix.name not in factors:
            factors[matrix.name] = {
                key: np.zeros((*matrix.stack, *shape), np.float32) for key, shape in shapes.items()
            }
        key = match["factor"].lower()
        value = np.asarray(stored.map(), np.float32).T
        if value.size != math.prod(shapes[key]):
            raise ValueError(
                f"{folder / WEIGHTS}: {name} has shape {stored.shape}, which is no rank-{rank} "
                f"factor of {matrix.name}"
            )
        factors[matrix.name][key][matrix.place] = value.reshape(shapes[key])
    return {name: {k: jnp.asarray(v) for k, v in pair.items()} for name, pair in factors.items()}


def _matrix_name(name: str) -> str:
    """An adapter's matrix as checkpoints name it, without PEFT's prefix and wrappers' names."""
    parts = [part for part in name.split(".") if part not in hf_layouts.WRAPPERS]
    inner = ".".join(parts).removeprefix("base_model.model.")
    return hf_layouts.standard_name(inner)


class _Matrix(NamedTuple):
    """One matrix of the model that can have an adapter."""

    weight: str  # its name in a checkpoint, without ".weight"
    name: str  # of the matrix in our parameters
    stack: tuple[int, ...]  # lengths of the axes that count such matrices: layers, experts
    place: tuple[int, ...]  # its own among them
    shape: tuple[int, ...]  # [*in, *out]

    def factor_shapes(self, rank: int) -> dict[str, tuple[int, ...]]:
        """{"a": [*in, r], "b": [r, *out]}."""
        inputs = MATRICES[self.name]
        return {"a": (*self.shape[:inputs], rank), "b": (rank, *self.shape[inputs:])}


def _matrices(model: ModelConfig) -> Iterator[_Matrix]:
    """All matrices that can have an adapter, in the order of the layers."""
    for row, layer in hf_names.order(model):
        _, _, name = row.path.rpartition(".")
        if layer is None or name not in MATRICES:
            continue
        shape = hf_names.our_shape(row, model)
        experts = range(shape[0]) if row.by_expert else (None,)
        for e in experts:
            yield _Matrix(
                row.name.format(l=layer, e=e).removesuffix(".weight"),
                name,
                (model.layers,) if e is None else (model.layers, model.experts),
                (layer,) if e is None else (layer, e),
                shape if e is None else shape[1:],
            )


def write(
    folder: str | Path,
    adapters: dict[str, Any],
    settings: LoraConfig,
    model: ModelConfig,
    *,
    base: str,
    revision: str | None = None,
    files: tuple[Path, ...] = (),
) -> None:
    """Write adapters, as `lora.init` gives them, as a folder that PEFT loads.

    base: the model that they are added to, a folder or a Hub name, with its revision. files: copied
    as they are (tokenizer, chat template). Replaces an older folder as `hf.save` does and raises
    what it raises. With several processes all must call it; the first one writes.
    """
    arrays = dict(_tensors(jax.tree.map(_whole, adapters), settings, model))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "r": settings.rank,
        "lora_alpha": int(settings.alpha) if settings.alpha.is_integer() else settings.alpha,
        "target_modules": sorted({name.split(".")[-3] for name in arrays}),
        "lora_dropout": 0.0,
        "inference_mode": True,
        **_OTHER_FORMS,
    }
    if jax.process_index() == 0:
        hf_folder.replace(
            Path(folder),
            {name: (array.dtype, array.shape) for name, array in arrays.items()},
            iter(arrays.items()),
            {CONFIG: json.dumps(config, indent=2)},
            files,
            single=WEIGHTS,
        )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"saved {folder}")


def _tensors(
    adapters: dict[str, Any], settings: LoraConfig, model: ModelConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """(PEFT's name, fp32 array) of every factor: lora_A [r, in] and lora_B [out, r]."""
    for matrix in _matrices(model):
        factors = adapters.get(lora.module_of(matrix.name, model), {}).get(matrix.name)
        if factors is None:
            continue
        a = np.asarray(factors["a"][matrix.place], np.float32).reshape(-1, settings.rank)
        b = np.asarray(factors["b"][matrix.place], np.float32).reshape(settings.rank, -1)
        prefix = f"base_model.model.{matrix.weight}"
        yield f"{prefix}.lora_A.weight", np.ascontiguousarray(a.T)
        yield f"{prefix}.lora_B.weight", np.ascontiguousarray(b.T)


def _whole(leaf: jax.Array) -> np.ndarray:
    """The array on this host, also when other hosts hold parts of it."""
    if leaf.is_fully_addressable:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
