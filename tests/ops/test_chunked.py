"""Chunked cross-entropy, log-probabilities and top-k against float64 loops over rows."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from finite import gradient
from jax.sharding import NamedSharding, PartitionSpec

from qwen3.config import MeshConfig
from qwen3.mesh import make_mesh
from qwen3.ops import chunked, row_chunks

M, D, V = 7, 3, 12


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def arrays(m=M, d=D, v=V, seed=0):
    rng = np.random.default_rng(seed)
    hidden, head = rng.normal(size=(m, d)), rng.normal(size=(v, d))
    return hidden, head, rng.integers(0, v, m), rng.uniform(0, 2, m)


def row_log_probs(hidden, head, m, temperature=1.0):
    logits = [float(np.dot(hidden[m], row)) / temperature for row in head]
    normaliser = np.log(sum(np.exp(logit) for logit in logits))
    return [logit - normaliser for logit in logits], normaliser


def loop_cross_entropy(hidden, head, targets, weights, z_loss=0.0):
    total = 0.0
    for m in range(len(hidden)):
        log_probs, normaliser = row_log_probs(hidden, head, m)
        total += weights[m] * (-log_probs[targets[m]] + z_loss * normaliser**2)
    return total


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_cross_entropy_and_its_gradients_equal_a_loop(z_loss):
    hidden, head, targets, weights = arrays()

    def ours(hidden, head):
        return 2 * chunked.cross_entropy(hidden, head, targets, weights, z_loss=z_loss, chunk=3)[0]

    value, (dhidden, dhead) = jax.jit(jax.value_and_grad(ours, (0, 1)))(hidden, head)
    loop = lambda h, w: 2 * loop_cross_entropy(h, w, targets, weights, z_loss)  # noqa: E731
    np.testing.assert_allclose(value, loop(hidden, head), rtol=1e-12)
    np.testing.assert_allclose(ours(hidden, head), value, rtol=1e-12)  # the undifferentiated path
    np.testing.assert_allclose(dhidden, gradient(lambda h: loop(h, head), hidden), atol=1e-7)
    np.testing.assert_allclose(dhead, gradient(lambda w: loop(hidden, w), head), atol=1e-7)


def test_cross_entropy_statistics_are_unweighted_per_row():
    hidden, head, targets, weights = arrays()
    best = np.argmax(hidden @ head.T, axis=-1)
    targets[:3] = best[:3]
    _, got = chunked.cross_entropy(hidden, head, targets, weights * 0, chunk=2)
    want = [row_log_probs(hidden, head, m) for m in range(M)]
    np.testing.assert_allclose(got["ce"], [-p[t] for (p, _), t in zip(want, targets, strict=True)])
    np.testing.assert_allclose(got["normaliser"], [z for _, z in want])
    np.testing.assert_array_equal(got["correct"], targets == best)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_and_entropy_and_their_gradients_equal_a_loop(temperature):
    hidden, head, targets, mix = arrays()

    def combine(logp, entropy, xp):
        return xp.sum(xp.exp(logp) * mix) + xp.sum(entropy**2 * mix[::-1])

    def ours(hidden, head):
        pair = chunked.log_probs(hidden, head, targets, temperature=temperature, chunk=3)
        return combine(*pair, jnp)

    def loop(hidden, head):
        all_rows = [row_log_probs(hidden, head, m, temperature)[0] for m in range(M)]
        logp = np.array([row[t] for row, t in zip(all_rows, targets, strict=True)])
        entropy = np.array([-sum(np.exp(p) * p for p in row) for row in all_rows])
        return combine(logp, entropy, np)

    value, (dhidden, dhead) = jax.jit(jax.value_and_grad(ours, (0, 1)))(hidden, head)
    np.testing.assert_allclose(value, loop(hidden, head), rtol=1e-12)
    np.testing.assert_allclose(dhidden, gradient(lambda h: loop(h, head), hidden), atol=1e-7)
    np.testing.assert_allclose(dhead, gradient(lambda w: loop(hidden, w), head), atol=1e-7)


def test_temperature_zero_is_refused():
    hidden, head, targets, _ = arrays()
    with pytest.raises(ValueError, match="temperature 0"):
        chunked.log_probs(hidden, head, targets, temperature=0)


def test_top_k_gives_full_log_probs_ids_and_normaliser_within_the_vocabulary():
    hidden, head, *_ = arrays()
    logp, ids, normaliser = chunked.top_k_log_probs(hidden, head, 4, vocab=10, chunk=2)
    for m in range(M):
        want, want_normaliser = row_log_probs(hidden, head[:10], m)
        order = sorted(range(10), key=lambda v: -want[v])[:4]
        np.testing.assert_array_equal(ids[m], order)
        np.testing.assert_allclose(logp[m], [want[v] for v in order])
        np.testing.assert_allclose(normaliser[m], want_normaliser)
    with pytest.raises(ValueError, match="top 11"):
        chunked.top_k_log_probs(hidden, head, 11, vocab=10)


def test_half_precision_products_keep_wide_logits_and_a_gradient_in_the_parameters_dtype():
    hidden, head, targets, weights = arrays()
    half, single = jnp.asarray(hidden, jnp.bfloat16), jnp.asarray(head, jnp.float32)
    loss = lambda h, w: chunked.cross_entropy(h, w, targets, jnp.float32(weights))[0]  # noqa: E731
    value, (dhidden, dhead) = jax.value_and_grad(loss, (0, 1))(half, single)
    assert (value.dtype, dhidden.dtype, dhead.dtype) == (jnp.float32, jnp.bfloat16, jnp.float32)
    assert value == pytest.approx(loop_cross_entropy(hidden, head, targets, weights), rel=0.02)


MESHES = {
    "data": dict(data=8),
    "fsdp x tensor": dict(fsdp=2, tensor=4),
    "all": dict(fsdp=2, context=2, tensor=2),
}


@pytest.mark.parametrize("sizes", MESHES.values(), ids=MESHES)
def test_sharded_over_eight_devices_equals_one_device(sizes):
    batch, length, vocab = 8, 4, 16
    hidden, head, targets, weights = arrays(batch * length, 4, vocab)

    def losses(hidden_BTD, head, targets_BT, weights_BT):
        flat = [row_chunks.flatten_rows(x) for x in (hidden_BTD, targets_BT, weights_BT)]
        ce, statistics = chunked.cross_entropy(flat[0], head, *flat[1:], z_loss=0.1, chunk=2)
        logp, entropy = chunked.log_probs(flat[0], head, flat[1], chunk=2)
        best = chunked.top_k_log_probs(flat[0], head, 3, chunk=2)
        per_token = [statistics["ce"], statistics["correct"], logp, entropy, *best]
        per_token = [row_chunks.unflatten_rows(x, batch, length) for x in per_token]
        return ce + jnp.sum(jnp.exp(logp) * flat[2] + entropy**2), per_token

    def run(*arguments):
        return jax.jit(jax.value_and_grad(losses, (0, 1), has_aux=True))(*arguments)

    shape = lambda x: x.reshape(batch, length, *x.shape[1:])  # noqa: E731
    arguments = [shape(hidden), head, shape(targets), shape(weights)]
    alone = run(*arguments)
    mesh = make_mesh(MeshConfig(**{axis: sizes.get(axis, 1) for axis in MeshConfig().__dict__}))
    tokens = PartitionSpec(("data", "fsdp", "expert"), "context")
    specs = [tokens, PartitionSpec("tensor", "fsdp"), tokens, tokens]
    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(arguments, specs, strict=True)
        ]
        spread = run(*placed)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)  # noqa: E731
    jax.tree.map(compare, alone, spread)


def test_no_array_of_all_rows_times_the_vocabulary_is_made():
    rows_M, vocab = 512, 1000
    shapes = [(rows_M, 4), (vocab, 4), (rows_M,), (rows_M,)]
    kinds = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    arguments = [jax.ShapeDtypeStruct(s, k) for s, k in zip(shapes, kinds, strict=True)]

    def loss(hidden, head, targets, weights):
        ce = chunked.cross_entropy(hidden, head, targets, weights, chunk=32)[0]
        return ce + chunked.log_probs(hidden, head, targets, chunk=32)[0].sum()

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < rows_M * vocab * 4 / 2


def test_every_chunk_of_rows_spans_all_devices_of_the_batch():
    mesh = make_mesh(MeshConfig(data=8, **{a: 1 for a in ("fsdp", "context", "expert", "tensor")}))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.arange(32.0), NamedSharding(mesh, PartitionSpec("data")))
        chunks = jax.jit(lambda x: row_chunks.split(x, 2))(x)
        assert chunks.shape == (2, 8, 2)
        assert {s.data.shape for s in chunks.addressable_shards} == {(2, 1, 2)}
        np.testing.assert_array_equal(chunks[0, 3], [12, 13])
        np.testing.assert_array_equal(row_chunks.join(chunks, 32), x)


def test_the_gradient_of_the_head_is_reduced_once_after_all_chunks():
    """Inside the scan only per-row sums and the hidden states' gradient cross devices."""
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2, **{a: 1 for a in ("data", "context", "expert")}))
    by_row, head = PartitionSpec("fsdp"), PartitionSpec("tensor", "fsdp")
    shapes = [((64, 8), by_row), ((32, 8), head), ((64,), by_row), ((64,), by_row)]
    kinds = [jnp.float32, jnp.float32, jnp.int32, jnp.float32]
    arguments = [
        jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, spec))
        for (shape, spec), kind in zip(shapes, kinds, strict=True)
    ]

    def loss(hidden, head, targets, weights):
        return chunked.cross_entropy(hidden, head, targets, weights, chunk=4)[0]

    with jax.set_mesh(mesh):
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments)
    text = lowered.compile().as_text()
    collective = re.compile(r"= f32\[([\d,]*)\]\S* (?:all-reduce|all-gather|reduce-scatter)\(")
    inside, outside = set(), set()
    for line in text.splitlines():
        if not line.startswith(" "):
            place = outside if line.startswith("ENTRY") else inside
        elif found := collective.search(line):
            place.add(found.group(1))
    assert inside == {"1,4", "1,4,8"}  # rows, and rows by width: nothing with the vocabulary's 16
    assert any(shape.startswith("16,") for shape in outside)
