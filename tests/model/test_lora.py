"""Adapters are what LoRA says: W + (alpha / r) A B, in values, gradients and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.config import MeshConfig
from qwen3.losses import lm
from qwen3.mesh import make_mesh, shardings_of
from qwen3.model import lora, sizes, transformer
from qwen3.model.execution import Execution
from qwen3.model.lora import LoraConfig

MODEL = sizes.ModelConfig("small", 2, 32, 64, 4, 2, head_dim=8, vocab=96)
CONFIG = LoraConfig(rank=3, alpha=12.0)


@pytest.fixture(scope="module")
def base():
    return jax.tree.map(jnp.asarray, transformer.init(MODEL, jax.random.key(0)))


@pytest.fixture(scope="module")
def adapters():
    """With a B that is not zero, as after some training."""
    new = lora.init(CONFIG, MODEL, jax.random.key(1))
    leaves, tree = jax.tree.flatten(new)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return tree.unflatten(
        [0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


def batch():
    tokens = np.random.default_rng(3).integers(0, 96, (2, 9)).astype(np.int32)
    ones = np.ones((2, 8), np.int32)
    return {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": ones.astype(np.float32),
        "positions": np.arange(8, dtype=np.int32)[None] * ones,
        "segment_ids": ones,
    }


def product(a, b):
    """[L, *in, r] and [L, r, *out] multiplied layer by layer in float64."""
    flat_a = np.asarray(a, np.float64).reshape(a.shape[0], -1, a.shape[-1])
    flat_b = np.asarray(b, np.float64).reshape(b.shape[0], b.shape[1], -1)
    return (flat_a @ flat_b).reshape(*a.shape[:-1], *b.shape[2:])


def test_merged_matrices_are_the_float64_reference(base, adapters):
    merged = lora.merge(base, adapters, CONFIG)
    for module, matrices in adapters.items():
        for name, factors in matrices.items():
            weight = np.asarray(base["layers"][module][name], np.float64)
            wanted = weight + 12.0 / 3 * product(factors["a"], factors["b"])
            np.testing.assert_allclose(merged["layers"][module][name], wanted, atol=1e-6)
    np.testing.assert_array_equal(merged["embed"], base["embed"])
    norms = merged["layers"]["attention"]["query_norm"]
    np.testing.assert_array_equal(norms, base["layers"]["attention"]["query_norm"])


def test_gradients_of_the_factors_follow_from_those_of_the_matrices(base, adapters):
    loss = lambda params, rows, frozen: lm.next_token(  # noqa: E731
        transformer.bind(MODEL, Execution()), params, rows, frozen
    )
    over = lora.adapted(loss, CONFIG)
    frozen = {"base": base, "rest": ()}
    grads = jax.grad(lambda a: over(a, batch(), frozen)[0])(adapters)
    whole = jax.grad(lambda p: loss(p, batch(), ())[0])(lora.merge(base, adapters, CONFIG))
    for module, matrices in adapters.items():
        for name, factors in matrices.items():
            a, b = (np.asarray(factors[k], np.float64) for k in ("a", "b"))
            d_weight = np.asarray(whole["layers"][module][name], np.float64)
            rows = a.reshape(a.shape[0], -1, 3)
            columns = b.reshape(b.shape[0], 3, -1)
            flat = d_weight.reshape(a.shape[0], rows.shape[1], -1)
            d_a = 4.0 * flat @ columns.transpose(0, 2, 1)
            d_b = 4.0 * rows.transpose(0, 2, 1) @ flat
            np.testing.assert_allclose(grads[module][name]["a"], d_a.reshape(a.shape), atol=2e-5)
            np.testing.assert_allclose(grads[module][name]["b"], d_b.reshape(b.shape), atol=2e-5)


def test_training_starts_from_the_model_as_it_is(base):
    merged = lora.merge(base, lora.init(CONFIG, MODEL, jax.random.key(5)), CONFIG)
    assert all(map(np.array_equal, jax.tree.leaves(merged), jax.tree.leaves(base)))


def test_only_the_targets_have_factors_of_the_rank():
    new = lora.init(LoraConfig(rank=2, targets=("query", "down")), MODEL, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: leaf.shape, new)
    assert shapes == {
        "attention": {"query": {"a": (2, 32, 2), "b": (2, 2, 4, 8)}},
        "mlp": {"down": {"a": (2, 64, 2), "b": (2, 2, 32)}},
    }
    deviation = float(np.std(lora.init(CONFIG, MODEL, jax.random.key(0))["mlp"]["down"]["a"]))
    assert deviation == pytest.approx(64**-0.5, rel=0.1)


def test_factors_are_sharded_like_the_axes_of_their_matrix():
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    found = shardings_of(lora.abstract(CONFIG, MODEL), mesh)
    query = found["attention"]["query"]
    assert tuple(query["a"].spec) == (None, "fsdp", None)
    assert tuple(query["b"].spec) == (None, None, "tensor", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": -1}, "LoRA rank -1"),
        ({"rank": 4, "targets": ("q_proj",)}, "choose from query, key, value, out, gate, up, down"),
        ({"rank": 4, "targets": ()}, "trains nothing"),
    ],
)
def test_settings_that_train_nothing_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        LoraConfig(**options)


def test_experts_have_no_adapters():
    moe = MODEL.replace(experts=4, active_experts=2, expert_ffn=16)
    with pytest.raises(ValueError, match="attention only"):
        lora.init(CONFIG, moe, jax.random.key(0))
    attention = LoraConfig(rank=2, targets=("query", "value"))
    assert set(lora.init(attention, moe, jax.random.key(0))) == {"attention"}
