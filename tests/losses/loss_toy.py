"""A toy policy, its float64 twin in plain loops, and batches of one set of sequences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

V, D, L, E = 6, 3, 2, 4


class Router(NamedTuple):
    """As the model gives it: each field with a leading layer axis."""

    counts_BE: jax.Array
    probs_BE: jax.Array
    tokens_B: jax.Array
    dropped_B: jax.Array


class Output(NamedTuple):
    hidden_BTD: jax.Array
    head_VD: jax.Array
    router: Router | None = None


def params(seed=0, width=D, vocab=V):
    rng = np.random.default_rng(seed)
    shapes = {"embed": (vocab, width), "turn": (width,), "head": (vocab, width)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def apply(params, tokens, positions, segment_ids):
    """hidden of a token: its embedding plus its position times a vector."""
    hidden = params["embed"][tokens] + 0.1 * positions[..., None] * params["turn"]
    return Output(hidden, params["head"])


def apply_moe(params, tokens, positions, segment_ids):
    """As `apply`, with L routers that each choose one of E experts by the hidden state."""
    hidden, head, _ = apply(params, tokens, positions, segment_ids)
    real_BT = segment_ids > 0
    probs = jax.nn.softmax(jnp.einsum("BTD,LDE->LBTE", hidden, params["router"]), axis=-1)
    probs *= real_BT[None, ..., None]
    counts = jax.nn.one_hot(jnp.argmax(probs, axis=-1), E) * real_BT[None, ..., None]
    tokens_LB = jnp.broadcast_to(real_BT.sum(1), (L, len(real_BT))).astype(hidden.dtype)
    sums = jax.lax.stop_gradient(counts.sum(2)), probs.sum(2), tokens_LB
    return Output(hidden, head, Router(*sums, dropped_B=jnp.ones_like(tokens_LB)))


def log_probs(params, sequence):
    """[T, V] by loops: log-probs after each token of one sequence."""
    table = np.zeros((len(sequence["tokens"]), len(params["head"])))
    for t, token in enumerate(sequence["tokens"]):
        hidden = params["embed"][token] + 0.1 * t * params["turn"]
        logits = [float(np.dot(hidden, row)) for row in params["head"]]
        table[t] = logits - np.log(sum(np.exp(x) for x in logits))
    return table


def sequences(count=4, seed=0, vocab=V):
    """Sequences of 3 to 5 positions; the first position is prompt and has weight 0."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(count):
        length = 3 + index % 3
        noise = lambda size, n=length: rng.normal(size=n) * size  # noqa: E731
        weights = np.ones(length)
        weights[0] = 0
        made.append(
            {
                "tokens": rng.integers(0, vocab, length),
                "targets": rng.integers(0, vocab, length),
                "weights": weights,
                "mode": np.full(length, index % 2),
                "advantages": np.full(length, noise(1.0)[0]),
                "jitter": noise(0.5),
                "rollout_jitter": noise(0.2),
                "reference_jitter": noise(0.3),
            }
        )
    return made


def with_old(made, policy):
    """Old, sampler's and reference log-probs: the policy's own, moved by the stored jitters."""
    for one in made:
        own = log_probs(policy, one)[np.arange(len(one["tokens"])), one["targets"]]
        one["old_logp"] = own + one["jitter"]
        one["rollout_logp"] = one["old_logp"] + one["rollout_jitter"]
        one["reference_logp"] = own + one["reference_jitter"]
    return made


def lay_out(made, rows, length=None):
    """A batch whose row r holds the sequences `rows[r]` one after another, padded with rubbish."""
    length = length or max(sum(len(made[i]["tokens"]) for i in row) for row in rows)
    names = [name for name in made[0] if not name.endswith("jitter")]
    ints = ("tokens", "targets", "mode", "positions", "segment_ids")
    rubbish = {"tokens": 1, "targets": 2, "old_logp": -700.0, "advantages": 9.0}
    batch = {
        name: np.full((len(rows), length), rubbish.get(name, 0), int if name in ints else float)
        for name in (*names, "positions", "segment_ids")
    }
    for r, row in enumerate(rows):
        at = 0
        for segment, index in enumerate(row, start=1):
            place = slice(at, at := at + len(made[index]["tokens"]))
            for name in names:
                batch[name][r, place] = made[index][name]
            batch["positions"][r, place] = np.arange(len(made[index]["tokens"]))
            batch["segment_ids"][r, place] = segment
    return batch


def padded(made, order=None):
    return lay_out(made, [[i] for i in (order or range(len(made)))], length=8)


def packed(made):
    half = len(made) // 2
    return lay_out(made, [list(range(half)), list(range(half, len(made)))], length=16)


def split(batch, parts):
    return [{name: value[m::parts] for name, value in batch.items()} for m in range(parts)]


def update(loss, policy, batches):
    """(loss per weight, its gradient): what a step makes of a loss's sums over microbatches."""

    def one(policy, batch):
        total, sums = loss(policy, batch)
        return total, sums

    total, weight, slopes = 0.0, 0.0, jax.tree.map(np.zeros_like, policy)
    for batch in batches:
        (value, sums), slope = jax.value_and_grad(one, has_aux=True)(policy, batch)
        total, weight = total + value, weight + sums["weight"]
        slopes = jax.tree.map(lambda a, b: a + b, slopes, slope)
    return total / weight, jax.tree.map(lambda g: g / weight, slopes)


def assert_same(one, other, tolerance=1e-9):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), one, other)
