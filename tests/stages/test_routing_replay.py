"""Routing replay (R3): a mixture of experts is trained on the routing that the sampler took."""

import dataclasses

import jax
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.data import rows
from qwen3.infer.requests import Completion, Request
from qwen3.losses.forward import token_log_probs
from qwen3.losses.grpo_config import Grpo
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.model.execution import Execution
from qwen3.rewards.answers import ScoredAnswer
from qwen3.stages import grpo, rollouts
from qwen3.stages.rollouts import Rollout
from qwen3.stages.stored_rollouts import pack, restore, unpack
from qwen3.train.loop import Stopped

MODEL = post.model(experts=4, active_experts=2, expert_ffn=16)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)


def rollout(prompt, answer, seed=0):
    """An answer of given ids with a random routing of all of its inputs."""
    random = np.random.default_rng(seed)
    inputs = len(prompt) + len(answer) - 1
    experts = np.stack(
        [[random.permutation(4)[:2] for _ in range(MODEL.layers)] for _ in range(inputs)]
    )
    completion = Completion(
        Request(list(prompt), prompt_id=seed),
        list(answer),
        log_probs=[-1.0] * len(answer),
        forced=[False] * len(answer),
        versions=[0] * len(answer),
        finish="stop",
        experts=experts.astype(np.uint8),
    )
    return Rollout(ScoredAnswer(post.lock(seed), completion, "x", 1.0), 1.0, 0.5)


def packed(*answers):
    sequences = [rollouts.token_sequence(answer, policy=True) for answer in answers]
    where = rows.layout([len(sequence) for sequence in sequences], 32)
    return rows.fill(sequences, where, 32, pad=0, rows=where.rows), where


def test_every_slot_has_the_routing_of_its_input():
    answers = [rollout([5, 6, 7], [8, 9], 0), rollout([3], [4, 5, 6, 7], 1)]
    batch, where = packed(*answers)
    for answer, row, start in zip(answers, where.row, where.start, strict=True):
        experts = answer.completion.experts
        slots = batch["expert_ids"][row, start : start + len(experts)]
        np.testing.assert_array_equal(slots.reshape(experts.shape), experts)


def test_the_losses_log_probs_are_those_under_the_replayed_routing():
    params = transformer.init(MODEL, jax.random.key(0))
    apply = transformer.bind(MODEL, Execution())
    answer = rollout([5, 6, 7], [8, 9, 10], 3)
    batch, _ = packed(answer)
    with jax.set_mesh(make_mesh(post.ONE, jax.devices()[:1])):
        replayed, _ = token_log_probs(apply, params, batch)
        others = {name: value for name, value in batch.items() if name != "expert_ids"}
        own, _ = token_log_probs(apply, params, others)
    ids = [*answer.completion.request.prompt, *answer.completion.tokens]
    experts = np.moveaxis(answer.completion.experts, 1, 0)[:, None].astype(np.int32)
    output = transformer.forward(params, MODEL, np.array([ids[:-1]]), expert_ids_LBTA=experts)
    logits = np.asarray(transformer.logits(output), np.float64)[0]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for slot in (2, 3, 4):
        value = float(replayed[0, slot])
        assert value == pytest.approx(expected[slot, ids[slot + 1]], abs=1e-5)
    assert np.abs(np.asarray(replayed - own)).max() > 1e-4


def test_the_reference_keeps_its_own_routing():
    from qwen3.losses import grpo as loss

    params = transformer.init(MODEL, jax.random.key(0))
    apply = transformer.bind(MODEL, Execution())
    batch, _ = packed(rollout([5, 6, 7], [8, 9, 10], 3))
    others = {name: value for name, value in batch.items() if name != "expert_ids"}
    with jax.set_mesh(make_mesh(post.ONE, jax.devices()[:1])):
        reference = loss._reference(apply, batch, {}, {"reference": params}, None)
        own, _ = token_log_probs(apply, params, others)
    np.testing.assert_array_equal(reference, own)


def test_routing_comes_back_from_a_checkpoint():
    answer = rollout([5, 6, 7], [8, 9, 10], 3)
    [again] = unpack(pack([answer]))
    again = restore(again)
    np.testing.assert_array_equal(again.completion.experts, answer.completion.experts)
    assert again.completion.experts.dtype == np.uint8
    none = dataclasses.replace(answer.completion, experts=None)
    plain = Rollout(ScoredAnswer(answer.answer.problem, none, "x", 1.0), 1.0, 0.5)
    [again] = unpack(pack([plain]))
    assert restore(again).completion.experts is None


@pytest.mark.slow
def test_a_run_replays_and_goes_on_bitwise_with_what_it_carries(tmp_path):
    chosen = post.grpo_config(
        model=MODEL,
        steps=3,
        prompts=4,
        minibatches=2,
        routing_replay=True,
        policy=Grpo(tis_cap=2.0),
    )
    whole = grpo.run(chosen, tmp_path / "whole")
    assert all(line["sync_max"] < 1e-4 for line in post.records(tmp_path / "whole")[:1])
    with post.stopping_at(1), pytest.raises(Stopped):
        grpo.run(chosen, tmp_path / "again")
    post.assert_same_trees(whole, grpo.run(chosen, tmp_path / "again"))
    own = grpo.run(dataclasses.replace(chosen, routing_replay=False), tmp_path / "own")
    different = [
        not np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(own), strict=True)
    ]
    assert any(different)  # later steps route otherwise than the sampler did


def test_a_dense_model_has_no_routing_to_replay():
    with pytest.raises(ValueError, match="routing_replay: toy has no experts"):
        post.grpo_config(routing_replay=True)
