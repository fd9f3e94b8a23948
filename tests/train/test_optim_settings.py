"""Every setting of OptimConfig reaches the update: against AdamW and Muon in float64 NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qwen3.config import OptimConfig
from qwen3.train import optim

STEPS = 12
BASE = OptimConfig(peak=0.1, final=0.25, schedule="cosine", warmup=3, weight_decay=0.2)
SHAPES = {
    "embed": (5, 4),
    "final_norm": (4,),
    "layers": {"mlp_norm": (2, 4), "query_norm": (2, 4), "gate": (2, 4, 6)},
}
DECAYED = {"embed", "gate"}


def named(tree):
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path[-1].key: np.asarray(leaf, np.float64) for path, leaf in leaves}


def arrays(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(
        lambda shape: jnp.float32(scale * rng.normal(size=shape)), SHAPES, is_leaf=is_shape
    )


def gradient(step):
    """Large now and then, so that clipping clips some steps and not others."""
    return arrays(step + 1, scale=0.05 if step % 3 else 0.5)


def run(config):
    tx = optim.build(config, optim.schedule(config, STEPS))
    params = arrays(0)
    state = tx.init(params)
    for step in range(STEPS):
        updates, state = tx.update(gradient(step), state, params, step=step, value=1.0)
        params = optax.apply_updates(params, updates)
    return named(params)


def rate(config, step):
    length = round(STEPS * config.decay_share) if config.schedule == "wsd" else STEPS
    start = max(STEPS - length, config.warmup)
    share = min(max((step - start) / max(STEPS - start, 1), 0.0), 1.0)
    decay = {
        "constant": 0.0,
        "linear": share,
        "wsd": share,
        "cosine": 0.5 * (1 - np.cos(np.pi * share)),
    }[config.schedule]
    warm = min(1.0, (step + 1) / max(config.warmup, 1))
    return config.peak * warm * (1 - (1 - config.final) * decay)


def adamw(config):
    """Algorithm 2 of arXiv 1711.05101 with the gradient's global norm clipped."""
    params, first, second = named(arrays(0)), {}, {}
    one, two = config.betas
    for step in range(STEPS):
        grads = named(gradient(step))
        norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
        if config.clip_norm:
            grads = {k: g * min(1.0, config.clip_norm / norm) for k, g in grads.items()}
        for name, grad in grads.items():
            first[name] = one * first.get(name, 0.0) + (1 - one) * grad
            second[name] = two * second.get(name, 0.0) + (1 - two) * grad**2
            mean = first[name] / (1 - one ** (step + 1))
            root = np.sqrt(second[name] / (1 - two ** (step + 1)))
            update = mean / (root + config.eps)
            if name in DECAYED:
                update = update + config.weight_decay * params[name]
            params[name] = params[name] - rate(config, step) * update
    return params


def apart(a, b):
    return max(np.abs(a[name] - b[name]).max() for name in a)


# The first setting of each is the one that is tested, beside the others.
CHANGES = [
    {"peak": 0.05},
    {"final": 0.75},
    {"schedule": "constant"},
    {"schedule": "linear"},
    {"schedule": "wsd"},
    {"decay_share": 0.5, "schedule": "wsd"},
    {"warmup": 0},
    {"warmup": 6},
    {"betas": (0.8, 0.95)},
    {"betas": (0.9, 0.8)},
    {"eps": 1e-1},
    {"weight_decay": 0.0},
    {"weight_decay": 0.5},
    {"clip_norm": 0.0, "eps": 1e-1},  # Adam undoes a scale but for its eps
    {"clip_norm": 0.3, "eps": 1e-1},
]


@pytest.mark.parametrize("change", [{}, *CHANGES], ids=str)
def test_adamw_with_each_setting_is_the_float64_reference(change):
    config = replace(BASE, **change)
    got, want = run(config), adamw(config)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=2e-5, err_msg=name)
    if change:
        _, *others = change
        other = replace(BASE, **{name: change[name] for name in others})
        assert apart(want, adamw(other)) > 1e-3, "the setting does not matter to this test"


@pytest.mark.parametrize("fans", [(4, 64), (64, 4), (16, 16)])
def test_muons_update_has_the_rms_of_adams(fans):
    """0.2, whichever side is longer (arXiv 2502.16982, 2.2); by the shorter side: 0.05."""
    config = replace(BASE, optimizer="muon", peak=1.0, warmup=0, weight_decay=0.0)
    tx = optim.build(config, optim.schedule(config, STEPS))
    params = {"layers": {"gate": jnp.zeros((3, *fans))}}
    grads = {"layers": {"gate": jax.random.normal(jax.random.key(1), (3, *fans))}}
    updates, _ = tx.update(grads, tx.init(params), params, step=0, value=0.0)
    for update in np.asarray(updates["layers"]["gate"]):  # every layer is a matrix of its own
        assert np.sqrt((update**2).mean()) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("change", [{"betas": (0.9, 0.5)}, {"weight_decay": 0.0}, {"peak": 0.05}])
def test_settings_reach_muon_too(change):
    base = replace(BASE, optimizer="muon")
    assert np.abs(run(base)["gate"] - run(replace(base, **change))["gate"]).max() > 1e-3


def test_first_moments_are_stored_in_the_dtype_that_is_set():
    for optimizer in ("adamw", "muon"):
        config = replace(BASE, optimizer=optimizer, moments="bfloat16")
        state = optim.build(config, optim.schedule(config, STEPS)).init(arrays(0))
        leaves, _ = jax.tree_util.tree_flatten_with_path(state)
        moments = [leaf for path, leaf in leaves if ".mu" in jax.tree_util.keystr(path)]
        assert moments and all(leaf.dtype == jnp.bfloat16 for leaf in moments)
