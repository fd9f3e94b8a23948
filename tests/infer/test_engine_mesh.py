"""Tensor- and expert-parallel decoding, and a mixture of experts, give the same tokens."""

import jax
import numpy as np
import pytest
from tiny import BUCKETS, LENGTH, fresh

from qwen3.config import MeshConfig
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request, sampling
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution


@pytest.fixture(scope="module")
def moe(config):
    return config.replace(name="test-moe", experts=8, active_experts=2, expert_ffn=16)


def answers(config, params, prompts, **options):
    if "cache" not in options:
        options["buckets"] = BUCKETS
    engine = Engine(config, params, slots=4, max_length=LENGTH, block=8, **options)
    rules = sampling("model", top_k=20)
    return engine.generate([Request(p, sampling=rules, max_tokens=10) for p in prompts[:6]])


@pytest.fixture(scope="module")
def single(config, moe):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 200, n).tolist() for n in (1, 2, 5, 9, 14, 30)]
    weights = {c.name: fresh(c, 0) for c in (config, moe)}
    found = {
        c.name: answers(c, weights[c.name], prompts, record_experts=c.moe) for c in (config, moe)
    }
    return prompts, weights, found


@pytest.mark.parametrize(
    ("kind", "shape", "options"),
    [
        ("test", {"data": 2, "fsdp": 2, "tensor": 2}, {}),
        ("test-moe", {"expert": 4, "tensor": 2}, {}),
        pytest.param(
            "test",
            {"data": 2, "fsdp": 2, "tensor": 2},
            {"cache": "paged", "page_size": 8, "chunk": 32},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mesh_of_eight_gives_the_tokens_of_one_device(config, moe, single, kind, shape, options):
    prompts, weights, expected = single
    mesh = make_mesh(MeshConfig(**shape))
    model = {c.name: c for c in (config, moe)}[kind]
    found = answers(model, weights[kind], prompts, mesh=mesh, **options)
    assert [each.tokens for each in found] == [each.tokens for each in expected[kind]]
    np.testing.assert_allclose(found[3].log_probs, expected[kind][3].log_probs, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("test-moe", {}),
        ("test", {"data": 2, "fsdp": 2, "tensor": 2}),
        ("test-moe", {"expert": 4, "tensor": 2}),
    ],
)
@pytest.mark.slow
def test_turns_in_their_rows_are_those_that_begin_anew(config, moe, single, kind, shape):
    """The routing too; three new tokens of each dialogue are prefilled."""
    prompts, weights, _ = single
    mesh = make_mesh(MeshConfig(**shape)) if shape else None
    options = {"slots": 4, "max_length": LENGTH, "block": 8, "buckets": BUCKETS, "mesh": mesh}
    model = {c.name: c for c in (config, moe)}[kind]
    engine = Engine(model, weights[kind], record_experts=model.moe, **options)
    rules = {"sampling": sampling("model", top_k=20), "max_tokens": 10, "stop_ids": ()}
    first = engine.generate([Request(p, turn=0, **rules) for p in prompts[:3]])
    dialogues = [[*c.request.prompt, *c.tokens, 7, 8, 9] for c in first]
    before = engine.stats["prefilled_tokens"]
    turns = engine.generate([Request(ids, turn=1, **rules) for ids in dialogues])
    assert engine.stats["prefilled_tokens"] - before == 3 * 3
    for turn, anew in zip(
        turns, engine.generate([Request(ids, **rules) for ids in dialogues]), strict=True
    ):
        assert turn.tokens == anew.tokens
        np.testing.assert_allclose(turn.log_probs, anew.log_probs, atol=1e-5)
        if model.moe:
            np.testing.assert_array_equal(turn.experts, anew.experts)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"cache": "paged", "page_size": 8, "chunk": 32}])
def test_a_mesh_gives_the_tokens_of_one_device_in_int8(config, single, options):
    prompts, weights, _ = single
    run = Execution.for_mesh(scan=False, cache_dtype="int8", weights="int8")
    want = answers(config, weights["test"], prompts, execution=run)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    found = answers(config, weights["test"], prompts, mesh=mesh, execution=run, **options)
    assert [each.tokens for each in found] == [each.tokens for each in want]


def test_chosen_experts_are_recorded_for_every_token_read(moe, single):
    prompts, weights, found = single
    for prompt, each in zip(prompts, found["test-moe"], strict=True):
        ids = np.array([*prompt, *each.tokens[:-1]])[None]
        out = jax.jit(
            lambda p, t: transformer.forward(p, moe, t, execution=Execution()).router.ids_BTA
        )(weights["test-moe"], ids)
        assert each.experts.shape == (ids.size, moe.layers, moe.active_experts)
        same = np.sort(each.experts, -1) == np.sort(np.asarray(out)[:, 0].swapaxes(0, 1), -1)
        assert same.mean() > 0.99  # rounding may swap experts of equal weight


def test_meshes_that_cannot_decode_are_refused(config, params):
    with pytest.raises(ValueError, match="context 2"):
        Engine(config, params, mesh=make_mesh(MeshConfig(context=2, data=4)))
    with pytest.raises(ValueError, match="kv heads do not divide"):
        Engine(config, params, mesh=make_mesh(MeshConfig(tensor=4, data=2)))
    with pytest.raises(ValueError, match="no experts to record"):
        Engine(config, params, record_experts=True)
