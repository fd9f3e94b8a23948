"""Hugging Face config.json <-> ModelConfig.

Two spellings are read: the Hub's (rope_theta, rope_scaling, torch_dtype, num_experts) and that of
transformers 5 (rope_parameters, dtype, num_local_experts). `to_hf` writes both at once, because
transformers 4 that finds only rope_parameters silently runs with a base of 10,000.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qwen3.model.sizes import DualChunkConfig, ModelConfig, YarnConfig

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}

# ours -> theirs. All must be present: a wrong guess (head_dim!) is silently another model.
FIELDS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "ffn": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
    "norm_eps": "rms_norm_eps",
    "max_length": "max_position_embeddings",
}
MOE_FIELDS = {
    "experts": "num_experts",
    "active_experts": "num_experts_per_tok",
    "expert_ffn": "moe_intermediate_size",
}
# ours -> (theirs, what transformers takes where it is absent)
OPTIONAL = {
    "tied": ("tie_word_embeddings", False),
    "init_std": ("initializer_range", 0.02),
    "balance_coef": ("router_aux_loss_coef", 0.001),
}
# theirs -> (what it is where absent, the values this model has); anything else is another model.
FIXED: dict[str, tuple[Any, list]] = {
    "hidden_act": ("silu", ["silu"]),
    "attention_bias": (False, [False]),
    "attention_dropout": (0.0, [0.0]),
    "use_sliding_window": (False, [False]),
    "partial_rotary_factor": (1.0, [1.0, None]),
    "quantization_config": (None, [None]),
}
MOE_FIXED: dict[str, tuple[Any, list]] = {
    "decoder_sparse_step": (1, [1]),
    "mlp_only_layers": ([], [[], None]),
    "norm_topk_prob": (False, [True]),
    "shared_expert_intermediate_size": (0, [0, None]),
    "n_shared_experts": (0, [0, None]),
}
ROPE_TYPES = {
    "default": {"rope_type", "type", "rope_theta", "partial_rotary_factor"},
    "yarn": {
        "rope_type",
        "type",
        "rope_theta",
        "partial_rotary_factor",
        "factor",
        "attention_factor",
        "original_max_position_embeddings",
        "beta_fast",
        "beta_slow",
        "truncate",
    },
}


def from_hf(raw: dict[str, Any], name: str = "") -> ModelConfig:
    """The ModelConfig that a parsed config.json describes.

    Raises ValueError naming the key, its value and what is supported: another architecture, a
    sliding window, biases, other activations, quantised weights, dense or shared-expert layers in
    a MoE, other rope types, keys that are missing, two spellings that disagree.
    """
    kind = str(raw.get("model_type"))
    named = raw.get("architectures") or [ARCHITECTURES.get(kind)]
    if kind not in ARCHITECTURES or named != [ARCHITECTURES[kind]]:
        known = ", ".join(f"{k} ({v})" for k, v in ARCHITECTURES.items())
        raise ValueError(
            f"model_type {kind!r} with architectures {named!r} is not supported; there are {known}"
        )
    moe = kind == "qwen3_moe"
    raw = dict(raw)
    if "num_local_experts" in raw:
        raw.setdefault("num_experts", raw["num_local_experts"])
    _check_fixed(raw, FIXED | (MOE_FIXED if moe else {}))
    fields = FIELDS | (MOE_FIELDS if moe else {})
    missing = [key for key in fields.values() if raw.get(key) is None]
    if missing:
        raise ValueError(f"config.json has no {', '.join(missing)}")
    values = {ours: raw[theirs] for ours, theirs in fields.items()}
    values |= {ours: raw.get(theirs, absent) for ours, (theirs, absent) in OPTIONAL.items()}
    theta, scaling = _rope(raw)
    return ModelConfig(
        name=name or kind,
        rope_theta=theta,
        rope_scaling=scaling,
        dual_chunk=_dual_chunk(raw.get("dual_chunk_attention_config")),
        source="config.json",
        **values,
    )


def stored_dtype(raw: dict[str, Any]) -> str | None:
    """The dtype that a config.json names in either spelling, without "torch."."""
    named = raw.get("dtype") or raw.get("torch_dtype")
    return None if named is None else str(named).removeprefix("torch.")


def _check_fixed(raw: dict[str, Any], table: dict[str, tuple[Any, list]]) -> None:
    for key, (absent, known) in table.items():
        value = raw.get(key, absent)
        if value not in known:
            choices = " or ".join(repr(choice) for choice in known)
            raise ValueError(f"config.json: {key} = {value!r} is not supported, only {choices}")
    other = sorted(set(raw.get("layer_types") or []) - {"full_attention"})
    if other:
        raise ValueError(
            f"config.json: layer_types holds {', '.join(other)}, only full_attention is supported"
        )


def _rope(raw: dict[str, Any]) -> tuple[float, YarnConfig | None]:
    """Base and scaling from rope_theta + rope_scaling or rope_parameters, whichever there is."""
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling")
    bases = [
        d["rope_theta"] for d in (raw, new or {}, old or {}) if d.get("rope_theta") is not None
    ]
    if not bases:
        raise ValueError("config.json has neither rope_theta nor rope_parameters.rope_theta")
    scalings = [_yarn(d, raw["max_position_embeddings"]) for d in (new, old) if d]
    if len(set(bases)) > 1 or len(set(scalings)) > 1:
        raise ValueError(
            f"config.json: rope_theta = {raw.get('rope_theta')!r}, rope_scaling = {old!r} "
            f"and rope_parameters = {new!r} disagree"
        )
    return float(bases[0]), scalings[0] if scalings else None


def _yarn(rope: dict[str, Any], max_length: int) -> YarnConfig | None:
    """The YarnConfig of one rope dict, None for plain RoPE."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise ValueError(f"rope_type {kind!r} is not supported; there are {', '.join(ROPE_TYPES)}")
    _check_fixed(rope, {"partial_rotary_factor": (1.0, [1.0, None]), "truncate": (True, [True])})
    unknown = sorted(k for k in set(rope) - ROPE_TYPES[kind] if rope[k] is not None)
    if unknown:
        raise ValueError(f"rope_type {kind!r} with {', '.join(unknown)} is not supported")
    if kind == "default":
        return None
    if rope.get("factor") is None:
        raise ValueError("rope_type 'yarn' has no factor")
    yarn = YarnConfig(
        factor=float(rope["factor"]),
        original_length=rope.get("original_max_position_embeddings") or max_length,
        beta_fast=float(rope.get("beta_fast") or 32.0),
        beta_slow=float(rope.get("beta_slow") or 1.0),
    )
    usual = 0.1 * float(np.log(yarn.factor)) + 1.0
    attention_factor = rope.get("attention_factor")
    if attention_factor is not None and abs(attention_factor - usual) > 1e-6:
        raise ValueError(
            f"attention_factor = {attention_factor!r} is not supported, only 0.1 ln(factor) + 1 "
            f"= {usual:.6f}"
        )
    return yarn


