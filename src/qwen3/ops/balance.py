"""The load-balancing loss (LBL) in five forms, from the routers' small sums. (arXiv 2501.11873)

For one layer: loss = E * sum_e f_e * P_e, with f the share of selections per expert (it sums to 1
and has no gradient) and P the mean of the full softmax: a balanced router gives 1. The mean over
layers is returned.

All forms are one sum. With tokens in groups g = 1..G,
loss = E / tokens * sum_g sum_e f_ge * probs_ge, and they differ only in where f is counted:

| form | f counted over |
|---|---|
| micro | the group's own tokens: one data-parallel shard of one micro-batch |
| synchronised | the micro-batch on all devices |
| buffered | this micro-batch and those before it in the optimizer step |
| global | all micro-batches of the optimizer step |
| previous | all micro-batches of the optimizer step before; nothing at the first |

The sum is linear in the probabilities, so the parts of the micro-batches add up to the value of the
step, and the global form does not depend on how the batch was cut; nor does the previous one, which
is the global form with a count that is one step old, and needs no pass that counts first. At the
first step it is 0 and has no gradient, as with equal shares: the probabilities sum to 1. Letters: L
layers, B batch rows, E experts, G groups.
"""

import jax
import jax.numpy as jnp

FORMS = ("micro", "synchronised", "buffered", "global", "previous")


def totals(counts_LBE: jax.Array, tokens_B: jax.Array) -> dict[str, jax.Array]:
    """Sums that a counting pass adds up over a step: {"counts": [L, E], "tokens": []}."""
    return {"counts": jnp.sum(counts_LBE, axis=1), "tokens": jnp.sum(tokens_B)}


def loss(
    counts_LBE: jax.Array,
    probs_LBE: jax.Array,
    tokens_B: jax.Array,
    *,
    form: str = "global",
    groups: int = 1,
    counted: jax.Array | None = None,
    tokens: jax.Array | float | None = None,
) -> jax.Array:
    """This micro-batch's part of the step's loss; the parts of all its micro-batches add up to it.

    counts and probs: sums over each row's real tokens, as in MoeStats, stacked over layers.
    groups: for "micro" only, the number of equal runs of rows that are balanced separately.
    counted: [L, E] selections, for "global" those of the whole step, for "previous" of the step
    before, for "buffered" of the earlier micro-batches (None at the first one).
    tokens: real tokens of the whole step; None when this batch is the whole step.
    Raises ValueError for an unknown form and for options that the form does not have.
    """
    layers, rows, experts = counts_LBE.shape
    if form not in FORMS:
        raise ValueError(f"unknown balance form {form!r}; known: {', '.join(FORMS)}")
    if form == "global" and (counted is None) != (tokens is None):
        raise ValueError("the global form takes counts and tokens of the whole step, or neither")
    if form == "previous" and counted is None:
        raise ValueError("the previous form takes the counts of the step before as counted")
    if form in ("micro", "synchronised") and counted is not None:
        raise ValueError(f"the {form} form counts only its own micro-batch; counted must be None")
    if groups != 1 and form != "micro":
        raise ValueError(f"groups={groups} is an option of the micro form, not of {form!r}")
    if rows % groups:
        raise ValueError(f"{rows} batch rows do not divide into {groups} groups")

    own_LE = jnp.sum(counts_LBE, axis=1)
    if form == "micro":
        counts_LGE = counts_LBE.reshape(layers, groups, -1, experts).sum(axis=2)
    elif form == "buffered" and counted is not None:
        counts_LGE = (own_LE + counted)[:, None]
    elif form in ("global", "previous") and counted is not None:
        counts_LGE = counted[:, None]
    else:
        counts_LGE = own_LE[:, None]
    probs_LGE = probs_LBE.reshape(layers, groups, -1, experts).sum(axis=2)
    tokens = jnp.sum(tokens_B) if tokens is None else tokens
    return experts * jnp.sum(shares(counts_LGE) * probs_LGE) / (layers * jnp.maximum(tokens, 1.0))


def shares(counts: jax.Array) -> jax.Array:
    """counts divided by their sum over the last axis, without gradient; zeros where that is 0."""
    counts = jax.lax.stop_gradient(counts)
    return counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)


def load(counts_LE: jax.Array) -> dict[str, jax.Array]:
    """Evenness of the load per layer, each [L] and 1 for a balanced router.

    max_load, min_load: the busiest and idlest expert's share of the selections times E. entropy:
    that of the shares, divided by log E.
    """
    experts = counts_LE.shape[-1]
    shares_LE = shares(counts_LE)
    entropy_L = -jnp.sum(jax.scipy.special.xlogy(shares_LE, shares_LE), axis=-1)
    return {
        "max_load": jnp.max(shares_LE, axis=-1) * experts,
        "min_load": jnp.min(shares_LE, axis=-1) * experts,
        "entropy": entropy_L / jnp.log(experts),
    }
