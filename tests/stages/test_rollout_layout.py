"""Rollouts on a mesh of their own: same answers and losses as on the training mesh."""

import dataclasses
import json
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.config import MeshConfig
from qwen3.infer.engine import Engine
from qwen3.infer.http_backend import RolloutServer
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.mesh import make_mesh
from qwen3.model import transformer
from qwen3.stages import grpo
from qwen3.stages.rollout_layout import WeightHandover, rollout_mesh, training_devices

TWO = MeshConfig(data=1, fsdp=2)
TENSOR = MeshConfig(data=1, fsdp=1, tensor=2)


@pytest.fixture(scope="module")
def run_on(tmp_path_factory):
    """run_on(devices, **changes) -> (records, samples, meshes of the engines) of two steps."""

    def run(devices, **changes):
        config = post.grpo_config(**{"steps": 2, "model": post.model(kv_heads=2), **changes})
        work, meshes, init = tmp_path_factory.mktemp("run"), [], Engine.__init__

        def noted(self, *arguments, **options):
            init(self, *arguments, **options)
            meshes.append(self.mesh)

        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(rewards.TASKS, "letters", post.letters)
            patch.setattr(Engine, "__init__", noted)
            patch.setattr(
                grpo,
                "make_mesh",
                lambda c, own=None: make_mesh(c, (own or jax.devices())[:devices]),
            )
            grpo.run(config, work)
        lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
        samples = [file.read_text() for file in sorted((work / "samples").iterdir())]
        return lines, samples, meshes

    return run


@pytest.fixture(scope="module")
def shared(run_on):
    return run_on(2, mesh=TWO)


def assert_same_run(one, other):
    assert len(one[1]) == len(other[1]) == 2
    for a, b in zip(one[1], other[1], strict=True):
        assert a == b  # every id, score and advantage
    for a, b in zip(one[0], other[0], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)


def test_a_tensor_mesh_of_the_same_devices_samples_what_the_training_mesh_does(run_on, shared):
    own = run_on(2, mesh=TWO, rollout_mesh=TENSOR)
    assert_same_run(shared, own)
    lines, _, meshes = own
    assert {mesh.shape["tensor"] for mesh in meshes} == {2}
    assert all(0 < line["reshard_seconds"] < line["seconds"] for line in lines)
    assert all(line["sync_max"] < 1e-4 for line in lines)
    assert "reshard_seconds" not in shared[0][0]


def test_devices_of_its_own_sample_what_the_training_mesh_does(run_on, shared):
    own = run_on(2, mesh=TWO, rollout_devices=1)
    lines, _, meshes = own
    assert {tuple(mesh.devices.flat) for mesh in meshes} == {(jax.devices()[-1],)}
    assert_same_run(shared, own)
    assert all(line["sync_max"] < 1e-4 for line in lines)


def test_answers_are_sampled_while_the_trainer_works(run_on, shared):
    lines, samples, meshes = run_on(2, mesh=TWO, rollout_devices=1, staleness=1, steps=5)
    assert len(meshes) == 1  # one engine, which gets new weights
    assert samples[0].splitlines()[:-1] != [] and lines[0]["staleness_most"] == 0
    assert all(line["staleness_most"] <= 1 for line in lines)
    assert any(line["staleness_most"] == 1 for line in lines[1:])
    # Weights of truncated importance sampling, and the checks of what is fresh.
    assert all(0.5 < line["correction"] <= 2.0 for line in lines)
    checked = [line["sync_max"] for line in lines if "sync_max" in line]
    assert len(checked) >= 2 and max(checked) < 1e-4
    answers = [json.loads(line) for text in samples for line in text.splitlines()[:-1]]
    assert all(sum(count for _, count in a["versions"]) == a["tokens"] for a in answers)


@pytest.mark.slow
def test_four_devices_train_and_four_sample(run_on, shared):
    layout = {"mesh": MeshConfig(data=1, fsdp=4), "rollout_devices": 4}
    layout["rollout_mesh"] = MeshConfig(data=2, fsdp=1, tensor=2)
    own = run_on(8, **layout)
    assert_same_run(shared, own)
    assert {tuple(mesh.devices.flat) for mesh in own[2]} == {tuple(jax.devices()[4:])}
    lines, samples, _ = run_on(8, **layout, staleness=1, steps=5)
    assert {line["staleness_most"] for line in lines} == {0, 1}
    answers = [json.loads(line) for text in samples for line in text.splitlines()[:-1]]
    assert all(sum(count for _, count in a["versions"]) == a["tokens"] for a in answers)
    checked = [line["sync_max"] for line in lines if "sync_max" in line]
    assert checked and max(checked) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{}, {"rollout_devices": 1}])
