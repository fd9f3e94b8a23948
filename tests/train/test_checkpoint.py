import os
import shutil
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
import toy

from qwen3.config import MeshConfig, OptimConfig
from qwen3.mesh import make_mesh
from qwen3.train import checkpoint as ck
from qwen3.train import optim
from qwen3.train.checkpoint_folder import DOOMED, TEMPORARY
from qwen3.train.manifest import MANIFEST, read_manifest
from qwen3.train.run_config import RunConfig
from qwen3.train.state import abstract, create
from qwen3.train.step import make_step

CONFIG = OptimConfig(peak=0.1, warmup=2, schedule="constant")
TX = optim.build(CONFIG, optim.schedule(CONFIG, 20))
STEP = make_step(toy.loss, TX)
SETTINGS = {"optim": {"peak": 0.1, "betas": (0.9, 0.95)}, "seed": 3}


def one_device():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda p: p.update(sharding=device), jax.eval_shape(toy.init))
    return abstract(shapes, TX)


def at_step(number):
    state = create(toy.init(number), TX)
    return state.replace(step=state.step + number)


def open_in(path, config=SETTINGS, free=(), **options):
    return ck.Checkpoints(path, config=RunConfig(config, free=free), **options)


def fill(path, numbers, **options):
    checkpoints = open_in(path, **options)
    for number in numbers:
        checkpoints.save(at_step(number), {"stage": 1, "position": number})
    checkpoints.close()


def same(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in pairs)


def largest_file(path):
    return max((f for f in Path(path).rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def test_a_save_in_the_background_is_bitwise_though_the_state_moves_on(tmp_path):
    checkpoints = open_in(tmp_path)
    state, _ = STEP(create(toy.init(), TX), toy.batch(0))
    saved = jax.tree.map(lambda x: np.array(x), state)
    checkpoints.save(state, {"stage": 2, "mixture": "ab12"}, {"loss": np.float32(2.5)})
    for s in range(1, 5):
        state, _ = STEP(state, toy.batch(s))
    checkpoints.close()
    restored = open_in(tmp_path).restore(one_device())
    assert same(restored.state, saved) and restored.skipped == []
    assert restored.extra == {"stage": 2, "mixture": "ab12"}
    seal = read_manifest(tmp_path / "1")
    assert seal["config"]["optim"]["peak"] == 0.1 and seal["metrics"] == {"loss": 2.5}


def test_an_empty_directory_restores_nothing(tmp_path):
    assert open_in(tmp_path / "new").restore(one_device()) is None


def test_a_checkpoint_moves_to_another_mesh(tmp_path, monkeypatch):
    fill(tmp_path, [4])
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    shapes = jax.tree.map(lambda p: p.update(sharding=rows), jax.eval_shape(toy.init))
    state = open_in(tmp_path).restore(abstract(shapes, TX)).state
    assert same(state, at_step(4)) and state.params["embed"].sharding == rows
    params = ck.load_params(tmp_path, shapes)
    assert same(params, toy.init(4)) and params["head"].sharding == rows
    monkeypatch.chdir(tmp_path.parent)  # a relative path
    assert same(ck.load_params(tmp_path.name, shapes), params)
    assert same(open_in(tmp_path.name).restore(one_device()).state, state)
    plain = ck.load_params(tmp_path)
    assert same(plain, toy.init(4)) and isinstance(plain["mlp"]["up"], np.ndarray)


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (ck.Keep(last=2), [5, 6]),
        (ck.Keep(last=1, every=3), [3, 6]),
        (ck.Keep(last=1, best="loss"), [2, 6]),
        (ck.Keep(last=1, best="loss", best_is="max"), [1, 6]),
    ],
)
def test_the_rule_keeps(keep, expected):
    losses = {1: 9.0, 2: 1.0, 3: None, 4: 5.0, 5: 4.0, 6: 3.0}
    assert sorted(keep.choose(losses)) == expected


def test_the_rule_is_applied_after_each_save(tmp_path):
    checkpoints = open_in(tmp_path, keep=ck.Keep(last=1, every=2, best="loss"))
    for number, loss in [(1, 1.0), (2, 5.0), (3, 4.0), (5, 3.0)]:
        checkpoints.save(at_step(number), metrics={"loss": loss})
    checkpoints.close()
    assert checkpoints.steps() == [1, 2, 5]


def test_a_rule_that_keeps_nothing_is_refused():
    with pytest.raises(ValueError, match="last 0"):
        ck.Keep(last=0)
    with pytest.raises(ValueError, match="'low'"):
        ck.Keep(best_is="low")


