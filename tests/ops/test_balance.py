"""The balance loss against stored values of its four forms (tests/golden/README.md)."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from qwen3.ops import balance, moe

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "lbl_reference.npz")
LOGITS_BJTE = GOLDEN["router_logits"]  # data-parallel ranks, micro-batches, tokens, experts
RANKS, MICROS, LENGTH, EXPERTS = LOGITS_BJTE.shape


def sums(logits_BTE):
    """Counts and probs [1, B, E] and tokens [B] of a layer whose router gives these logits."""
    batch, length, experts = logits_BTE.shape
    routing = moe.route(logits_BTE.reshape(-1, experts), jnp.eye(experts), active=2)
    counts_BE = moe.count(routing.ids_MA.reshape(batch, length, 2), experts)
    probs_BE = routing.probs_ME.reshape(batch, length, experts).sum(1)
    return counts_BE[None], probs_BE[None], jnp.full(batch, float(length))


MICRO_BATCHES = [sums(LOGITS_BJTE[:, j]) for j in range(MICROS)]
STEP = {"counted": sum(b[0].sum(1) for b in MICRO_BATCHES), "tokens": RANKS * MICROS * LENGTH}


def test_micro_form_balances_every_shard_on_its_own():
    for j, (counts, probs, tokens) in enumerate(MICRO_BATCHES):
        for r in range(RANKS):
            row = slice(r, r + 1)
            one = balance.loss(counts[:, row], probs[:, row], tokens[row], form="micro")
            np.testing.assert_allclose(one, GOLDEN["micro_lbl"][r, j], rtol=1e-5)
        both = balance.loss(counts, probs, tokens, form="micro", groups=RANKS)
        np.testing.assert_allclose(both, GOLDEN["micro_lbl"][:, j].mean(), rtol=1e-5)
    assert abs(float(balance.loss(*MICRO_BATCHES[0], form="micro")) - float(both)) > 0.1


def test_synchronised_form_counts_over_all_devices():
    found = [balance.loss(*batch, form="synchronised") for batch in MICRO_BATCHES]
    np.testing.assert_allclose(found, GOLDEN["dp_synced_per_micro"].mean(0), rtol=1e-5)
    np.testing.assert_allclose(np.mean(found), GOLDEN["dp_synced_mean"], rtol=1e-5)


def test_buffered_form_counts_over_the_micro_batches_so_far():
    earlier, found = None, []
    for counts, probs, tokens in MICRO_BATCHES:
        found.append(balance.loss(counts, probs, tokens, form="buffered", counted=earlier))
        earlier = counts.sum(1) if earlier is None else earlier + counts.sum(1)
    np.testing.assert_allclose(found, GOLDEN["buffered_per_micro"].mean(0), rtol=1e-5)


def test_global_form_adds_up_over_micro_batches():
    parts = [balance.loss(*batch, **STEP) for batch in MICRO_BATCHES]
    np.testing.assert_allclose(
        np.array(parts) * MICROS, GOLDEN["global_per_micro"].mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(sum(parts), GOLDEN["global_lbl"], rtol=1e-5)


def test_gradient_of_the_global_form_over_micro_batches():
    def step_loss(logits_BJTE):
        batches = [sums(logits_BJTE[:, j]) for j in range(MICROS)]
        return sum(balance.loss(*batch, **STEP) for batch in batches)

    found = jax.jit(jax.grad(step_loss))(jnp.asarray(LOGITS_BJTE))
    np.testing.assert_allclose(found, GOLDEN["grad_global"], atol=1e-7)


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
def test_global_form_does_not_depend_on_how_the_batch_is_cut(micro_batches):
    logits = np.random.default_rng(0).normal(size=(8, 5, EXPERTS)).astype(np.float32) * 2
    counts, probs, tokens = sums(logits)
    whole = balance.loss(counts, probs, tokens)
    known = balance.totals(counts, tokens)
    ways = 8 // micro_batches
    mesh = jax.make_mesh((ways,), ("data",), devices=jax.devices()[:ways])
    placed = jax.jit(
        lambda *batch: balance.loss(*batch, counted=known["counts"], tokens=known["tokens"])
    )
    parts = []
    for rows in np.split(np.arange(8), micro_batches):
        shard = jax.NamedSharding(mesh, P(None, "data"))
        parts.append(
            placed(
                jax.device_put(np.asarray(counts[:, rows]), shard),
                jax.device_put(np.asarray(probs[:, rows]), shard),
                jax.device_put(np.asarray(tokens[rows]), jax.NamedSharding(mesh, P("data"))),
            )
        )
    np.testing.assert_allclose(sum(float(p) for p in parts), whole, rtol=1e-5)


def test_each_layer_is_balanced_on_its_own_and_a_balanced_one_gives_one():
    even = jnp.full((1, 1, 4), 2.0)
    skewed = jnp.array([[[8.0, 0, 0, 0]]])
    tokens = jnp.array([8.0])

    def value(counts):
        return float(balance.loss(counts, counts, tokens))

    assert value(even) == pytest.approx(1.0)
    assert value(skewed) == pytest.approx(4.0)
    # Two layers that are lopsided in opposite ways would look balanced if they were pooled.
    assert value(jnp.concatenate([skewed, skewed[:, :, ::-1]])) == pytest.approx(4.0)


def test_load_names_the_busiest_and_idlest_expert():
    found = balance.load(jnp.array([[2.0, 2, 2, 2], [8, 0, 0, 0], [4, 4, 0, 0]]))
    np.testing.assert_allclose(found["max_load"], [1, 4, 2], rtol=1e-6)
    np.testing.assert_allclose(found["min_load"], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(found["entropy"], [1, 0, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"form": "batch"}, "'batch'; known: micro, synchronised, buffered, global, previous"),
        ({"form": "micro", "groups": 3}, "2 batch rows do not divide into 3 groups"),
        ({"groups": 2}, "groups=2 is an option of the micro form"),
        ({"counted": STEP["counted"]}, "or neither"),
        ({"form": "previous"}, "takes the counts of the step before"),
        ({"form": "synchronised", "counted": STEP["counted"]}, "counted must be None"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        balance.loss(*MICRO_BATCHES[0], **options)
