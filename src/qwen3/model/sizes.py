"""The Qwen3 family: one row a model, each with its source, and exact parameter counts from them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class YarnConfig:
    """YaRN (arXiv 2309.00071) as Qwen3 ships it: inference at `factor` times the trained length."""

    factor: float = 4.0  # context length as a multiple of original_length
    original_length: int = 32_768  # tokens, the length that was trained
    beta_fast: float = 32.0  # turns in original_length above which a channel is left alone
    beta_slow: float = 1.0  # turns below which a channel is slowed down `factor` times


@dataclass(frozen=True)
class DualChunkConfig:
    """Dual Chunk Attention (DCA; An et al. 2024, arXiv 2402.17463). The local window is c - s."""

    train_length: int = 32_768  # c, the length that was trained, in tokens
    chunk: int = 24_576  # s < c, in tokens
    variant: str = "paper"  # positions towards other chunks as in the "paper" or in its "code"


@dataclass(frozen=True)
class ModelConfig:
    """The architecture of one Qwen3 model (arXiv 2505.09388, section 2).

    Raises ValueError for sizes below 1, an odd head_dim, an epsilon or a rotary base that is not
    a number above 0, heads that do not divide over kv heads, and more active experts than experts.
    """

    name: str
    layers: int  # transformer blocks
    hidden: int  # width of the residual stream
    ffn: int  # width of the dense feed-forward network
    heads: int  # query heads
    kv_heads: int  # key and value heads (GQA)
    head_dim: int = 128  # channels of a head; not hidden / heads
    vocab: int = 151_936  # rows of the embedding, padding included
    tied: bool = False  # the output matrix is the embedding
    experts: int = 0  # of a mixture of experts; 0 is a dense model
    active_experts: int = 0  # experts that a token is routed to (top-k)
    expert_ffn: int = 0  # width of one expert's feed-forward network
    rope_theta: float = 1_000_000.0  # base of the rotary embedding, 1e6 after ABF
    norm_eps: float = 1e-6  # epsilon of every RMSNorm
    init_std: float = 0.02  # standard deviation of the initial matrices
    max_length: int = 40_960  # context length in tokens
    rope_scaling: YarnConfig | None = None
    dual_chunk: DualChunkConfig | None = None
    balance_coef: float = 1e-3  # coefficient of the load-balancing loss
    scalar_head: bool = False  # a reward model: one score a sequence, no output matrix
    source: str = ""  # where the row comes from

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "ffn", "heads", "kv_heads", "vocab", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.head_dim < 2 or self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary channels are pairs")
        for name in ("norm_eps", "rope_theta"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} {getattr(self, name)} must be a number above 0")
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} heads do not divide over {self.kv_heads} kv heads")
        if self.experts and not 0 < self.active_experts <= self.experts:
            raise ValueError(f"{self.active_experts} of {self.experts} experts cannot be active")

    @property
    def moe(self) -> bool:
        """Whether the model is a mixture of experts."""
        return self.experts > 0

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed."""
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
    """The row of that name. Raises ValueError naming the known sizes."""
    if name not in SIZES:
        raise ValueError(f"unknown model size {name!r}; there are {', '.join(SIZES)}")
    return SIZES[name]


@dataclass(frozen=True)
class ParameterCounts:
    """Numbers of parameters of a model."""

    total: int
    non_embedding: int  # without the embedding and the output matrix
    activated: int  # with the active experts only; all of a dense model
    activated_non_embedding: int


def count_parameters(config: ModelConfig) -> ParameterCounts:
    """Exact counts by formula, without allocating anything."""
    d, width = config.hidden, config.head_dim
    attention = d * width * (config.heads + 2 * config.kv_heads) + config.heads * width * d
    norms = 2 * d + 2 * width  # before attention and feed-forward; of queries and keys

    def layers(experts: int) -> int:
        if not config.moe:
            return config.layers * (attention + norms + 3 * d * config.ffn)
        moe = experts * 3 * d * config.expert_ffn + d * config.experts
        return config.layers * (attention + norms + moe)

    vocab = config.vocab * d * (1 if config.tied or config.scalar_head else 2)
    rest = 2 * d if config.scalar_head else d  # final norm, and the head of one score
    full, active = layers(config.experts) + rest, layers(config.active_experts) + rest
    return ParameterCounts(full + vocab, full, active + vocab, active)


def flops_per_token(config: ModelConfig, length: int, *, train: bool = True) -> float:
    """Analytic FLOPs a token: 2 (forward) or 6 (training) per activated matrix weight, plus causal
    attention over `length` tokens (half the square). The embedding is a gather and costs nothing;
    the output matrix counts.
    """
    counts = count_parameters(config)
    output = 0 if config.scalar_head else config.vocab * config.hidden
    weights = counts.activated_non_embedding + output
    # Two products (scores, values) of 2 FLOPs each with length / 2 keys on average.
    attention = 2 * config.layers * config.heads * config.head_dim * (length / 2) * 2
    return (3 if train else 1) * (2 * weights + attention)
