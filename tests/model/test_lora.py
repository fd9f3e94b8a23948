"""Adapters are what LoRA says: W + (alpha / r) A B, in values, gradients and shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from qwen3.config import MeshConfig, OptimConfig
from qwen3.losses import lm
from qwen3.mesh import make_mesh, shardings_of
from qwen3.model import lora, sizes, transformer
from qwen3.model.execution import Execution
from qwen3.model.lora import LoraConfig
from qwen3.stages import trainable
from qwen3.train import model_source, optim
from qwen3.train import state as states

MODEL = sizes.ModelConfig("small", 2, 32, 64, 4, 2, head_dim=8, vocab=96)
MOE = MODEL.replace(experts=4, active_experts=2, expert_ffn=16)
MODELS = pytest.mark.parametrize("model", [MODEL, MOE], ids=["dense", "moe"])
CONFIG = LoraConfig(rank=3, alpha=12.0)
TOKENS = np.random.default_rng(3).integers(0, 96, (2, 9)).astype(np.int32)


def initial(model):
    """Parameters whose matrices are ten times as large, so that logits are of a few units."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x if "norm" in jax.tree_util.keystr(path) else 10 * x,
        transformer.init(model, jax.random.key(0)),
    )


def trained(model):
    """Adapters with a B that is not zero, as after some training."""
    leaves, tree = jax.tree.flatten(lora.init(CONFIG, model, jax.random.key(1)))
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return tree.unflatten(
        [0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    )


def batch():
    ones = np.ones((2, 8), np.int32)
    return {
        "tokens": TOKENS[:, :-1],
        "targets": TOKENS[:, 1:],
        "weights": ones.astype(np.float32),
        "positions": np.arange(8, dtype=np.int32)[None] * ones,
        "segment_ids": ones,
    }


# --- the reference: float64, matrix by matrix -----------------------------------------------------


def float64(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def product(a, b, stacked):
    """[*stack, *in, r] x [*stack, r, *out], one matrix after the other."""
    result = np.zeros((*a.shape[:-1], *b.shape[stacked + 1 :]))
    for place in np.ndindex(a.shape[:stacked]):
        rows = a[place].reshape(-1, a.shape[-1])
        columns = b[place].reshape(b.shape[stacked], -1)
        result[place] = (rows @ columns).reshape(result[place].shape)
    return result


def merged(base, adapters):
    """W + alpha / rank A B of every matrix that has an adapter."""
    layers = dict(base["layers"])
    for module, matrices in adapters.items():
        layers[module] = dict(layers[module])
        for name, factors in matrices.items():
            update = product(factors["a"], factors["b"], 2 if module == "moe" else 1)
            layers[module][name] = layers[module][name] + 12.0 / 3 * update
    return {**base, "layers": layers}


def reference_loss(model, base, adapters):
    """Sum of the cross-entropies of both rows, by the plain loops of `reference`."""
    params, total = merged(base, adapters), 0.0
    for row in TOKENS:
        logits, *_ = reference.forward(model, params, row[:-1], np.arange(8), np.ones(8, int))
        highest = logits.max(axis=-1)
        total += np.sum(highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1)))
        total -= logits[np.arange(8), row[1:]].sum()
    return total


@MODELS
def test_merged_matrices_and_logits_are_the_float64_reference(model):
    base, adapters = initial(model), trained(model)
    params, want = lora.merge(base, adapters, CONFIG), merged(float64(base), float64(adapters))
    assert jax.tree.structure(params) == jax.tree.structure(want)
    for got, wanted in zip(jax.tree.leaves(params), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, wanted, atol=2e-6)
    logits = transformer.logits(transformer.forward(params, model, jnp.asarray(TOKENS)))
    for row, tokens in zip(logits, TOKENS, strict=True):
        wanted, *_ = reference.forward(model, want, tokens, np.arange(9), np.ones(9, int))
        assert np.abs(wanted).max() > 1
        np.testing.assert_allclose(row, wanted, atol=2e-5)


@MODELS
def test_gradients_of_every_factor_are_the_float64_reference(model):
    """Along a random direction of each factor of each target, by differences in float64."""
    base, adapters = initial(model), trained(model)
    over = lora.adapted(
        lambda params, rows, frozen: lm.next_token(
            transformer.bind(model, Execution()), params, rows, frozen
        ),
        CONFIG,
    )
    frozen = {"base": base, "rest": ()}
    grads = jax.jit(jax.grad(lambda a: over(a, batch(), frozen)[0]))(adapters)
    leaves, tree = jax.tree.flatten(float64(adapters))
    assert len(leaves) == 2 * len(lora.MATRICES)
    rng, base = np.random.default_rng(4), float64(base)
    for number, grad in enumerate(jax.tree.leaves(grads)):
        direction = rng.standard_normal(grad.shape)
        sides = []
        for step in (1e-5, -1e-5):
            shifted = [*leaves]
            shifted[number] = leaves[number] + step * direction
            sides.append(reference_loss(model, base, tree.unflatten(shifted)))
        wanted = (sides[0] - sides[1]) / 2e-5
        size = np.linalg.norm(grad)
        assert abs(np.sum(np.float64(grad) * direction) - wanted) < 2e-4 * size, number


@MODELS
def test_training_starts_from_the_model_as_it_is(model):
    base = initial(model)
    params = lora.merge(base, lora.init(CONFIG, model, jax.random.key(5)), CONFIG)
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(base)))


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


def test_every_expert_has_factors_of_its_own():
    new = lora.init(LoraConfig(rank=2, targets=("query", "down")), MOE, jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: leaf.shape, new)
    assert shapes == {
        "attention": {"query": {"a": (2, 32, 2), "b": (2, 2, 4, 8)}},
        "moe": {"down": {"a": (2, 4, 16, 2), "b": (2, 4, 2, 32)}},
    }
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, expert=2, tensor=2))
    down = shardings_of(lora.abstract(CONFIG, MOE), mesh)["moe"]["down"]
    assert tuple(down["a"].spec)[1] == tuple(down["b"].spec)[1] == "expert"


# --- memory of the optimizer ----------------------------------------------------------------------


@MODELS
@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_the_optimizers_state_holds_two_moments_of_each_factor_and_no_more(model, moments):
    tx = optim.build(OptimConfig(moments=moments), lambda step: 1e-3)
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    state = states.abstract(model_source.abstract_adapters(CONFIG, model, mesh), tx)
    d, heads, kv, f = model.hidden, 4 * 8, 2 * 8, model.expert_ffn or model.ffn
    inputs_and_outputs = 2 * (d + heads) + 2 * (d + kv) + 3 * (d + f) * (model.experts or 1)
    factors = model.layers * CONFIG.rank * inputs_and_outputs
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == factors
    first = 4 if moments == "float32" else 2  # bytes of Adam's first moment; the second is fp32
    bytes_of = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.opt_state))
    assert factors * (first + 4) <= bytes_of <= factors * (first + 4) + 64  # and the counters
    assert trainable.memory(state) == (factors * 4, bytes_of)
