"""The switches of GRPO, the combinations that are refused, and the published objectives by name.

The effect of each switch on the loss is written out at the head of `grpo`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

RATIOS = ("token", "sequence", "sequence_token")
CLIPS = ("symmetric", "higher", "cispo", "none")
AGGREGATIONS = ("tokens", "sequences", "constant")
KLS = ("none", "k2", "weighted_k3", "reward_k1")
OLDS = ("recomputed", "rollout")
_WRONG_KLS = {
    "k1": "has mean gradient 0 when backpropagated; use 'k2', 'weighted_k3' or 'reward_k1'",
    "k3": "has the gradient of the forward KL when backpropagated; use 'k2' or 'weighted_k3'",
}


@dataclass(frozen=True)
class Grpo:
    """The switches; a combination that is not an objective raises ValueError here, not in a run."""

    ratio: str = "token"  # importance ratio pi / pi_old, one of RATIOS
    clip: str = "higher"  # one of CLIPS
    clip_low: float = 0.2  # distance from 1 below, for "symmetric" and "higher"
    clip_high: float = 0.28  # distance from 1 above; the same as below for "symmetric"
    ratio_cap: float | None = None  # largest ratio itself, for "cispo" (ScaleRL: 5)
    dual_clip: float | None = None  # largest loss of a bad answer's token in units of |A| (3)
    aggregation: str = "tokens"  # of token losses, one of AGGREGATIONS
    constant_length: int | None = None  # divisor in tokens of aggregation "constant"
    # pi_old: "recomputed" by the trainer (batch["old_logp"]), or the engine's own ("rollout",
    # batch["rollout_logp"]).
    old: str = "recomputed"
    # Mismatch of sampler and trainer, on pi_old / pi_rollout:
    tis_cap: float | None = None  # truncated importance sampling: largest weight of a token (2)
    token_band: tuple[float, float] | None = None  # drop tokens outside (IcePop: 0.5 to 5)
    # Drop sequences whose geometric mean is outside (0.999 to 1.002): products die with length.
    sequence_band: tuple[float, float] | None = None
    # KL to the reference: "k2" and "weighted_k3" in the loss; "reward_k1" takes kl_coef
    # (log pi_old - log pi_ref) off each token's advantage.
    kl: str = "none"
    kl_coef: float = 0.0  # coefficient of the KL, above 0 with one
    entropy: bool = False  # add an entropy bonus, coefficient frozen["entropy_coef"]

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(problem)

    @property
    def clipped(self) -> bool:
        return self.clip in ("symmetric", "higher")

    @property
    def uncorrected(self) -> bool:
        """Whether samples of another policy than pi_old count as if they were pi_old's."""
        corrections = (self.tis_cap, self.token_band, self.sequence_band)
        return self.old == "recomputed" and all(value is None for value in corrections)


PRESETS: dict[str, dict[str, Any]] = {
    "grpo": dict(clip="symmetric", clip_high=0.2, aggregation="sequences"),  # arXiv 2402.03300
    "dapo": dict(),  # arXiv 2503.14476
    "dr_grpo": dict(clip="symmetric", clip_high=0.2, aggregation="constant"),  # arXiv 2503.20783
    "gspo": dict(  # arXiv 2507.18071
        ratio="sequence", aggregation="sequences", clip_low=3e-4, clip_high=4e-4
    ),
    "cispo": dict(clip="cispo", ratio_cap=5.0),  # arXiv 2506.13585, cap of 2510.13786
    "minirl": dict(tis_cap=2.0),  # arXiv 2512.01374
    "reinforce": dict(clip="none"),
}


