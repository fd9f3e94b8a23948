"""Next-token cross-entropy, with the router's load-balancing loss for mixtures of experts.

The loss is a sum that the step divides once by the batch's weight. The balance term is a mean over
tokens, not a weighted sum, so it enters times the weight of the whole optimizer step: after the
division the update is that of CE + balance_coef * balance, however the step was cut into
microbatches. For this the loss needs sums over the whole step before the first microbatch, which
`prepass` computes and the step passes as batch["totals"]; without them the batch is the whole step.
The "global" form counts the selections of the step there, at the cost of a forward pass. "buffered"
and "previous" take counts that are there anyway, as batch["counted"]: see CARRY and train.step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from qwen3.losses.forward import Apply, Batch, Params, Sums, by_mode, detached, run
from qwen3.mesh import BATCH_AXES
from qwen3.ops import balance as balancing
from qwen3.ops import chunked
from qwen3.ops.row_chunks import flatten_rows, unflatten_rows, ways

# Where the step gets batch["counted"] from, by form of the balance: train.step's `carry`.
CARRY = {"buffered": "microbatch", "previous": "step"}


def next_token(
    apply: Apply,
    params: Params,
    batch: Batch,
    frozen: Any = (),
    *,
    z_loss: float = 0.0,
    balance: str | None = None,
    balance_coef: float = 0.0,
    chunk: int | None = None,
) -> tuple[jax.Array, Sums]:
    """(sum of weight * (cross-entropy + z_loss * normaliser^2) + balance, sums).

    z_loss: coefficient of the squared log-normaliser. balance: None or a form of `ops.balance`
    ("global" is Qwen3's), with balance_coef above 0. chunk: rows of logits at a time.
    sums: weight, ce, correct (both weighted); z (with a z_loss); dropped (selections that no expert
    computed, for a mixture); balance, max_load and min_load (means over layers, times the weight);
    ce and tokens per mode where batch has "mode". Beside the metrics, for a form in CARRY,
    expert_counts [L, E]: selections in this microbatch, of which max_load and min_load then are.
    Raises ValueError for a balance form without a coefficient or the reverse, for a dense model
    with one, and for "previous" without batch["counted"].
    """
    check(balance, balance_coef)
    output, hidden_MD = run(apply, params, batch)
    targets_M, weights_M = (flatten_rows(batch[name]) for name in ("targets", "weights"))
    with jax.named_scope("cross_entropy"):
        total, rows = chunked.cross_entropy(
            hidden_MD, output.head_VD, targets_M, weights_M, z_loss=z_loss, chunk=chunk
        )
    used_BT = (batch["weights"] > 0).astype(jnp.float32)
    ce_BT = unflatten_rows(rows["ce"], *used_BT.shape)
    sums = {
        "weight": jnp.sum(weights_M),
        "ce": jnp.sum(weights_M * rows["ce"]),
        "correct": jnp.sum(weights_M * rows["correct"]),
        **by_mode(ce_BT, used_BT, batch, "ce"),
        **by_mode(jnp.ones_like(used_BT), used_BT, batch, "tokens"),
    }
    if output.router is not None:
        sums["dropped"] = jnp.sum(output.router.dropped_B)
    if z_loss:
        sums["z"] = jnp.sum(weights_M * jnp.square(rows["normaliser"]))
    if balance is not None:
        with jax.named_scope("balance"):
            term, loads = _balance(output.router, batch, balance)
        total += balance_coef * term
        sums |= {"balance": term, **loads}
    return total, detached(sums)


def check(balance: str | None, balance_coef: float) -> None:
    """Raise ValueError for an unknown balance form, one without coefficient, or the reverse."""
    if balance is not None and balance not in balancing.FORMS:
        raise ValueError(f"balance {balance!r} is not None or one of {', '.join(balancing.FORMS)}")
    if (balance is None) != (balance_coef == 0) or balance_coef < 0:
        raise ValueError(f"balance {balance!r} with coefficient {balance_coef}")


def prepass(apply: Apply, *, balance: str | None) -> Callable[[Params, Batch, Any], Sums]:
    """A (params, microbatch, frozen) -> sums; over a step they are what batch["totals"] holds.

    Only "global" runs the model (a forward pass that counts).
    """

    def sums(params: Params, batch: Batch, frozen: Any) -> Sums:
        totals = {"weight": jnp.sum(batch["weights"])}
        if balance != "global":
            return totals | {"tokens": jnp.sum(batch["segment_ids"] > 0).astype(jnp.float32)}
        counts_LBE, _, tokens_B = _routers(run(apply, params, batch)[0].router)
        return totals | balancing.totals(counts_LBE, tokens_B)

    return sums


def _balance(router: Any, batch: Batch, form: str) -> tuple[jax.Array, Sums]:
    """(balance part times the step's weight, sums: mean loads times this batch's weight)."""
    counts_LBE, probs_LBE, tokens_B = _routers(router)
    totals = batch.get("totals")
    step = totals or {"weight": jnp.sum(batch["weights"]), "tokens": None}
    options: dict[str, Any] = {"form": form, "tokens": step["tokens"]}
    if form == "micro":
        rows = batch["tokens"].shape[0]
        options["groups"] = math.gcd(rows, ways(*BATCH_AXES))  # one a data-parallel shard
    elif form == "global" and totals is not None:
        options["counted"] = totals["counts"]
    elif form in CARRY:
        options["counted"] = batch.get("counted")
    part = balancing.loss(counts_LBE, probs_LBE, tokens_B, **options)
    own_LE = jnp.sum(counts_LBE, axis=1)
    loads = balancing.load(step.get("counts", own_LE))
    weight = jnp.sum(batch["weights"])
    sums = {name: weight * jnp.mean(loads[name]) for name in ("max_load", "min_load")}
    if form in CARRY:
        sums["expert_counts"] = own_LE
    return step["weight"] * part, sums


def _routers(router: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(counts_LBE, probs_LBE, tokens_B) of `ops.transport.MoeStats` stacked over layers."""
    if router is None:
        raise ValueError("a balance loss needs a mixture of experts; this model has no router")
    return router.counts_BE, router.probs_BE, router.tokens_B[0]
