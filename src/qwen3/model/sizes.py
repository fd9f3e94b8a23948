"""The family: one row a model, each with its source, and exact parameter counts from the rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class YarnConfig:
    """YaRN as shipped for Qwen3: inference at `factor` times `original_length` (RECIPE 5.1)."""

    factor: float = 4.0
    original_length: int = 32_768
    beta_fast: float = 32.0
    beta_slow: float = 1.0


@dataclass(frozen=True)
class DualChunkConfig:
    """Dual Chunk Attention (An et al. 2024, arXiv 2402.17463), "paper" or "code" positions.

    train_length: c, the length that was trained; chunk: s < c; the local window is c - s.
    """

    train_length: int = 32_768
    chunk: int = 24_576
    variant: str = "paper"


@dataclass(frozen=True)
class ModelConfig:
    """One Qwen3 (arXiv 2505.09388, section 2). Lengths in tokens, widths in channels."""

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int = 128
    vocab: int = 151_936
    tied: bool = False
    experts: int = 0
    active_experts: int = 0
    expert_ffn: int = 0
    rope_theta: float = 1_000_000.0
    norm_eps: float = 1e-6
    init_std: float = 0.02
    max_length: int = 40_960
    rope_scaling: YarnConfig | None = None
    dual_chunk: DualChunkConfig | None = None
    balance_coef: float = 1e-3
    source: str = ""

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not divide over {self.kv_heads} kv heads")
        if self.experts and not 0 < self.active_experts <= self.experts:
            raise ValueError(f"{self.active_experts} of {self.experts} experts cannot be active")

    @property
    def moe(self) -> bool:
        return self.experts > 0

    def replace(self, **changes) -> ModelConfig:
        return dataclasses.replace(self, **changes)


_REPORT = "arXiv 2505.09388, tables 1 and 2; Hub config.json"
_TINY = "ours: small enough for two cores"

SIZES = {
    row.name: row
    for row in (
        ModelConfig("0.6b", 28, 1024, 3072, 16, 8, tied=True, source=_REPORT),
        ModelConfig("1.7b", 28, 2048, 6144, 16, 8, tied=True, source=_REPORT),
        ModelConfig("4b", 36, 2560, 9728, 32, 8, tied=True, source=_REPORT),
        ModelConfig("8b", 36, 4096, 12288, 32, 8, source=_REPORT),
        ModelConfig("14b", 40, 5120, 17408, 40, 8, source=_REPORT),
        ModelConfig("32b", 64, 5120, 25600, 64, 8, source=_REPORT),
        ModelConfig(
            "30b-a3b",
            48,
            2048,
            6144,
            32,
            4,
            experts=128,
            active_experts=8,
            expert_ffn=768,
            source=_REPORT,
        ),
        ModelConfig(
            "235b-a22b",
            94,
            4096,
            12288,
            64,
            4,
            experts=128,
            active_experts=8,
            expert_ffn=1536,
            source=_REPORT,
        ),
        ModelConfig(
            "tiny",
            4,
            64,
            160,
            4,
            2,
            head_dim=16,
            vocab=512,
            tied=True,
            max_length=2048,
            source=_TINY,
        ),
        ModelConfig(
            "tiny-moe",
            4,
            64,
            160,
            4,
            2,
            head_dim=16,
            vocab=512,
            tied=True,
            max_length=2048,
            experts=8,
            active_experts=2,
            expert_ffn=80,
            source=_TINY,
        ),
    )
}


def size(name: str) -> ModelConfig:
    """The row of that name. Raises ValueError naming the sizes there are."""
    if name not in SIZES:
        raise ValueError(f"unknown model size {name!r}; there are {', '.join(SIZES)}")
    return SIZES[name]


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters; "activated" counts the active experts only (all of them in a dense model)."""

    total: int
    non_embedding: int
    activated: int
    activated_non_embedding: int


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Exact counts by formula (RECIPE 1), without allocating anything."""
    d, width = config.hidden, config.head_dim
    attention = d * width * (config.heads + 2 * config.kv_heads) + config.heads * width * d
    norms = 2 * d + 2 * width

    def layers(experts: int) -> int:
        if not config.moe:
            return config.layers * (attention + norms + 3 * d * config.ffn)
        moe = experts * 3 * d * config.expert_ffn + d * config.experts
        return config.layers * (attention + norms + moe)

    vocab = config.vocab * d * (1 if config.tied else 2)
    full, active = layers(config.experts) + d, layers(config.active_experts) + d
    return ParameterCounts(full + vocab, full, active + vocab, active)


def flops_per_token(config: ModelConfig, length: int, *, train: bool = True) -> float:
    """Analytic FLOPs a token: 2 (forward) or 6 (training) per activated matrix weight, plus causal
    attention over `length` (half the square). The embedding's gather is free; the head is not.
    """
    counts = count_parameters(config)
    weights = counts.activated_non_embedding + config.vocab * config.hidden
    attention = 2 * config.layers * config.heads * config.head_dim * (length / 2) * 2
    return (3 if train else 1) * (2 * weights + attention)
