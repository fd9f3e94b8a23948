import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qwen3.config import OptimConfig
from qwen3.train import optim


def rates(rate, steps):
    return [round(float(rate(s)), 6) for s in steps]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 1.0, 0.5625, 0.2125, 0.125, 0.125]),
        ("cosine", [0.25, 0.5, 1.0, 0.5625, 0.146413, 0.125, 0.125]),
        ("wsd", [0.25, 0.5, 1.0, 1.0, 0.416667, 0.125, 0.125]),
    ],
)
def test_schedules_warm_up_hold_and_decay_to_the_final_share(name, expected):
    config = OptimConfig(peak=1.0, final=0.125, warmup=4, schedule=name, decay_share=0.25)
    rate = optim.schedule(config, 24)
    assert rates(rate, [0, 1, 4, 14, 22, 24, 99]) == expected


def test_an_offset_shifts_the_whole_schedule():
    config = OptimConfig(peak=1.0, warmup=2, schedule="linear")
    shifted = optim.schedule(config, 10, offset=100)
    assert rates(shifted, range(100, 112)) == rates(optim.schedule(config, 10), range(12))


def test_stage_two_takes_over_at_the_border_and_decays_faster():
    one = OptimConfig(peak=1.0, final=0.8, warmup=2, schedule="linear")
    two = OptimConfig(peak=0.8, final=0.1, warmup=0, schedule="linear")
    rate = optim.chain([(one, 12), (two, 7)])
    assert rates(rate, [7, 11, 12, 13, 19]) == [0.9, 0.82, 0.8, 0.697143, 0.08]
    assert rates(jax.jit(rate), [7, 12, 19]) == [0.9, 0.8, 0.08]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schedule": "sine"}, "'sine' is none of constant, linear, cosine, wsd"),
        ({"warmup": 50}, "warm-up of 50 steps does not fit into 20"),
        ({"optimizer": "sgd"}, "'sgd' is none of adamw, muon"),
        ({"decay_share": 0.0}, "decay_share 0.0"),
        ({"skip_spikes": 0.5}, "factor > 1"),
    ],
)
def test_a_wrong_setting_is_named_with_the_choices(change, words):
    config = OptimConfig(**{"warmup": 0, **change})
    with pytest.raises(ValueError, match=words):
        optim.build(config, optim.schedule(config, 20))


PARAMS = {
    "embed": jnp.ones((4, 3)),
    "layers": {
        "mlp_norm": jnp.ones((2, 3)),
        "head_bias": jnp.ones((2, 3)),
        "attention": {"query": jnp.ones((2, 3, 2, 2))},
    },
    "final_norm": jnp.ones((3,)),
}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_spares_norms_and_biases_though_they_are_stacked_over_layers(name):
    config = OptimConfig(optimizer=name, peak=0.1, warmup=0, weight_decay=0.5, schedule="constant")
    tx = optim.build(config, optim.schedule(config, 10))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS, step=0, value=0.0)
    new = optax.apply_updates(PARAMS, updates)
    assert np.allclose(new["embed"], 0.95) and np.allclose(new["final_norm"], 1.0)
    assert np.allclose(new["layers"]["attention"]["query"], 0.95)
    assert np.allclose(new["layers"]["mlp_norm"], 1.0)
    assert np.allclose(new["layers"]["head_bias"], 1.0)


def test_muon_orthogonalises_each_layer_and_leaves_the_embedding_to_adam():
    config = OptimConfig(
        optimizer="muon", peak=1.0, warmup=0, weight_decay=0.0, clip_norm=0.0, schedule="constant"
    )
    tx = optim.build(config, optim.schedule(config, 10))
    key = jax.random.key(0)
    grads = jax.tree.map(lambda p: jax.random.normal(key, p.shape), PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS, step=0, value=0.0)
    query = np.asarray(updates["layers"]["attention"]["query"]).reshape(2, 3, 4)
    singular = np.linalg.svd(query, compute_uv=False)
    assert singular.min() > 0.4 * 0.2 * 2 and singular.max() < 1.4 * 0.2 * 2
    assert np.allclose(updates["embed"], -np.sign(grads["embed"]), atol=1e-3)


def test_the_rate_follows_the_step_handed_in_not_a_counter():
    config = OptimConfig(peak=1.0, warmup=10, weight_decay=0.0, schedule="constant")
    tx = optim.build(config, optim.schedule(config, 20))
    grads, state = jax.tree.map(jnp.ones_like, PARAMS), tx.init(PARAMS)
    early, _ = tx.update(grads, state, PARAMS, step=0, value=0.0)
    late, _ = tx.update(grads, state, PARAMS, step=9, value=0.0)
    assert np.allclose(10 * early["embed"], late["embed"], rtol=1e-5)


def test_spikes_and_values_that_are_not_finite_leave_moments_and_parameters():
    config = OptimConfig(
        peak=0.1, warmup=0, clip_norm=0.0, schedule="constant", skip_spikes=3.0, spike_window=4
    )
    tx = optim.build(config, optim.schedule(config, 100))
    params = {"w": jnp.ones((2, 2))}
    state, seen = tx.init(params), []
    # scale of the gradient, loss, is it skipped
    table = [
        (50.0, 1.0, False),  # the window is not full yet
        (1.0, 1.0, False),
        (1.0, 1.0, False),
        (1.0, 1.0, False),
        (4.0, 1.0, True),
        (1.0, float("nan"), True),
        (float("inf"), 1.0, True),
        (2.0, 1.0, False),
        (4.0, 1.0, False),  # the level has changed: the median of the window is now 3
    ]
    for scale, loss, skipped in table:
        grads = {"w": scale * jnp.full((2, 2), 0.5)}
        before = state.inner
        updates, state = tx.update(grads, state, params, step=0, value=jnp.float32(loss))
        seen.append(bool(state.skipped_last))
        assert (float(optax.global_norm(updates)) == 0) == skipped
        if skipped:
            assert all(
                np.array_equal(a, b)
                for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(state.inner), strict=True)
            )
    assert seen == [row[2] for row in table]


def test_clipping_bounds_the_gradient_that_adam_sees():
    config = OptimConfig(peak=1.0, warmup=0, clip_norm=0.5, schedule="constant", eps=1.0)
    tx = optim.build(config, optim.schedule(config, 10))
    params = {"w": jnp.zeros((2, 2))}
    grads = {"w": jnp.full((2, 2), 100.0)}
    updates, _ = tx.update(grads, tx.init(params), params, step=0, value=0.0)
    assert np.allclose(updates["w"], -0.25 / (0.25 + 1.0), rtol=1e-5)