def preset(name: str, **changes: Any) -> Grpo:
    """A published objective by name, with changes. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"objective {name!r} is not one of {', '.join(PRESETS)}")
    return Grpo(**{**PRESETS[name], **changes})


def _problems(c: Grpo) -> Iterator[str]:
    """Every reason, in words, why these switches are not an objective."""
    if c.kl in _WRONG_KLS:
        yield f"kl {c.kl!r} {_WRONG_KLS[c.kl]}"
    tables = {"ratio": RATIOS, "clip": CLIPS, "aggregation": AGGREGATIONS, "kl": KLS, "old": OLDS}
    for name, choices in tables.items():
        if getattr(c, name) not in choices:
            yield f"{name} {getattr(c, name)!r} is not one of {', '.join(choices)}"
    if c.clipped and not (0 < c.clip_low < 1 and c.clip_high > 0):
        yield f"clip_low {c.clip_low} and clip_high {c.clip_high} must be above 0, low below 1"
    if c.clip == "symmetric" and c.clip_low != c.clip_high:
        yield f"a symmetric clip has one size, not {c.clip_low} and {c.clip_high}"
    if c.clip == "higher" and not c.clip_high > c.clip_low:
        yield f"clip 'higher' needs clip_high {c.clip_high} above clip_low {c.clip_low}"
    if (c.clip == "cispo") != (c.ratio_cap is not None):
        yield f"ratio_cap {c.ratio_cap} with clip {c.clip!r}: clip 'cispo' and only it has one"
    if c.ratio_cap is not None and c.ratio_cap < 1:
        yield f"ratio_cap {c.ratio_cap} is the largest ratio, so at least 1 (5 is usual)"
    if c.dual_clip is not None and not (c.clipped and c.dual_clip > 1 + c.clip_high):
        yield f"dual_clip {c.dual_clip} needs a clipped loss and a size above 1 + clip_high (3)"
    if (c.aggregation == "constant") != (c.constant_length is not None):
        yield f"constant_length {c.constant_length} with aggregation {c.aggregation!r}"
    if c.constant_length is not None and c.constant_length < 1:
        yield f"constant_length {c.constant_length} must be at least 1 token"
    yield from _sequence_problems(c)
    yield from _mismatch_problems(c)
    if (c.kl == "none") != (c.kl_coef == 0) or c.kl_coef < 0:
        yield f"kl {c.kl!r} with kl_coef {c.kl_coef}: a KL needs a coefficient above 0"


def _sequence_problems(c: Grpo) -> Iterator[str]:
    if c.ratio == "token":
        return
    if c.clip == "cispo":
        yield f"clip 'cispo' caps token ratios; it has no {c.ratio!r} form"
    if c.aggregation != "sequences":
        yield f"ratio {c.ratio!r} is a mean over sequences; aggregation is {c.aggregation!r}"
    if c.clipped and c.clip_high > 0.1:
        yield (
            f"ratio {c.ratio!r} is a geometric mean, which a clip of {c.clip_high} never touches; "
            "its authors use clip_low 3e-4, clip_high 4e-4"
        )
    if c.tis_cap is not None or c.token_band is not None:
        yield f"token weights (tis_cap, token_band) break the {c.ratio!r} ratio; use sequence_band"
    if c.kl == "reward_k1" and c.ratio == "sequence":
        yield "kl 'reward_k1' gives tokens their own advantages; use ratio 'sequence_token'"


def _mismatch_problems(c: Grpo) -> Iterator[str]:
    corrections = {n: getattr(c, n) for n in ("tis_cap", "token_band", "sequence_band")}
    used = {name: value for name, value in corrections.items() if value is not None}
    if c.old == "rollout" and used:
        yield f"old 'rollout' is the sampler's own policy: {', '.join(used)} would do nothing"
    if c.tis_cap is not None and c.tis_cap < 1:
        yield f"tis_cap {c.tis_cap} must be at least 1 (2 is usual)"
    for name in ("token_band", "sequence_band"):
        band = used.get(name)
        if band is not None and not (len(band) == 2 and 0 < band[0] < 1 < band[1]):
            yield f"{name} {band} must be (low, high) with 0 < low < 1 < high"
