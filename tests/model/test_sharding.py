"""Every mesh gives the one-device logits, loss and gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.config import MeshConfig
from qwen3.mesh import AXES, batch_sharding, make_mesh, shardings_of
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import ModelConfig, size

DENSE = ModelConfig("test", 2, 32, 48, 4, 4, head_dim=8, vocab=64)
MOE = DENSE.replace(experts=8, active_experts=2, expert_ffn=16)
ALONE = [{axis: 8 if axis not in ("tensor", "context") else 4} for axis in AXES]
PAIRS = [{a: 4, b: 2} for i, a in enumerate(AXES) for b in AXES[i + 1 :]]


def batch():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, DENSE.vocab, (8, 16)).astype(np.int32)
    segments = np.ones((8, 16), np.int32)
    segments[:, 9:] = 2
    segments[1, 13:], segments[2, :3] = 0, 0
    return tokens, segments


def evaluate(config, run, params, tokens, segments):
    def loss(params):
        out = transformer.forward(params, config, tokens, None, segments, execution=run)
        logits = transformer.logits(out)
        logp = jax.nn.log_softmax(logits[:, :-1])
        picked = jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0]
        weight = (segments[:, 1:] != 0) & (segments[:, 1:] == segments[:, :-1])
        total = -jnp.sum(picked * weight) / jnp.sum(weight)
        if config.moe:
            total += 0.1 * jnp.sum(out.router.probs_BE**2) / 1e3
        return total, logits

    (value, logits), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, jnp.where((segments != 0)[..., None], logits, 0), grads


@pytest.fixture(scope="module")
def alone():
    """One device's answers, by config."""
    tokens, segments = batch()
    found = {}
    for config in (DENSE, MOE):
        params = transformer.init(config, jax.random.key(0))
        run = Execution()
        found[config] = params, jax.jit(partial(evaluate, config, run))(params, tokens, segments)
    return found


def compare(alone, axes, transport="fsdp", remat="none"):
    config = MOE if "expert" in axes else DENSE
    params, (loss, logits, grads) = alone[config]
    count = int(np.prod(list(axes.values())))
    mesh = make_mesh(MeshConfig(**{"fsdp": 1, **axes}), jax.devices()[:count])
    shardings = shardings_of(transformer.abstract(config), mesh)
    run = Execution(transport=transport, remat=remat)
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings)
        rows = jax.device_put(batch(), batch_sharding(mesh))
        found = jax.jit(partial(evaluate, config, run))(placed, *rows)
    assert float(found[0]) == pytest.approx(float(loss), abs=2e-5)
    np.testing.assert_allclose(found[1], logits, atol=2e-5)
    for ours, theirs in zip(jax.tree.leaves(found[2]), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("axes", ALONE, ids=str)
def test_an_axis_alone(alone, axes):
    compare(alone, axes)


@pytest.mark.parametrize("transport", ["all_to_all", "ring"])
def test_experts_and_fsdp_together(alone, transport):
    compare(alone, {"fsdp": 2, "expert": 4}, transport)


@pytest.mark.slow
@pytest.mark.parametrize("axes", PAIRS, ids=str)
def test_axes_in_pairs(alone, axes):
    compare(alone, axes)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots", "attention", "feed_forward"])
def test_remat_changes_nothing(alone, remat):
    compare(alone, {"fsdp": 2}, remat=remat)


def test_a_mesh_that_does_not_divide_names_the_parameter():
    mesh = make_mesh(MeshConfig(fsdp=1, tensor=8))
    with pytest.raises(ValueError, match="key.*'kv_heads' of 2 does not divide.*8"):
        shardings_of(transformer.abstract(size("tiny")), mesh)


def test_too_few_devices_are_counted():
    with pytest.raises(ValueError, match="needs 16 devices.*there are 8"):
        make_mesh(MeshConfig(data=4, fsdp=4))
