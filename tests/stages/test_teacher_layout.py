"""A teacher on devices of its own: the student learns what it does from a resident one."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.config import MeshConfig
from qwen3.losses.distill import Distill
from qwen3.mesh import make_mesh
from qwen3.model.execution import Execution
from qwen3.stages import builders, distill
from qwen3.stages.rollout_layout import training_devices
from qwen3.stages.teacher_layout import RemoteTeacher, teacher_mesh
from qwen3.train.loop import Stopped
from qwen3.train.placement import place_whole

TEACHER = post.model(layers=1, hidden=48, kv_heads=2)  # of another width than the student


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    post.save_hf(folder, TEACHER)
    return str(folder)


@pytest.fixture(scope="module")
def run_on(master, tmp_path_factory):
    """run_on(devices, **changes) -> (workdir, last state); the student has the first `devices`."""

    def run(devices, work=None, **changes):
        config = post.distill_config(master, **{"minibatches": 2, "microbatches": 2, **changes})
        work = work or tmp_path_factory.mktemp("run")
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(rewards.TASKS, "letters", post.letters)
            patch.setattr(
                distill, "make_mesh", lambda c, own=None: make_mesh(c, jax.devices()[:devices])
            )
            return work, distill.run(config, work)

    return run


@pytest.fixture(scope="module")
def resident(run_on):
    return run_on(1)


@pytest.fixture(scope="module")
def apart(run_on):
    return run_on(1, teacher_devices=1)


HANDOVER = ("teacher_seconds", "handover_seconds", "handover_bytes")


def test_one_device_each_trains_bitwise_what_a_resident_teacher_does(resident, apart):
    post.assert_same_trees(resident[1], apart[1])
    lines = post.records(apart[0])
    assert [line.pop("handover_bytes") for line in lines] != []
    assert lines == post.records(resident[0])
    assert post.trained(apart[0]) == post.trained(resident[0])


def test_seconds_and_bytes_of_the_hand_over_are_recorded(resident, apart):
    lines = [json.loads(line) for line in (apart[0] / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < line[name] for line in lines for name in HANDOVER)
    # [rows, slots, width of the teacher] in fp32, by the settings of these runs.
    assert {line["handover_bytes"] % (2 * 64 * 48 * 4) for line in lines} == {0}
    assert not set(HANDOVER) & set((resident[0] / "metrics.jsonl").read_text().split('"'))


def test_a_run_that_is_stopped_goes_on_bitwise(run_on, apart, tmp_path):
    with post.stopping_at(1), pytest.raises(Stopped):
        run_on(1, tmp_path, teacher_devices=1)
    _, last = run_on(1, tmp_path, teacher_devices=1)
    post.assert_same_trees(last, apart[1])
    assert post.records(tmp_path) == post.records(apart[0])


FOUR = MeshConfig(data=2, fsdp=2)


@pytest.mark.parametrize(
    "devices, layout, changes",
    [
        pytest.param(4, MeshConfig(data=1, fsdp=2, tensor=2), {}, marks=pytest.mark.slow),
        # Fewer devices than the student: through the host's memory.
        pytest.param(2, MeshConfig(fsdp=2), {}, marks=pytest.mark.slow),
        pytest.param(4, MeshConfig(fsdp=2, context=2), {}, marks=pytest.mark.slow),
        pytest.param(3, None, {}, marks=pytest.mark.slow),
        pytest.param(4, None, {"divergence": Distill("jsd", beta=0.5)}, marks=pytest.mark.slow),
        pytest.param(4, None, {"divergence": Distill(top=5)}, marks=pytest.mark.slow),
        pytest.param(2, None, {"rollout_devices": 2}, marks=pytest.mark.slow),
    ],
)
def test_meshes_of_several_devices_train_what_a_resident_teacher_does(
    run_on, devices, layout, changes
):
    changes = {"mesh": FOUR, "steps": 2, "model": post.model(kv_heads=2), **changes}
    want, got = (
        run_on(4, **changes),
        run_on(4, **changes, teacher_devices=devices, teacher_mesh=layout),
    )
    lines = list(zip(post.records(want[0]), post.records(got[0]), strict=True))
    assert len(lines) == 2
    for one, other in lines:
        for name in (
            "loss",
            "divergence",
            "divergence/think",
            "entropy",
            "teacher_entropy",
            "agree",
        ):
            assert one[name] == pytest.approx(other[name], abs=1e-5), name
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    for a, b in zip(*map(jax.tree.leaves, (want[1].params, got[1].params)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rollout_devices", [0, 1])
def test_the_teacher_samples_where_it_lies(run_on, rollout_devices):
    changes = {"sampled_by": "teacher", "steps": 2}
    want = run_on(1, **changes)
    got = run_on(1, **changes, teacher_devices=1, rollout_devices=rollout_devices)
    post.assert_same_trees(want[1], got[1])


def lasting(rounds, shape):
    """A jitted function that takes a while, about 50 microseconds a round, and returns 0."""

    def run(params, batch):
        square = jax.lax.fori_loop(0, rounds, lambda _, x: jnp.tanh(x @ x), jnp.zeros((64, 64)))
        return jnp.broadcast_to(square[0, 0], shape)

    return jax.jit(run)


def test_nothing_waits_for_the_teacher_nor_the_teacher_for_the_step(master, monkeypatch):
    """The next batch's hidden states are on the training mesh while a step still runs there."""
    shape = (2, 64, TEACHER.hidden)
    monkeypatch.setattr(builders, "teacher_hidden", lambda *_, microbatches: lasting(5_000, shape))
    here = make_mesh(post.ONE, jax.devices()[:1])
    setup = SimpleNamespace(
        config=post.distill_config(master),
        mesh=here,
        execution=Execution.for_mesh(here),
        batches=SimpleNamespace(microbatches=1),
    )
    with jax.set_mesh(here):
        fields = dict.fromkeys(builders.TEACHER_READS, np.zeros(shape[:2], np.int32))
        batch = place_whole(fields, here)
        remote = RemoteTeacher(master, teacher_mesh(None, 1, 0, TEACHER, 64), setup, Distill())
        step = lasting(20_000, (2,)).lower({}, batch).compile()
        jax.block_until_ready(remote.batch(batch))  # compiled
        running = step({}, batch)
        hidden = remote.batch(batch)["teacher_hidden"]
        assert not hidden.is_ready() and not running.is_ready()  # both calls came back at once
        jax.block_until_ready(hidden)
        assert hidden.devices() == running.devices() and not running.is_ready()
    assert remote.metrics()["handover_bytes"] == remote.metrics()["handover_bytes"] == hidden.nbytes
    assert remote.metrics() == {}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teacher_devices": 8}, "teacher_devices 8 of 8 devices leave none to train on"),
        (
            {"teacher_devices": 5, "rollout_devices": 3},
            "rollout_devices 3 and teacher_devices 5 of 8 devices leave none",
        ),
        (
            {"teacher_devices": 4, "teacher_mesh": MeshConfig(fsdp=1, tensor=4)},
            "teacher_mesh: .*'kv_heads' of 2 does not divide over tensor of 4",
        ),
        (
            {"teacher_devices": 4, "teacher_mesh": MeshConfig(fsdp=3)},
            "teacher_mesh: .*fsdp=3.* there are 4",
        ),
        (
            {"teacher_devices": 3, "teacher_mesh": MeshConfig(fsdp=1, context=3)},
            "teacher_mesh: length 64 does not divide over context 3",
        ),
    ],
)
def test_a_layout_that_cannot_be_is_refused_in_one_line(master, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        distill.run(post.distill_config(master, mesh=MeshConfig(), **changes), tmp_path)
    assert "\n" not in str(error.value)


def test_settings_that_mean_nothing_are_refused(master):
    with pytest.raises(ValueError, match="teacher_devices -1 is a number"):
        post.distill_config(master, teacher_devices=-1)
    with pytest.raises(ValueError, match="set teacher_devices"):
        post.distill_config(master, teacher_mesh=FOUR)
    with pytest.raises(ValueError, match="teacher_devices 8 of 8 devices leave none to train on"):
        training_devices(0, 8)
