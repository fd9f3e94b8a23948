"""The Bradley-Terry loss of a reward model, on pairs of a chosen and a rejected answer.

P(chosen beats rejected) = sigmoid(r_chosen - r_rejected). A score is read where batch["weights"] is
above 0: at the last token of an answer, once a sequence. The two answers of a pair stand side by
side in one row of the batch, as its segments 1 and 2, 3 and 4, ..., so that packing, padding and
microbatches cannot part them.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from qwen3.losses.forward import Apply, Batch, Params, Sums, detached, run
from qwen3.losses.sequences import per_sequence

# Coefficient of (r_chosen + r_rejected)^2: only differences are trained, so that without it scores
# drift and those of two models cannot be compared (Eisenstein et al., arXiv 2312.09244).
CENTRING = 0.01


def token_scores(apply: Apply, params: Params, batch: Batch) -> jax.Array:
    """scores_BT in fp32: what the scalar head reads at every token."""
    output, _ = run(apply, params, batch)
    wide = jnp.promote_types(output.score_OD.dtype, jnp.float32)
    scores_BTO = jnp.einsum(
        "BTD,OD->BTO",
        output.hidden_BTD.astype(wide),
        output.score_OD.astype(wide),
        precision=jax.lax.Precision.HIGHEST,
    )
    return scores_BTO[..., 0]


def bradley_terry(
    apply: Apply, params: Params, batch: Batch, frozen: Any = (), *, centring: float = CENTRING
) -> tuple[jax.Array, Sums]:
    """(sum over pairs of -log sigmoid(r_c - r_r - margin) + centring * (r_c + r_r)^2, sums).

    batch["margin"], float [B, T], optional: by how much the chosen answer must win, at the token
    where its score is read (Llama 2, arXiv 2307.09288, 3.2.2). sums: weight (pairs), bt (the loss
    without centring), accuracy (pairs in the right order, equal scores count half), difference
    (r_c - r_r), chosen and rejected (scores). Every pair has weight 1.
    """
    with jax.named_scope("scores"):
        scores_BT = token_scores(apply, params, batch)
    chosen_BP, rejected_BP, is_pair_BP = _pairs(scores_BT, batch)
    difference_BP = chosen_BP - rejected_BP
    margin_BP = _pairs(batch["margin"], batch)[0] if "margin" in batch else 0.0
    bt_BP = jax.nn.softplus(margin_BP - difference_BP)  # -log sigmoid(x) = softplus(-x)
    centre_BP = jnp.square(chosen_BP + rejected_BP)
    right_BP = 0.5 * (jnp.sign(difference_BP) + 1)
    columns = {
        "bt": bt_BP,
        "accuracy": right_BP,
        "difference": difference_BP,
        "chosen": chosen_BP,
        "rejected": rejected_BP,
    }
    sums = {name: jnp.sum(is_pair_BP * values) for name, values in columns.items()}
    total = jnp.sum(is_pair_BP * (bt_BP + centring * centre_BP))
    return total, detached({"weight": jnp.sum(is_pair_BP), **sums})


def _pairs(values_BT: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(values of chosen answers, of rejected ones, 1 where there is a pair), each [B, P]."""
    read_BT = (batch["weights"] > 0).astype(values_BT.dtype)
    values_BG, counts_BG = (
        per_sequence(x, batch["segment_ids"]) for x in (values_BT * read_BT, read_BT)
    )
    pairs = values_BT.shape[1] // 2  # at most: each answer has a token
    chosen, rejected = slice(1, 2 * pairs, 2), slice(2, 2 * pairs + 1, 2)
    is_pair_BP = counts_BG[:, chosen] * counts_BG[:, rejected]
    return values_BG[:, chosen], values_BG[:, rejected], is_pair_BP
