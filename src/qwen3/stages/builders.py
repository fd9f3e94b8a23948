"""The loss functions of post-training, bound to models: what the stages train and `plan` compiles.

Each builder takes ModelConfigs and switches and gives loss(params, batch, frozen) -> (sum, sums);
`batch_shapes` and `teacher_shapes` give what it is called with, as shapes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding

from qwen3.data.rows import POLICY_FIELDS, POST_TRAINING_FIELDS
from qwen3.losses import distill, grpo, lm, preference
from qwen3.losses.distill import Distill
from qwen3.losses.forward import token_log_probs
from qwen3.losses.grpo_config import Grpo
from qwen3.mesh import spec
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig
from qwen3.stages.start import abstract_parameters
from qwen3.train import expert_counts
from qwen3.train.step import Loss, count_parts, join, split

TEACHER_READS = ("tokens", "positions", "segment_ids")  # fields of a batch


def _language_model(model: ModelConfig, execution: Execution) -> Callable:
    """The model as a loss calls it. Raises ValueError for a reward model, which has no logits."""
    if model.scalar_head:
        raise ValueError(f"{model.name} is a reward model; only stages.reward_model trains one")
    return transformer.bind(model, execution)


def bradley_terry(model: ModelConfig, execution: Execution, *, centring: float) -> Loss:
    """The loss of a reward model on pairs of answers."""
    return partial(preference.bradley_terry, transformer.bind(model, execution), centring=centring)


def next_token(
    model: ModelConfig, execution: Execution, *, balance: str = "global"
) -> tuple[Loss, Callable | None]:
    """(loss, prepass or None) of supervised fine-tuning.

    The load-balancing loss of a mixture of experts has the form `balance` (ops.balance), for which
    the step takes carry=`carry(model, balance)` and the optimizer is `balanced`.
    """
    apply = _language_model(model, execution)
    if not model.moe:
        return partial(lm.next_token, apply), None
    loss = partial(lm.next_token, apply, balance=balance, balance_coef=model.balance_coef)
    return loss, lm.prepass(apply, balance=balance)


def carry(model: ModelConfig, balance: str) -> str | None:
    """What `train.step.make_step` carries for a form of the load-balancing loss."""
    return lm.CARRY.get(balance) if model.moe else None


def balanced(
    tx: optax.GradientTransformationExtraArgs, model: ModelConfig, balance: str
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, with the last step's selections in its state if the form needs them."""
    if carry(model, balance) != "step":
        return tx
    return expert_counts.remember(tx, model.layers, model.experts)


def stored(model: ModelConfig, execution: Execution, config: Distill) -> Loss:
    """Off-policy distillation from a teacher's stored top-k logits."""
    return partial(distill.stored, _language_model(model, execution), config=config)


def policy_gradient(model: ModelConfig, execution: Execution, config: Grpo) -> Loss:
    """GRPO. frozen: () or {"reference": parameters}.

    The entropy bonus's coefficient, which moves from step to step, comes with the batch:
    entropy_coef, float32 [B], all rows the same.
    """
    apply = _language_model(model, execution)

    def loss(params: Any, batch: dict, frozen: Any) -> tuple[jax.Array, dict]:
        frozen = dict(frozen or {})
        if config.entropy:
            frozen["entropy_coef"] = batch["entropy_coef"][0]
        return grpo.policy_gradient(apply, params, batch, frozen, config=config)

    return loss


def divergence(
    student: ModelConfig, teacher: ModelConfig, execution: Execution, config: Distill
) -> Loss:
    """On-policy distillation. frozen: {"teacher": parameters}."""
    return partial(
        distill.divergence,
        _language_model(student, execution),
        teacher_apply=_language_model(teacher, execution),
        config=config,
    )


def handed_over(student: ModelConfig, execution: Execution, config: Distill) -> Loss:
    """On-policy distillation from a teacher on other devices, whose hidden states come with the
    batch (`teacher_hidden`). frozen: {"teacher_head": its output matrix}.
    """
    return partial(distill.handed_over, _language_model(student, execution), config=config)


def teacher_hidden(
    teacher: ModelConfig, execution: Execution, *, microbatches: int | Callable[[int], int]
) -> Callable[[Any, dict], jax.Array]:
    """Jitted (params, batch of TEACHER_READS) -> the hidden states [B, T, E] of a teacher after its
    final norm. microbatches: as of `log_probs`.
    """
    apply = _language_model(teacher, execution)

    def hidden(params: Any, batch: dict) -> jax.Array:
        return apply(params, *(batch[name] for name in TEACHER_READS)).hidden_BTD

    return jax.jit(_by_parts(hidden, microbatches))


def log_probs(
    model: ModelConfig, execution: Execution, *, microbatches: int | Callable[[int], int] = 1
) -> Callable[[Any, dict], jax.Array]:
    """Jitted (params, batch) -> log p(targets), [B, T], by the operations of the loss itself: a
    policy's importance-sampling ratio to itself is then exactly 1.

    microbatches: parts of the batch that are computed one after the other, for less memory, as
    those of the optimizer step are (`train.step.make_step`).
    """
    apply = _language_model(model, execution)

    def values(params: Any, batch: dict) -> jax.Array:
        return token_log_probs(apply, params, batch)[0]

    return jax.jit(_by_parts(values, microbatches))


def _by_parts(
    function: Callable[[Any, dict], jax.Array], microbatches: int | Callable[[int], int]
) -> Callable[[Any, dict], jax.Array]:
    """function(params, batch) -> [B, T, ...], of one part of the rows after the other."""

    def by_parts(params: Any, batch: dict) -> jax.Array:
        count = count_parts(microbatches, batch)
        if count == 1:
            return function(params, batch)
        parts = {name: split(name, value, count) for name, value in batch.items()}
        return join(jax.lax.map(partial(function, params), parts))

    return by_parts


def batch_shapes(mesh: Mesh, rows: int, length: int, *, policy: Grpo | None = None) -> dict:
    """The abstract batch of an optimizer step; with `policy` that of its policy gradient."""
    fields = dict(POST_TRAINING_FIELDS)
    if policy is not None:
        fields |= POLICY_FIELDS
    wide = NamedSharding(mesh, spec("batch", "length"))
    shapes = {
        name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=wide)
        for name, dtype in fields.items()
    }
    if policy is not None and policy.entropy:
        by_row = NamedSharding(mesh, spec("batch"))
        shapes["entropy_coef"] = jax.ShapeDtypeStruct((rows,), jnp.float32, sharding=by_row)
    return shapes


def handover_shapes(
    teacher: ModelConfig, mesh: Mesh, rows: int, length: int, dtype: Any = jnp.bfloat16
) -> tuple[dict, dict]:
    """(what the batch has besides `batch_shapes`, the `frozen`) of a distillation step whose
    teacher lies elsewhere, as shapes."""
    by_row = NamedSharding(mesh, spec("batch", "length", None))
    shape = (rows, length, teacher.hidden)
    hidden = jax.ShapeDtypeStruct(shape, dtype, sharding=by_row)
    params = abstract_parameters(teacher, mesh, dtype)
    return {"teacher_hidden": hidden}, {"teacher_head": transformer.head(params)}


def teacher_shapes(model: ModelConfig, mesh: Mesh, dtype: Any = jnp.bfloat16) -> dict:
    """The abstract `frozen` of a distillation step."""
    return {"teacher": abstract_parameters(model, mesh, dtype)}
