"""Hugging Face config.json <-> ModelConfig.

Two spellings are read: the Hub's (rope_theta, rope_scaling, torch_dtype, num_experts) and that of
transformers 5 (rope_parameters, dtype, num_local_experts). `to_hf` writes both at once, because
transformers 4 that finds only rope_parameters silently runs with a base of 10,000. A config.json
may come from anyone: every value is checked, by the tables here, before anything is built from it.
"""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import Any

from qwen3.model.sizes import DualChunkConfig, ModelConfig, YarnConfig

ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
# Reward models: transformers' sequence classification with one label.
SCORING = {
    "qwen3": "Qwen3ForSequenceClassification",
    "qwen3_moe": "Qwen3MoeForSequenceClassification",
}
ONE_LABEL = {"id2label": {"0": "score"}, "label2id": {"score": 0}}

_REPR = reprlib.Repr()  # for messages: a hostile value may be of any length
_REPR.maxstring = _REPR.maxother = 80
_shown = _REPR.repr


@dataclass(frozen=True)
class Number:
    """A number in config.json: its key, and the values that are supported."""

    key: str
    least: float
    most: float
    whole: bool = True  # an integer

    def read(self, value: Any, where: str = "config.json") -> Any:
        """The value, as an int or a float. Raises ValueError naming key, value and range."""
        kinds = int if self.whole else (int, float)
        # The comparison is False for NaN too.
        if isinstance(value, bool) or not isinstance(value, kinds):
            in_range = False
        else:
            in_range = self.least <= value <= self.most
        if not in_range:
            kind = "an integer" if self.whole else "a number"
            raise ValueError(
                f"{where}: {self.key} = {_shown(value)} is not supported, only {kind} from "
                f"{self.least:,} to {self.most:,}"
            )
        return value if self.whole else float(value)


# ours -> theirs. All must be present: a wrong guess (head_dim!) is silently another model.
FIELDS = {
    "layers": Number("num_hidden_layers", 1, 1_000),
    "hidden": Number("hidden_size", 1, 2**20),
    "ffn": Number("intermediate_size", 1, 2**24),
    "heads": Number("num_attention_heads", 1, 2**16),
    "kv_heads": Number("num_key_value_heads", 1, 2**16),
    "head_dim": Number("head_dim", 2, 2**16),
    "vocab": Number("vocab_size", 1, 2**24),
    "norm_eps": Number("rms_norm_eps", 1e-30, 1.0, whole=False),
    "max_length": Number("max_position_embeddings", 1, 2**30),
}
MOE_FIELDS = {
    "experts": Number("num_experts", 1, 2**14),
    "active_experts": Number("num_experts_per_tok", 1, 2**14),
    "expert_ffn": Number("moe_intermediate_size", 1, 2**24),
}
# ours -> (theirs, what transformers takes where it is absent)
OPTIONAL = {
    "init_std": (Number("initializer_range", 0.0, 100.0, whole=False), 0.02),
    "balance_coef": (Number("router_aux_loss_coef", 0.0, 1e6, whole=False), 0.001),
}
# theirs -> (what it is where absent, the values this model has); anything else is another model.
FIXED: dict[str, tuple[Any, list]] = {
    "hidden_act": ("silu", ["silu"]),
    "attention_bias": (False, [False]),
    "attention_dropout": (0.0, [0.0]),
    "use_sliding_window": (False, [False]),
    "partial_rotary_factor": (1.0, [1.0, None]),
    "quantization_config": (None, [None]),
    "tie_word_embeddings": (False, [False, True]),
}
MOE_FIXED: dict[str, tuple[Any, list]] = {
    "decoder_sparse_step": (1, [1]),
    "mlp_only_layers": ([], [[], None]),
    "norm_topk_prob": (False, [True]),
    "shared_expert_intermediate_size": (0, [0, None]),
    "n_shared_experts": (0, [0, None]),
}
ROPE_THETA = Number("rope_theta", 2.0, 1e15, whole=False)
# Key of rope_scaling -> the numbers that it may be, for "yarn".
YARN = {
    "factor": Number("factor", 1.0, 1e6, whole=False),
    "original_length": Number("original_max_position_embeddings", 1, 2**30),
    "beta_fast": Number("beta_fast", 1e-6, 1e6, whole=False),
    "beta_slow": Number("beta_slow", 1e-6, 1e6, whole=False),
}
ATTENTION_FACTOR = Number("attention_factor", 0.0, 1e6, whole=False)
_ANY_ROPE = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
ROPE_TYPES = {
    "default": _ANY_ROPE,
    "yarn": {*_ANY_ROPE, "attention_factor", "truncate", *(number.key for number in YARN.values())},
}
CHUNK_SIZE, LOCAL_SIZE = Number("chunk_size", 2, 2**30), Number("local_size", 1, 2**30)
DUAL_CHUNK_VARIANTS = ("paper", "code")