def truncate(file):
    file.write_bytes(file.read_bytes()[:-3])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: truncate(largest_file(path)), "bytes instead of"),
        (lambda path: flip(largest_file(path)), "another checksum"),
        (lambda path: largest_file(path).unlink(), "is missing"),
        (lambda path: truncate(path / MANIFEST), "cannot be read"),
        (lambda path: (path / MANIFEST).unlink(), "cannot be read"),
        (lambda path: (path / MANIFEST).write_text("[1]"), "cannot be read"),
        (lambda path: (path / MANIFEST).write_text("[" * 100_000), "cannot be read"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_with_the_reason(
    tmp_path, damage, words, caplog
):
    fill(tmp_path, [1, 2])
    damage(tmp_path / "2")
    restored = open_in(tmp_path).restore(one_device())
    assert int(restored.state.step) == 1 and restored.extra["position"] == 1
    assert len(restored.skipped) == 1 and words in restored.skipped[0] in caplog.text
    assert same(ck.load_params(tmp_path), toy.init(1))


def test_when_none_is_whole_the_run_does_not_begin_anew(tmp_path):
    fill(tmp_path, [1])
    flip(largest_file(tmp_path / "1"))
    with pytest.raises(ck.CheckpointError, match="no whole checkpoint .* another checksum"):
        open_in(tmp_path).restore(one_device())
    with pytest.raises(ck.CheckpointError, match="no whole checkpoint"):
        ck.load_params(tmp_path)


def test_a_damaged_checkpoint_is_set_aside_when_its_step_is_saved_again(tmp_path):
    fill(tmp_path, [1, 2])
    flip(largest_file(tmp_path / "2"))
    fill(tmp_path, [2])
    assert same(open_in(tmp_path).restore(one_device()).state, at_step(2))
    assert (tmp_path / "broken-2-0").is_dir()


def test_damaged_checkpoints_do_not_count_when_old_ones_are_deleted(tmp_path):
    checkpoints = open_in(tmp_path, keep=ck.Keep(last=1))
    checkpoints.save(at_step(1))
    checkpoints.save(at_step(2))
    checkpoints.wait()
    truncate(largest_file(tmp_path / "2"))
    fill(tmp_path, [1])  # whole already: nothing is written
    checkpoints.save(at_step(1))
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]


def test_leftovers_of_a_killed_process_are_no_checkpoints_and_go(tmp_path):
    fill(tmp_path, [1])
    shutil.copytree(tmp_path / "1", tmp_path / f"2{TEMPORARY}")
    shutil.copytree(tmp_path / "1", tmp_path / f"3{DOOMED}")
    checkpoints = open_in(tmp_path)
    assert checkpoints.steps() == [1]
    assert int(checkpoints.restore(one_device()).state.step) == 1
    checkpoints.save(at_step(2))
    checkpoints.close()
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


def test_another_config_is_refused_field_by_field_but_free_settings_may_change(tmp_path):
    fill(tmp_path, [1])
    other = {"optim": {"peak": 0.2, "betas": (0.9, 0.95)}, "seed": 3, "mesh": {"data": 8}}
    with pytest.raises(ck.CheckpointMismatch, match=r"optim\.peak: 0\.1 -> 0\.2$"):
        open_in(tmp_path, other, free=("mesh",)).restore(one_device())
    moved = {**SETTINGS, "mesh": {"data": 8}}
    assert open_in(tmp_path, moved, free=("mesh",)).restore(one_device()) is not None


def test_other_arrays_are_refused_by_name(tmp_path):
    fill(tmp_path, [1])
    template = one_device()
    wide = template.params["head"].update(shape=(64, 16))
    params = {**template.params, "head": wide}
    with pytest.raises(ck.CheckpointMismatch, match=r"params\.head: \[32, 16\] -> \[64, 16\]"):
        open_in(tmp_path).restore(template.replace(params=params))
    with pytest.raises(ck.CheckpointMismatch, match=r"params\.head"):
        ck.load_params(tmp_path, params)


def test_a_disk_too_small_is_said_before_writing(tmp_path, monkeypatch):
    fill(tmp_path, [1])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ck.CheckpointError, match=r"disk full: checkpoint 2 .* untouched: \[1\]"):
        fill(tmp_path, [2])
    assert int(open_in(tmp_path).restore(one_device()).state.step) == 1


def test_a_disk_that_fills_up_while_writing_leaves_the_older_ones(tmp_path, monkeypatch):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(tmp_path)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        fill(tmp_path, [1])
        (tmp_path / "other").write_bytes(b"x" * shutil.disk_usage(tmp_path).free)
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        checkpoints = open_in(tmp_path)
        with pytest.raises(ck.CheckpointError, match=r"disk full.*untouched: \[1\]"):
            checkpoints.save(at_step(2))
            checkpoints.close()
        assert checkpoints.steps() == [1]
        (tmp_path / "other").unlink()
        checkpoints.save(at_step(3))
        checkpoints.close()
        assert same(open_in(tmp_path).restore(one_device()).state, at_step(3))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