def test_a_sampler_in_bf16_is_corrected_for(run_on, shared, layout):
    lines, _, _ = run_on(2, mesh=TWO, rollout_execution={"dtype": "bfloat16"}, **layout)
    assert {line["correction"] for line in shared[0]} == {1.0}
    for line in lines:
        assert 1e-6 < line["sync_mean"] < 0.05  # near the trainer's, and not by its arithmetic
        assert 0.8 < line["correction"] < 1.2 and line["correction"] != 1.0


def test_samples_of_another_arithmetic_need_a_correction():
    bf16 = {"rollout_execution": {"dtype": "bfloat16"}}
    assert post.grpo_config().objective.tis_cap is None
    assert post.grpo_config(**bf16).objective.tis_cap == 2.0
    own = Grpo(old="rollout")  # the sampler's log-probabilities are the old ones
    for change in ({"cache_dtype": "bfloat16"}, {"cache_dtype": "int8"}, {"weights": "int8"}):
        assert post.grpo_config(execution=change).objective.tis_cap == 2.0
        assert post.grpo_config(rollout_execution=change).objective.tis_cap == 2.0
        assert post.grpo_config(rollout_execution=change, policy=own).objective == own
    banded = preset("gspo", sequence_band=(0.5, 2.0))
    assert post.grpo_config(**bf16, policy=banded).objective == banded
    with pytest.raises(ValueError, match="rollout_execution {'dtype': 'bfloat16'} with policy.rat"):
        post.grpo_config(**bf16, policy=preset("gspo"))
    with pytest.raises(ValueError, match="rollout_execution .* needs the own engine"):
        post.grpo_config(**bf16, server=RolloutServer(url="http://localhost", weights="w"))


@pytest.mark.slow
def test_weights_that_are_not_handed_over_stop_the_run(run_on, monkeypatch):
    """From the second phase on: each one is checked, also where the sampler's log-probabilities
    are trained on.
    """
    handover = WeightHandover.__call__
    versions = set()

    def wrong(self, model, params_of, state):
        versions.add(int(state.step))
        weights = handover(self, model, params_of, state)
        return jax.tree.map(lambda x: np.asarray(x) * (3 if versions > {0} else 1), weights)

    monkeypatch.setattr(WeightHandover, "__call__", wrong)
    with pytest.raises(RuntimeError, match="does not run the trainer's weights"):
        run_on(
            2,
            mesh=TWO,
            rollout_devices=1,
            policy=Grpo(old="rollout"),
            alarms=grpo.Alarms(mismatch=0.05),
        )
    assert versions == {0, 1}


def test_weights_are_moved_once_an_update_and_the_copy_is_let_go():
    model = post.model()
    mesh = make_mesh(post.ONE, jax.devices()[:1])
    handover = WeightHandover(mesh, np.float32)
    shapes = nn.meta.unbox(transformer.abstract(model))
    params = jax.tree.map(lambda x: np.full(x.shape, x.ndim, x.dtype), shapes)
    state = SimpleNamespace(steps=3, params=params)

    def params_of(state):
        return state.params

    moved = handover(model, params_of, state)
    assert handover(model, params_of, state) is moved
    assert handover.metrics()["reshard_seconds"] > 0
    assert handover.metrics() == {"reshard_seconds": 0.0}
    post.assert_same_trees(handover(model, params_of, state), params)
    other = handover(model, lambda state: jax.tree.map(np.zeros_like, params), state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(other))


@pytest.mark.parametrize(
    "settings, devices, message",
    [
        (TENSOR, 2, "rollout_mesh: .*'kv_heads' of 1 does not divide over tensor of 2"),
        (MeshConfig(fsdp=1, context=2), 2, "rollout_mesh: generation does not divide positions"),
        (MeshConfig(data=3), 2, "rollout_mesh: .*data=3.* there are 2"),
    ],
)
def test_a_mesh_that_cannot_sample_is_refused_in_one_line(settings, devices, message):
    training = make_mesh(MeshConfig(), jax.devices()[:2])
    with pytest.raises(ValueError, match=message) as error:
        rollout_mesh(settings, devices, training, post.model())
    assert "\n" not in str(error.value)


def test_devices_that_leave_none_to_train_on_are_refused():
    with pytest.raises(ValueError, match="rollout_devices 8 of 8 devices leave none"):
        training_devices(8)
    assert len(training_devices(2)) == 6 and training_devices(0) is None
    with pytest.raises(ValueError, match="rollout_devices -1"):
        post.grpo_config(rollout_devices=-1)
    server = RolloutServer(url="http://localhost", weights="w")
    with pytest.raises(ValueError, match="has a layout of its own"):
        dataclasses.replace(post.grpo_config(), server=server, rollout_mesh=TENSOR)


def test_without_settings_the_training_mesh_samples():
    training = make_mesh(MeshConfig(), jax.devices()[:2])
    assert rollout_mesh(None, 0, training, post.model()) is training