def from_hf(raw: dict[str, Any], name: str = "") -> ModelConfig:
    """The ModelConfig that a parsed config.json describes.

    With YaRN the context is the longer of max_position_embeddings and factor times the original
    length, as in vLLM: Qwen's own instructions add rope_scaling and leave the rest as it is.
    Raises ValueError naming the key, its value and what is supported: another architecture, a
    sliding window, biases, other activations, quantised weights, dense or shared-expert layers in
    a MoE, other rope types, keys that are missing, of another type or out of range, two spellings
    that disagree.
    """
    kind = str(raw.get("model_type"))
    named = raw.get("architectures") or [ARCHITECTURES.get(kind)]
    if kind not in ARCHITECTURES or named not in ([ARCHITECTURES[kind]], [SCORING[kind]]):
        known = ", ".join(f"{k} ({v} or {SCORING[k]})" for k, v in ARCHITECTURES.items())
        raise ValueError(
            f"model_type {kind!r} with architectures {_shown(named)} is not supported; "
            f"known: {known}"
        )
    moe = kind == "qwen3_moe"
    scalar_head = named == [SCORING[kind]]
    if scalar_head:
        _check_one_label(raw)
    raw = _one_spelling(raw, "num_experts", "num_local_experts")
    _check_fixed(raw, FIXED | (MOE_FIXED if moe else {}))
    _check_layer_types(raw.get("layer_types"))
    fields = FIELDS | (MOE_FIELDS if moe else {})
    missing = [number.key for number in fields.values() if raw.get(number.key) is None]
    if missing:
        raise ValueError(f"config.json has no {', '.join(missing)}")
    values = {ours: number.read(raw[number.key]) for ours, number in fields.items()}
    for ours, (number, absent) in OPTIONAL.items():
        values[ours] = number.read(raw.get(number.key, absent))
    theta, yarn = _rope(raw, values["max_length"])
    if yarn is not None:
        values["max_length"] = max(values["max_length"], int(yarn.factor * yarn.original_length))
    return ModelConfig(
        name=name or kind,
        tied=bool(raw.get("tie_word_embeddings", False)),
        rope_theta=theta,
        rope_scaling=yarn,
        dual_chunk=_dual_chunk(raw.get("dual_chunk_attention_config")),
        scalar_head=scalar_head,
        source="config.json",
        **values,
    )


def stored_dtype(raw: dict[str, Any]) -> str | None:
    """The dtype that a config.json names in either spelling, without "torch."."""
    dtype = raw.get("dtype") or raw.get("torch_dtype")
    return None if dtype is None else str(dtype).removeprefix("torch.")


def _one_spelling(raw: dict[str, Any], key: str, other: str) -> dict[str, Any]:
    """A copy of `raw` with the value of `other`, if there is one, under `key`."""
    if raw.get(other) is None:
        return dict(raw)
    if raw.get(key) is not None and raw[key] != raw[other]:
        raise ValueError(
            f"config.json: {key} = {_shown(raw[key])} and {other} = {_shown(raw[other])} disagree"
        )
    return {**raw, key: raw[other]}


def _check_fixed(raw: dict[str, Any], table: dict[str, tuple[Any, list]]) -> None:
    for key, (absent, known) in table.items():
        value = raw.get(key, absent)
        # Python's 0 == False would let a number pass for a flag.
        if not any(value == k and isinstance(value, bool) == isinstance(k, bool) for k in known):
            choices = " or ".join(repr(choice) for choice in known)
            raise ValueError(
                f"config.json: {key} = {_shown(value)} is not supported, only {choices}"
            )


def _check_one_label(raw: dict[str, Any]) -> None:
    """Raise ValueError unless a classifier gives one score; transformers' default is two labels."""
    labels = raw.get("id2label")
    if not isinstance(labels, dict) or len(labels) != 1:
        raise ValueError(
            f"config.json: id2label = {_shown(labels)} is not supported, only one label: a reward "
            "model gives one score"
        )


def _check_layer_types(types: Any) -> None:
    kinds = types if isinstance(types, list) else [types]
    others = [kind for kind in kinds if kind != "full_attention"]
    if types is not None and others:
        raise ValueError(
            f"config.json: layer_types holds {_shown(others)}, only full_attention is supported"
        )


def _rope(raw: dict[str, Any], max_length: int) -> tuple[float, YarnConfig | None]:
    """Base and scaling from rope_theta + rope_scaling or rope_parameters, whichever there is."""
    ropes = {key: raw[key] for key in ("rope_parameters", "rope_scaling") if raw.get(key)}
    for key, rope in ropes.items():
        if not isinstance(rope, dict):
            raise ValueError(f"config.json: {key} = {_shown(rope)} is not an object")
    places = {"config.json": raw, **{f"config.json, {key}": rope for key, rope in ropes.items()}}
    bases = {
        ROPE_THETA.read(place["rope_theta"], where)
        for where, place in places.items()
        if place.get("rope_theta") is not None
    }
    if not bases:
        raise ValueError("config.json has neither rope_theta nor rope_parameters.rope_theta")
    scalings = {_yarn(rope, max_length, f"config.json, {key}") for key, rope in ropes.items()}
    if len(bases) > 1 or len(scalings) > 1:
        raise ValueError(
            f"config.json: rope_theta = {raw.get('rope_theta')!r} and "
            f"{' and '.join(f'{key} = {_shown(rope)}' for key, rope in ropes.items())} "
            "disagree"
        )
    return bases.pop(), scalings.pop() if scalings else None


