"""What a config, a batch and an execution say reaches the arithmetic: against a float64 loop."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from qwen3.config import MeshConfig
from qwen3.losses import lm
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import REMAT, Execution
from qwen3.model.sizes import DualChunkConfig, ModelConfig, YarnConfig

# An epsilon and a base that are nobody's default, and YaRN whose ramp lies inside the channels.
DENSE = ModelConfig(
    *("wiring", 2, 24, 40, 4, 2), head_dim=8, vocab=48, rope_theta=200.0, norm_eps=0.03
)
YARN = YarnConfig(factor=3.0, original_length=64, beta_fast=1.5, beta_slow=0.3)
CONFIGS = {
    "untied": DENSE,
    "tied": DENSE.replace(tied=True),
    "yarn": DENSE.replace(rope_scaling=YARN),
    "moe": DENSE.replace(experts=6, active_experts=2, expert_ffn=16),
}
# One row of three documents and padding, with the positions that the default would give them.
LENGTHS = (13, 6, 9)
SEGMENTS = np.repeat([1, 2, 3, 0], [*LENGTHS, 4])
POSITIONS = np.concatenate([np.arange(n) for n in (*LENGTHS, 4)])
TOKENS = np.random.default_rng(0).integers(0, DENSE.vocab, len(SEGMENTS))


def params_of(config):
    """Initial parameters with matrices ten times as large and gains that differ from 1."""
    params = transformer.init(config, jax.random.key(0))
    rng = np.random.default_rng(1)

    def stir(path, leaf):
        name = jax.tree_util.keystr(path)
        if "norm" in name:
            return jnp.asarray(leaf * rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        return 10 * leaf

    return jax.tree_util.tree_map_with_path(stir, params)


def run(config, params, tokens, positions=None, segments=None, **options):
    """The Output for one row, compiled."""
    static = {k: options.pop(k) for k in ("execution", "collect") if k in options}
    forward = partial(transformer.forward, config=config, **static)
    row = lambda x: None if x is None else jnp.asarray(x)[None]  # noqa: E731
    compiled = jax.jit(lambda p, t, at, s: forward(p, tokens_BT=t, positions_BT=at, segments_BT=s))
    return compiled(params, row(tokens), row(positions), row(segments))


def logits(config, params, tokens, positions=None, segments=None, **options):
    out = run(config, params, tokens, positions, segments, **options)
    return np.asarray(transformer.logits(out)[0])


def float64(params):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), params)


# The config and the batch


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_equals_a_float64_loop_on_a_packed_row(name):
    config, params = CONFIGS[name], params_of(CONFIGS[name])
    found = logits(config, params, TOKENS, None, SEGMENTS)
    want = reference.forward(config, float64(params), TOKENS, POSITIONS, SEGMENTS)[0]
    real = SEGMENTS > 0
    assert np.abs(want[real]).max() > 1
    np.testing.assert_allclose(found[real], want[real], atol=2e-4 * np.abs(want[real]).max())


def test_the_router_reports_what_a_float64_loop_counts():
    config, params = CONFIGS["moe"], params_of(CONFIGS["moe"])
    router = run(config, params, TOKENS, None, SEGMENTS).router
    _, probs, chosen = reference.forward(config, float64(params), TOKENS, POSITIONS, SEGMENTS)
    real = SEGMENTS > 0
    np.testing.assert_allclose(router.probs_BE[:, 0], probs[:, real].sum(axis=1), rtol=1e-4)
    counts = [np.bincount(layer[real].ravel(), minlength=6) for layer in chosen]
    np.testing.assert_array_equal(router.counts_BE[:, 0], counts)
    np.testing.assert_array_equal(router.tokens_B[:, 0], [sum(LENGTHS)] * 2)
    np.testing.assert_array_equal(router.ids_BTA[:, 0][:, real], chosen[:, real])


def test_the_balance_loss_of_a_model_is_that_of_the_loops_router():
    config, params = CONFIGS["moe"], params_of(CONFIGS["moe"])
    _, probs, chosen = reference.forward(config, float64(params), TOKENS, POSITIONS, SEGMENTS)
    real, value = SEGMENTS > 0, 0.0
    for layer in range(2):
        shares = np.bincount(chosen[layer][real].ravel(), minlength=6) / chosen[layer][real].size
        value += 6 * np.sum(shares * probs[layer][real].mean(axis=0)) / 2
    names = {"tokens": TOKENS, "positions": POSITIONS, "segment_ids": SEGMENTS, "targets": TOKENS}
    batch = {name: jnp.asarray(x)[None] for name, x in names.items()}
    batch["weights"] = jnp.ones((1, len(TOKENS))).at[0, 5:].set(0)
    apply = transformer.bind(config, Execution())
    loss = lambda **o: lm.next_token(apply, params, batch, **o)[0]  # noqa: E731
    balanced = loss(balance="global", balance_coef=0.7)
    # The balance is a mean over all real tokens, times the 5 that are trained on.
    np.testing.assert_allclose(balanced - loss(), 0.7 * 5 * value, rtol=1e-4)


DUAL_CHUNK = {
    variant: DENSE.replace(dual_chunk=DualChunkConfig(train_length=8, chunk=5, variant=variant))
    for variant in ("paper", "code")
}
PACKED = {
    **CONFIGS,
    **DUAL_CHUNK,
    "paper and yarn": DUAL_CHUNK["paper"].replace(rope_scaling=YARN),
}


@pytest.mark.parametrize("name", PACKED)
def test_documents_of_a_packed_row_equal_each_alone(name):
    config, params = PACKED[name], params_of(PACKED[name])
    packed = logits(config, params, TOKENS, None, SEGMENTS)
    for segment in (1, 2, 3):
        own = SEGMENTS == segment
        alone = logits(config, params, TOKENS[own])
        np.testing.assert_allclose(packed[own], alone, atol=1e-4 * np.abs(alone).max())


@pytest.mark.parametrize("name", PACKED)
def test_the_contents_of_padding_change_nothing(name):
    config, params = PACKED[name], params_of(PACKED[name])
    real = SEGMENTS > 0
    other = np.where(real, TOKENS, (TOKENS + 7) % DENSE.vocab)
    found, same = (logits(config, params, t, None, SEGMENTS)[real] for t in (TOKENS, other))
    np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("name", ["untied", "yarn", "paper"])
def test_given_positions_are_those_that_are_rotated_by(name):
    config, params = PACKED[name], params_of(PACKED[name])
    default = logits(config, params, TOKENS[:10])
    np.testing.assert_array_equal(default, logits(config, params, TOKENS[:10], np.arange(10)))
    spread = logits(config, params, TOKENS[:10], 3 * np.arange(10))
    assert np.abs(spread - default).max() > 0.05 * np.abs(default).max()
    if config.dual_chunk is None:
        shifted = logits(config, params, TOKENS[:10], 40 + np.arange(10))
        np.testing.assert_allclose(shifted, default, atol=1e-3 * np.abs(default).max())
        want = reference.forward(
            config, float64(params), TOKENS[:10], 3 * np.arange(10), np.ones(10)
        )[0]
        np.testing.assert_allclose(spread, want, atol=2e-4 * np.abs(want).max())


@pytest.mark.parametrize("scaling", [None, YARN], ids=["rope", "yarn"])
def test_dual_chunk_attention_up_to_the_trained_length_is_the_model_without_it(scaling):
    config = DUAL_CHUNK["paper"].replace(rope_scaling=scaling)
    params = params_of(config)
    plain = logits(config.replace(dual_chunk=None), params, TOKENS)
    found = logits(config, params, TOKENS)
    np.testing.assert_allclose(found[:8], plain[:8], atol=1e-4 * np.abs(plain).max())
    assert np.abs(found - plain)[8:].max() > 0.02 * np.abs(plain).max()


# The execution


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention": "slow"}, "unknown attention kernel 'slow'"),
        ({"experts": "slow"}, "unknown experts kernel 'slow'"),
        ({"transport": "post"}, "unknown transport 'post'"),
        ({"transport": "ring", "expert_bound": -1.0}, "bound=-1.0 with transport 'ring'"),
    ],
)
def test_kernels_and_transports_of_an_execution_are_those_that_run(change, message):
    config = CONFIGS["moe"]
    with pytest.raises(ValueError, match=message):
        run(config, params_of(config), TOKENS, execution=Execution(**change))


def test_an_execution_refuses_an_unknown_remat_policy():
    with pytest.raises(ValueError, match="'half'; .*none, full, dots"):
        Execution(remat="half")


def text_of(config, execution):
    """The traced gradient of a sum of hidden states."""
    params = jax.eval_shape(lambda: params_of(config))

    def loss(params, tokens):
        return transformer.forward(params, config, tokens, execution=execution).hidden_BTD.sum()

    tokens = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    return jax.jit(jax.grad(loss)).lower(params, tokens).as_text()


def test_the_remat_policy_decides_what_is_computed_again():
    products = {
        name: text_of(DENSE, Execution(remat=name)).count("stablehlo.dot_general")
        for name in ("none", "full", "dots", "attention")
    }
    # Computed again: nothing; attention's scores and values; all but them; everything.
    assert products["none"] == products["dots"] - 2
    assert products["dots"] < products["attention"] == products["full"] - 2
    assert set(products) < set(REMAT)


def test_scan_decides_whether_layers_are_a_loop():
    assert "stablehlo.while" in text_of(DENSE, Execution())
    assert "stablehlo.while" not in text_of(DENSE, Execution(scan=False))


def test_the_dtype_is_that_of_activations_and_weights_at_use():
    config, params = CONFIGS["moe"], params_of(CONFIGS["moe"])
    out = run(config, params, TOKENS, execution=Execution(dtype="bfloat16"))
    assert out.hidden_BTD.dtype == jnp.bfloat16
    assert out.router.probs_BE.dtype == jnp.float32
    fine = logits(config, params, TOKENS)
    coarse = transformer.logits(out)[0]
    assert 1e-4 < np.abs(coarse - fine).max() / np.abs(fine).max() < 0.2


@pytest.mark.parametrize("scan", [True, False])
def test_matrices_stored_outputs_first_give_the_same_model(scan):
    params = params_of(DENSE)
    move = lambda leaf, inputs: jnp.moveaxis(  # noqa: E731
        leaf, range(inputs), range(leaf.ndim - inputs, leaf.ndim)
    )
    stored = {
        **params,
        "layers": transformer.on_matrices(
            params["layers"], lambda leaf, inputs: jax.vmap(lambda x: move(x, inputs))(leaf)
        ),
    }
    assert stored["layers"]["mlp"]["up"].shape != params["layers"]["mlp"]["up"].shape
    execution = Execution(outputs_first=True, scan=scan)
    found = logits(DENSE, stored, TOKENS, execution=execution)
    want = logits(DENSE, params, TOKENS)
    np.testing.assert_allclose(found, want, atol=1e-4 * np.abs(want).max())


def test_expert_bound_limits_what_a_transport_sends():
    config = CONFIGS["moe"].replace(experts=4)
    mesh = make_mesh(MeshConfig(fsdp=1, expert=4), jax.devices()[:4])
    params, tokens = params_of(config), jnp.tile(jnp.arange(8), (8, 1))
    router = params["layers"]["moe"]["router"]
    # Every token wants experts 0 and 1, which two of the four devices hold.
    params["layers"]["moe"]["router"] = router.at[:].set(0).at[:, 0, 0].set(0)

    def dropped(**change):
        run = Execution(**change)
        forward = lambda p, t: transformer.forward(p, config, t, execution=run)  # noqa: E731
        with jax.set_mesh(mesh):
            return float(jax.jit(forward)(params, tokens).router.dropped_B.sum())

    assert dropped(transport="ring") == 0
    assert dropped(transport="ring", expert_bound=0.5) > 0
    assert dropped(transport="all_to_all", expert_bound=0.5) > 0
