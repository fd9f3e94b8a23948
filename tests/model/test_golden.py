"""The model against stored references: logits, hidden states, router, loss, gradients, decoding."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.model import hf, hf_config, transformer
from qwen3.model.execution import Execution
from qwen3.model.sizes import DualChunkConfig

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["dense_tied", "dense_untied", "moe", "dense_yarn"]


class Case:
    def __init__(self, name):
        self.name, folder = name, GOLDEN / name
        self.config = hf_config.from_hf(json.loads((folder / "config.json").read_text()))
        self.params = hf.load_params(folder, self.config, dtype=jnp.float32)
        self.arrays = np.load(folder / "reference.npz")
        self.facts = json.loads((folder / "reference.json").read_text())

        @jax.jit
        def logits(tokens, segments=None, positions=None):
            out = transformer.forward(self.params, self.config, tokens, positions, segments)
            return transformer.logits(out)

        self.logits = logits

    def forward(self, tokens, config=None, **arguments):
        """Compiled; everything that is not an array is static."""
        static = {k: v for k, v in arguments.items() if k in ("execution", "collect")}
        arrays = {k: v for k, v in arguments.items() if k not in static}
        run = partial(transformer.forward, config=config or self.config, **static)
        return jax.jit(lambda p, t, a: run(p, tokens_BT=t, **a))(self.params, tokens, arrays)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return Case(request.param)


def test_logits_without_padding(case):
    found = case.logits(case.arrays["nopad.input_ids"])
    np.testing.assert_allclose(found, case.arrays["nopad.logits"], atol=2e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_with_padding(case, side):
    mask = case.arrays[f"{side}.attention_mask"].astype(np.int32)
    found = np.asarray(case.logits(case.arrays[f"{side}.input_ids"], mask)) * mask[..., None]
    np.testing.assert_allclose(found, case.arrays[f"{side}.logits"], atol=2e-4)


def test_packed_rows_equal_the_unpacked_ones(case):
    tokens, mask = case.arrays["right.input_ids"], case.arrays["right.attention_mask"]
    lengths = mask.sum(axis=1)
    rows = [tokens[i, :n] for i, n in enumerate(lengths)]
    packed = np.concatenate(rows)[None]
    segments = np.repeat(np.arange(len(rows)) + 1, lengths)[None].astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])[None]
    want = np.concatenate([case.arrays["right.logits"][i, :n] for i, n in enumerate(lengths)])
    for given in (positions, None):  # restarted positions are also the default
        found = case.logits(packed, segments, given)[0]
        np.testing.assert_allclose(found, want, atol=2e-4)


def test_hidden_states_of_every_block(case):
    tokens = case.arrays["nopad.input_ids"]
    out = case.forward(tokens, collect=frozenset({"blocks"}))
    found = [case.params["embed"][tokens], *out.blocks_LBTD[:-1], out.hidden_BTD]
    np.testing.assert_allclose(found, case.arrays["nopad.hidden_states"], atol=2e-4)


def test_layers_written_out_equal_the_scan(case):
    tokens = case.arrays["nopad.input_ids"]
    out = case.forward(tokens, execution=Execution(scan=False))
    np.testing.assert_allclose(transformer.logits(out), case.arrays["nopad.logits"], atol=2e-4)


@pytest.mark.parametrize(
    ("scan", "prompt"), [(True, "greedy.prompt"), (False, "greedy.short_prompt")]
)
def test_greedy_decoding_with_a_cache(case, scan, prompt):
    run = Execution(scan=scan)

    @jax.jit
    def step(tokens, cache):
        out = transformer.forward(case.params, case.config, tokens, cache=cache, execution=run)
        return transformer.logits(out)[:, -1].argmax(axis=-1), out.cache

    tokens, found = case.arrays[prompt], []
    cache = transformer.new_cache(case.config, 1, 40, stacked=scan)
    for _ in range(32):
        tokens, cache = step(tokens, cache)
        found.append(int(tokens[0]))
        tokens = tokens[:, None]
    stored = case.arrays[prompt.replace("prompt", "tokens")][0]
    np.testing.assert_array_equal(found, stored)


def _cross_entropy(case):
    """Mean over labelled positions, as the reference defines it, as a function of params."""
    labels = case.arrays["loss.labels"]
    tokens, mask = case.arrays["right.input_ids"], case.arrays["right.attention_mask"]

    def loss(params):
        out = transformer.forward(params, case.config, tokens, None, mask.astype(np.int32))
        logp = jax.nn.log_softmax(transformer.logits(out)[:, :-1])
        wanted = labels[:, 1:]
        picked = jnp.take_along_axis(logp, np.maximum(wanted, 0)[..., None], axis=-1)[..., 0]
        return -jnp.sum(picked * (wanted != -100)) / np.sum(wanted != -100)

    return loss


def test_cross_entropy_and_its_gradients(case):
    value, grads = jax.jit(jax.value_and_grad(_cross_entropy(case)))(case.params)
    assert float(value) == pytest.approx(case.facts["ce_loss"], abs=2e-5)
    norm = np.sqrt(sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(grads)))
    assert norm == pytest.approx(case.facts["grad_norm_ce"], rel=1e-4)
    names = {
        "input_layernorm": ("attention_norm",),
        "post_attention_layernorm": ("mlp_norm",),
        "self_attn.q_norm": ("attention", "query_norm"),
        "self_attn.k_norm": ("attention", "key_norm"),
    }
    checked = 0
    for key in case.arrays.files:
        if key.startswith("grad_ce.model.layers."):
            layer, name = key.removeprefix("grad_ce.model.layers.").split(".", 1)
            leaf = grads["layers"]
            for part in names[name.removesuffix(".weight")]:
                leaf = leaf[part]
            np.testing.assert_allclose(leaf[int(layer)], case.arrays[key], atol=1e-5, rtol=1e-3)
            checked += 1
    assert checked == 4 * case.config.layers
    np.testing.assert_allclose(
        grads["final_norm"], case.arrays["grad_ce.model.norm.weight"], atol=1e-5, rtol=1e-3
    )
    rows = jnp.linalg.norm(grads["embed"], axis=-1)
    stored = case.arrays["grad_ce.model.embed_tokens.weight.row_norms"]
    np.testing.assert_allclose(rows, stored, atol=1e-5, rtol=1e-3)


def test_the_router_chooses_the_stored_experts():
    case = Case("moe")
    tokens = case.arrays["nopad.input_ids"]
    out = case.forward(tokens)
    stored, experts = case.arrays["nopad.topk_index"], case.config.experts
    found = np.asarray(out.router.ids_BTA).reshape(stored.shape)
    np.testing.assert_array_equal(np.sort(found), np.sort(stored))
    counts = np.stack([np.bincount(layer.ravel(), minlength=experts) for layer in stored])
    np.testing.assert_array_equal(out.router.counts_BE.sum(axis=1), counts)
    logits = case.arrays["nopad.router_logits"]
    full = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(out.router.probs_BE.sum(axis=1), full.sum(axis=1), atol=1e-4)
    np.testing.assert_array_equal(out.router.dropped_B, 0)


def test_routing_replay_uses_the_given_experts():
    case = Case("moe")
    tokens = case.arrays["nopad.input_ids"]
    plain = case.forward(tokens)
    again = case.forward(tokens, expert_ids_LBTA=plain.router.ids_BTA)
    np.testing.assert_allclose(again.hidden_BTD, plain.hidden_BTD, atol=1e-6)
    moved = (plain.router.ids_BTA + 1) % case.config.experts
    other = case.forward(tokens, expert_ids_LBTA=moved)
    assert float(jnp.abs(other.hidden_BTD - plain.hidden_BTD).max()) > 0.1


def test_yarn_reaches_beyond_the_original_length():
    case = Case("dense_yarn")
    found = case.logits(case.arrays["long.input_ids"])[0, case.arrays["long.positions"]]
    np.testing.assert_allclose(found, case.arrays["long.logits"], atol=2e-4)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_dual_chunk_decoding_equals_the_full_forward(variant):
    case = Case("dense_tied")
    settings = DualChunkConfig(train_length=12, chunk=8, variant=variant)
    config = case.config.replace(dual_chunk=settings)
    tokens = jnp.asarray(case.arrays["nopad.input_ids"][:1].repeat(3, axis=1))
    full = case.forward(tokens, config)
    cache = transformer.new_cache(config, 1, tokens.shape[1])
    first = case.forward(tokens[:, :5], config, cache=cache)
    rest = case.forward(tokens[:, 5:], config, cache=first.cache)
    joined = jnp.concatenate([first.hidden_BTD, rest.hidden_BTD], axis=1)
    np.testing.assert_allclose(joined, full.hidden_BTD, atol=1e-4)
    plain = case.forward(tokens)
    assert float(jnp.abs(plain.hidden_BTD - full.hidden_BTD)[:, 12:].max()) > 1e-2
    np.testing.assert_allclose(plain.hidden_BTD[:, :12], full.hidden_BTD[:, :12], atol=1e-4)