def _yarn(rope: dict[str, Any], max_length: int, where: str) -> YarnConfig | None:
    """The YarnConfig of one rope dict, None for plain RoPE."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in ROPE_TYPES:
        raise ValueError(
            f"{where}: rope_type {_shown(kind)} is not supported; known: {', '.join(ROPE_TYPES)}"
        )
    _check_fixed(rope, {"partial_rotary_factor": (1.0, [1.0, None]), "truncate": (True, [True])})
    unknown = sorted(k for k in set(rope) - ROPE_TYPES[kind] if rope[k] is not None)
    if unknown:
        raise ValueError(f"{where}: rope_type {kind!r} with {', '.join(unknown)} is not supported")
    if kind == "default":
        return None
    if rope.get("factor") is None:
        raise ValueError(f"{where}: rope_type 'yarn' has no factor")
    absent = {"original_length": max_length, "beta_fast": 32.0, "beta_slow": 1.0}
    values = {}
    for ours, number in YARN.items():
        value = rope.get(number.key)
        values[ours] = number.read(absent[ours] if value is None else value, where)
    yarn = YarnConfig(**values)
    usual = 0.1 * math.log(yarn.factor) + 1.0
    stored = rope.get("attention_factor")
    if stored is not None and abs(ATTENTION_FACTOR.read(stored, where) - usual) > 1e-6:
        raise ValueError(
            f"{where}: attention_factor = {stored!r} is not supported, only 0.1 ln(factor) + 1 "
            f"= {usual:.6f}"
        )
    return yarn


def _dual_chunk(raw: Any) -> DualChunkConfig | None:
    """chunk_size is the trained length c, local_size the window c - s (An et al., 2402.17463)."""
    where = "config.json, dual_chunk_attention_config"
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise ValueError(f"{where} = {_shown(raw)} is not an object")
    if raw.get("sparse_attention_config") or raw.get("sparse_attention_enabled"):
        raise ValueError(f"{where}: sparse attention is not supported")
    length = CHUNK_SIZE.read(raw.get("chunk_size"), where)
    window = LOCAL_SIZE.read(raw.get("local_size"), where)
    variant = raw.get("variant", "code")
    if window >= length:
        raise ValueError(f"{where}: local_size = {window} must be below chunk_size = {length}")
    if variant not in DUAL_CHUNK_VARIANTS:
        raise ValueError(
            f"{where}: variant = {_shown(variant)} is not supported, only "
            f"{' or '.join(DUAL_CHUNK_VARIANTS)}"
        )
    return DualChunkConfig(train_length=length, chunk=length - window, variant=variant)


def to_hf(config: ModelConfig, dtype: str, ids: dict[str, Any] | None = None) -> dict[str, Any]:
    """A config.json for transformers 4 and 5, vLLM and SGLang: rope and dtype in both spellings.

    dtype: of the stored weights, e.g. "bfloat16". ids: bos_token_id, eos_token_id and, of a reward
    model, pad_token_id, where known: transformers reads a score at the last token that is no pad.
    """
    kind = "qwen3_moe" if config.moe else "qwen3"
    fields = FIELDS | (MOE_FIELDS if config.moe else {})
    architecture = (SCORING if config.scalar_head else ARCHITECTURES)[kind]
    raw: dict[str, Any] = {"architectures": [architecture], "model_type": kind}
    raw |= {number.key: getattr(config, ours) for ours, number in fields.items()}
    raw |= {
        number.key: getattr(config, ours)
        for ours, (number, _) in OPTIONAL.items()
        if config.moe or ours != "balance_coef"
    }
    raw |= {"tie_word_embeddings": config.tied, "hidden_act": "silu"}
    raw |= {"attention_bias": False, "attention_dropout": 0.0}
    raw |= {"use_sliding_window": False, "sliding_window": None, "max_window_layers": config.layers}
    if config.moe:
        raw |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
        raw |= {"output_router_logits": False}
    raw |= _rope_to_hf(config)
    raw |= {"torch_dtype": dtype, "dtype": dtype, "use_cache": True}
    raw |= {"bos_token_id": None, "eos_token_id": None}
    if config.scalar_head:
        raw |= {**ONE_LABEL, "pad_token_id": None}
    if config.dual_chunk is not None:
        raw["dual_chunk_attention_config"] = {
            "chunk_size": config.dual_chunk.train_length,
            "local_size": config.dual_chunk.train_length - config.dual_chunk.chunk,
            "original_max_position_embeddings": config.dual_chunk.train_length,
            "variant": config.dual_chunk.variant,
        }
    return raw | (ids or {})


def _rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    """Base and scaling in both spellings."""
    scaling = None
    if config.rope_scaling is not None:
        numbers = {number.key: getattr(config.rope_scaling, ours) for ours, number in YARN.items()}
        scaling = {"rope_type": "yarn", **numbers}
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": config.rope_theta}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rope_parameters": parameters,
    }
