"""LoRA adapters in the layout of the PEFT library: adapter_config.json and its safetensors.

PEFT stores, for a linear layer of weight [out, in], `lora_A.weight` [r, in] and `lora_B.weight`
[out, r]; the weight in use is W + (alpha / r) B A.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from qwen3.model import hf_folder, hf_names, tensor_file
from qwen3.model.lora import MATRICES, LoraConfig
from qwen3.model.sizes import ModelConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
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
_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<weight>.+)\.lora_(?P<factor>[AB])\.weight")


def has_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter that PEFT would load."""
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def base_name(folder: Path) -> str:
    """The model that the adapter was trained on, as its config names it."""
    return str(hf_folder.read_json(folder / CONFIG).get("base_model_name_or_path") or "")


def read(folder: Path, model: ModelConfig) -> tuple[dict[str, Any], LoraConfig]:
    """(adapters as `lora.merge` takes them, their settings); layers without one get zeros.

    Raises ValueError naming a setting that makes another kind of adapter, or a tensor that does
    not belong to this model.
    """
    raw = hf_folder.read_json(folder / CONFIG)
    for name, plain in _OTHER_FORMS.items():
        if raw.get(name, plain) not in (plain, None):
            raise ValueError(f"{folder / CONFIG}: {name} {raw[name]!r} is not supported")
    rank, alpha = int(raw["r"]), float(raw["lora_alpha"])
    if raw.get("use_rslora"):  # scaled by alpha / sqrt(r) (arXiv 2312.03732)
        alpha *= rank**0.5
    factors = _factors(folder, model, rank)
    names = tuple(name for name in MATRICES if name in factors)
    if not names:
        raise ValueError(f"{folder / WEIGHTS} holds no adapter of a matrix of {model.name}")
    adapters: dict[str, dict[str, Any]] = {}
    for name in names:
        adapters.setdefault(MATRICES[name][0], {})[name] = factors[name]
    return adapters, LoraConfig(rank, alpha, names)


def _factors(folder: Path, model: ModelConfig, rank: int) -> dict[str, dict[str, Any]]:
    """{matrix: {"a": [L, *in, r], "b": [L, r, *out]}} of the matrices that have an adapter."""
    rows = {row.name.format(l=i): (row, i) for row, i in hf_names.order(model) if row.stacked}
    factors: dict[str, dict[str, Any]] = {}
    for name, stored in tensor_file.read_header(folder / WEIGHTS).items():
        match = _TENSOR.fullmatch(name)
        row, layer = rows.get(f"{match['weight']}.weight", (None, 0)) if match else (None, 0)
        matrix = row.path.rsplit(".", 1)[1] if row else ""
        if match is None or row is None or row.path not in _paths():
            raise ValueError(
                f"{folder / WEIGHTS}: {name} is no adapter of a matrix of {model.name}"
            )
        inputs = MATRICES[matrix][1]
        ours = hf_names.our_shape(row, model)
        shapes = {"a": (*ours[:inputs], rank), "b": (rank, *ours[inputs:])}
        if matrix not in factors:
            factors[matrix] = {
                key: np.zeros((model.layers, *shape), np.float32) for key, shape in shapes.items()
            }
        key = match["factor"].lower()
        value = np.asarray(stored.map(), np.float32).T
        if value.size != np.prod(shapes[key]):
            raise ValueError(
                f"{folder / WEIGHTS}: {name} has shape {stored.shape}, which is no rank-{rank} "
                f"factor of {matrix}"
            )
        factors[matrix][key][layer] = value.reshape(shapes[key])
    return {name: {k: jnp.asarray(v) for k, v in pair.items()} for name, pair in factors.items()}


def _paths() -> set[str]:
    return {f"layers.{module}.{name}" for name, (module, _) in MATRICES.items()}