def _dual_chunk(raw: dict[str, Any] | None) -> DualChunkConfig | None:
    """chunk_size is the trained length c, local_size the window c - s (An et al., 2402.17463)."""
    if raw is None:
        return None
    if raw.get("sparse_attention_config") or raw.get("sparse_attention_enabled"):
        raise ValueError("dual_chunk_attention_config: sparse attention is not supported")
    return DualChunkConfig(
        train_length=raw["chunk_size"],
        chunk=raw["chunk_size"] - raw["local_size"],
        variant=raw.get("variant", "code"),
    )


def to_hf(config: ModelConfig, dtype: str, ids: dict[str, Any] | None = None) -> dict[str, Any]:
    """A config.json for transformers 4 and 5, vLLM and SGLang: rope and dtype in both spellings.

    dtype: of the stored weights, e.g. "bfloat16". ids: bos_token_id and eos_token_id, where known.
    """
    kind = "qwen3_moe" if config.moe else "qwen3"
    fields = FIELDS | (MOE_FIELDS if config.moe else {})
    raw: dict[str, Any] = {"architectures": [ARCHITECTURES[kind]], "model_type": kind}
    raw |= {theirs: getattr(config, ours) for ours, theirs in fields.items()}
    raw |= {
        theirs: getattr(config, ours)
        for ours, (theirs, _) in OPTIONAL.items()
        if config.moe or ours != "balance_coef"
    }
    raw |= {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0}
    raw |= {"use_sliding_window": False, "sliding_window": None, "max_window_layers": config.layers}
    if config.moe:
        raw |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
        raw |= {"output_router_logits": False}
    scaling = _yarn_to_hf(config.rope_scaling)
    raw |= {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": {
            **(scaling or {"rope_type": "default"}),
            "rope_theta": config.rope_theta,
        },
        "torch_dtype": dtype,
        "dtype": dtype,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if config.dual_chunk is not None:
        raw["dual_chunk_attention_config"] = {
            "chunk_size": config.dual_chunk.train_length,
            "local_size": config.dual_chunk.train_length - config.dual_chunk.chunk,
            "original_max_position_embeddings": config.dual_chunk.train_length,
            "variant": config.dual_chunk.variant,
        }
    return raw | (ids or {})


def _yarn_to_hf(yarn: YarnConfig | None) -> dict[str, Any] | None:
    if yarn is None:
        return None
    return {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_length,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
    }
