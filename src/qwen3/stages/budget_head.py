"""Training the head of the automatic thinking budget on stored rollouts of its model.

Rollouts are lines of the `samples/` of RL, or of any file with `prompt` (the rendered text),
`answer` and `score`. Right answers teach the quantiles of their thoughts' lengths, by the pinball
loss; all answers teach the chance of a right one. A thought of n tokens counts as a random length
between n - 1 and n: a count has no quantile of its own where one value has much of the chance
(Machado and Santos Silva, "Quantiles for Counts", 2005). At the end each quantile is shifted to
what the held-out prompts bear out (conformalised quantile regression, arXiv 1905.03222).

A prompt that ends with the empty thinking block is asked without thinking, and counts as the other
way to ask the prompt before it. Thoughts that a budget had cut are left out, as their lengths are
not the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from qwen3.data.jsonl import read_rows
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import thinking_head
from qwen3.infer.auto_budget import PromptStates, fingerprint
from qwen3.infer.language_model import LanguageModel
from qwen3.infer.thinking_head import BudgetHead
from qwen3.losses.pinball import pinball

FIELDS = {"prompt": str, "answer": str}
EMPTY_BLOCK = "<think>\n\n</think>\n\n"  # the hard switch, at a prompt's end
LEAST = 20  # right thoughts, without which nothing is trained


@dataclass(frozen=True)
class BudgetHeadConfig:
    """Settings of the head and its training."""

    width: int = 64  # hidden units
    steps: int = 1000  # optimizer steps, each on all rollouts
    rate: float = 3e-3  # peak learning rate of AdamW
    weight_decay: float = 0.1  # of matrices and biases alike
    held_out: float = 0.15  # share of the prompts that choose the step and calibrate the quantiles
    right: float = 1.0  # least score of a right answer
    rows: int = 32  # prompts in one forward pass
    seed: int = 0


@dataclass
class PromptOutcomes:
    """What a model made of one prompt."""

    prompt: str
    lengths: list[int] = field(default_factory=list)  # tokens of right answers' thoughts
    thought: list[bool] = field(default_factory=list)  # verdicts of answers with thinking
    at_once: list[bool] = field(default_factory=list)  # of answers without


def read_outcomes(
    files: Iterable[Any], tokenizer: Tokenizer, right: float = 1.0
) -> list[PromptOutcomes]:
    """The outcomes of each prompt in files of rollouts, in the order in which prompts first come.

    Rows without a score, and those whose thought a budget cut, are passed over. Raises ValueError
    naming file, line and fault of a row that is no rollout.
    """
    outcomes: dict[str, PromptOutcomes] = {}
    for file in files:
        for _, row in read_rows(file, fields=FIELDS):
            if row.get("score") is None or row.get("finish") == "budget-then-stop":
                continue
            prompt = row["prompt"].removesuffix(EMPTY_BLOCK)
            entry = outcomes.setdefault(prompt, PromptOutcomes(prompt))
            is_right = float(row["score"]) >= right
            if row["prompt"] != prompt:
                entry.at_once.append(is_right)
                continue
            length = thought_tokens(tokenizer, row["answer"])
            entry.thought.append(is_right and length is not None)
            if is_right and length is not None:
                entry.lengths.append(length)
    return list(outcomes.values())


def thought_tokens(tokenizer: Tokenizer, answer: str) -> int | None:
    """Tokens between the first <think> and </think>, as a budget counts them; None without both."""
    ids = tokenizer.encode(answer)
    if tokenizer.think_open not in ids or tokenizer.think_close not in ids:
        return None
    return max(0, ids.index(tokenizer.think_close) - ids.index(tokenizer.think_open) - 1)


class Examples(NamedTuple):
    """Outcomes as arrays; N prompts, S right thoughts."""

    states_NF: jax.Array
    owner_S: jax.Array  # the prompt of each right thought
    lengths_S: jax.Array  # log(1 + tokens), the tokens less a random part of one
    rights_N2: jax.Array  # right answers with thinking, and without
    asked_N2: jax.Array  # answers with thinking, and without


def train(
    model: LanguageModel, outcomes: Sequence[PromptOutcomes], config: BudgetHeadConfig
) -> tuple[BudgetHead, dict[str, Any]]:
    """A head for the model, and its measures on the held-out prompts, which calibrated it too.

    The second is {"prompts", "thoughts", "loss", "constant_loss" (of the same quantiles for every
    prompt), "cover": {quantile: share of held-out right thoughts at or below the prediction}}.
    Raises ValueError for fewer than LEAST right thoughts.
    """
    count = sum(len(entry.lengths) for entry in outcomes)
    if count < LEAST:
        raise ValueError(
            f"{count} right thoughts in rollouts of {len(outcomes)} prompts: wanted {LEAST} or more"
        )
    rng = np.random.default_rng(config.seed)
    order = rng.permutation(len(outcomes))
    cut = max(1, round(config.held_out * len(outcomes)))
    held_out, taught = (
        _examples(model, [outcomes[i] for i in part], config.rows, rng)
        for part in (order[:cut], order[cut:])
    )
    if not len(held_out.lengths_S) or not len(taught.lengths_S):
        raise ValueError(f"{len(outcomes)} prompts are too few to hold some of them out")
    weights = _calibrated(_fit(taught, held_out, config), held_out)
    scale = float(np.expm1(np.median(taught.lengths_S)))
    head = BudgetHead(jax.tree.map(np.asarray, weights), scale, fingerprint(model.params))
    return head, _measures(head, taught, held_out)


def _examples(
    model: LanguageModel, outcomes: Sequence[PromptOutcomes], rows: int, rng: np.random.Generator
) -> Examples:
    assert model.tokenizer is not None
    read = PromptStates(model.config, model.mesh, model.execution)
    prompts = [model.tokenizer.encode(entry.prompt) for entry in outcomes]
    states = [read(model.params, prompts[i : i + rows]) for i in range(0, len(prompts), rows)]
    lengths = np.array([n for entry in outcomes for n in entry.lengths], np.float64)
    sides = [(entry.thought, entry.at_once) for entry in outcomes]
    return Examples(
        jnp.concatenate(states),
        jnp.array([i for i, entry in enumerate(outcomes) for _ in entry.lengths], jnp.int32),
        jnp.asarray(np.log1p(np.maximum(lengths - rng.random(len(lengths)), 0)), jnp.float32),
        jnp.array([[sum(side) for side in pair] for pair in sides], jnp.float32),
        jnp.array([[len(side) for side in pair] for pair in sides], jnp.float32),
    )


def _loss(weights: Any, examples: Examples) -> jax.Array:
    """Mean pinball loss of a right thought plus mean cross entropy of a verdict."""
    lengths_NQ, odds_N2 = thinking_head.outputs(weights, examples.states_NF)
    quantiles_Q = jnp.array(thinking_head.QUANTILES)
    ones_S = jnp.ones_like(examples.lengths_S)
    total, weight = pinball(lengths_NQ[examples.owner_S], examples.lengths_S, quantiles_Q, ones_S)
    wrongs_N2 = examples.asked_N2 - examples.rights_N2
    entropy_N2 = examples.rights_N2 * jax.nn.softplus(-odds_N2)
    entropy_N2 += wrongs_N2 * jax.nn.softplus(odds_N2)
    return total / weight + entropy_N2.sum() / jnp.maximum(examples.asked_N2.sum(), 1)


def _fit(taught: Examples, held_out: Examples, config: BudgetHeadConfig) -> Any:
    """The weights of the step with the least loss on the held-out prompts."""
    weights = _start(taught, config)
    rates = optax.cosine_decay_schedule(config.rate, config.steps)
    # What the states are centred and scaled by is measured, not trained.
    measured = {name: name in ("mean", "std", "shift") for name in weights}
    adamw = optax.adamw(rates, weight_decay=config.weight_decay)
    tx = optax.chain(adamw, optax.masked(optax.set_to_zero(), measured))

    @jax.jit
    def advance(state: Any) -> tuple[Any, jax.Array]:
        def step(state: Any, _: None) -> tuple[Any, None]:
            weights, opt_state = state
            updates, opt_state = tx.update(jax.grad(_loss)(weights, taught), opt_state, weights)
            return (optax.apply_updates(weights, updates), opt_state), None

        state, _ = jax.lax.scan(step, state, None, length=EVERY)
        return state, _loss(state[0], held_out)

    state, best, least = (weights, tx.init(weights)), weights, float(_loss(weights, held_out))
    for _ in range(-(-config.steps // EVERY)):
        state, loss = advance(state)
        if float(loss) < least:
            best, least = state[0], float(loss)
    return best


def _calibrated(weights: dict[str, jax.Array], held_out: Examples) -> dict[str, jax.Array]:
    """The weights with every quantile shifted, in log(1 + tokens), by that quantile of what the
    held-out thoughts are longer than predicted: without it the predicted ones lie too close, as the
    network knows the prompts that it was trained on better than others.
    """
    lengths_NQ, _ = thinking_head.outputs(weights, held_out.states_NF)
    longer_SQ = np.asarray(held_out.lengths_S[:, None] - lengths_NQ[held_out.owner_S])
    shifts = [np.quantile(longer_SQ[:, k], q) for k, q in enumerate(thinking_head.QUANTILES)]
    return weights | {"shift": jnp.array(shifts, jnp.float32)}


EVERY = 20  # steps between two looks at the held-out prompts


def _start(taught: Examples, config: BudgetHeadConfig) -> dict[str, jax.Array]:
    """Random weights whose outputs begin at the quantiles of all thoughts, whatever the prompt."""
    features, outputs = taught.states_NF.shape[1], len(thinking_head.QUANTILES) + 2
    first, second = jax.random.split(jax.random.key(config.seed))
    values_Q = jnp.quantile(taught.lengths_S, jnp.array(thinking_head.QUANTILES))
    steps = jnp.log(jnp.expm1(jnp.maximum(jnp.diff(values_Q), 1e-3)))  # softplus gives them back
    return {
        "mean": taught.states_NF.mean(0),
        "std": taught.states_NF.std(0) + 1e-6,
        "w1": jax.random.normal(first, (features, config.width)) / jnp.sqrt(features),
        "b1": jnp.zeros(config.width),
        "w2": 0.01 * jax.random.normal(second, (config.width, outputs)),
        "b2": jnp.concatenate([values_Q[:1], steps, jnp.zeros(2)]),
        "shift": jnp.zeros(len(steps) + 1),
    }


def _measures(head: BudgetHead, taught: Examples, held_out: Examples) -> dict[str, Any]:
    quantiles_Q = jnp.array(head.quantiles)
    lengths_NQ, _ = thinking_head.outputs(head.weights, held_out.states_NF)
    predicted_SQ = lengths_NQ[held_out.owner_S]
    constant_Q = jnp.quantile(taught.lengths_S, quantiles_Q)
    ones_S = jnp.ones_like(held_out.lengths_S)

    def mean_loss(predicted_SQ: jax.Array) -> float:
        total, weight = pinball(predicted_SQ, held_out.lengths_S, quantiles_Q, ones_S)
        return float(total / weight)

    cover_Q = np.asarray(held_out.lengths_S[:, None] <= predicted_SQ).mean(0)
    return {
        "prompts": len(held_out.states_NF),
        "thoughts": len(held_out.lengths_S),
        "loss": mean_loss(predicted_SQ),
        "constant_loss": mean_loss(jnp.broadcast_to(constant_Q, predicted_SQ.shape)),
        "cover": {q: float(c) for q, c in zip(head.quantiles, cover_Q, strict=True)},
    }
