import os
import signal
import threading
import time

import jax
import numpy as np
import pytest
import toy

from qwen3.config import MeshConfig, OptimConfig
from qwen3.mesh import make_mesh
from qwen3.train import optim, placement
from qwen3.train.loop import Hook, train
from qwen3.train.preemption import Stopped
from qwen3.train.state import create
from qwen3.train.step import make_step

CONFIG = OptimConfig(peak=0.1, warmup=2, schedule="constant")
TX = optim.build(CONFIG, optim.schedule(CONFIG, 20))
STEP = make_step(toy.loss, TX)


def start():
    return create(toy.init(), TX)


def params_of(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state.params)]


def by_hand(steps):
    state = start()
    for s in range(steps):
        state, _ = STEP(state, toy.batch(s))
    return params_of(state)


def test_the_loop_is_the_step_repeated_for_both_kinds_of_source():
    indexed = train(start(), STEP, toy.Source(), until=5)
    called = train(start(), STEP, lambda state: toy.batch(int(state.step)), until=5)
    for got in (params_of(indexed), params_of(called)):
        assert all(np.array_equal(a, b) for a, b in zip(got, by_hand(5), strict=True))
    assert int(indexed.step) == 5


def test_a_loop_in_two_parts_is_the_loop_in_one():
    state = train(start(), STEP, toy.Source(), until=2)
    state = train(state, STEP, toy.Source(), until=5)
    assert all(np.array_equal(a, b) for a, b in zip(params_of(state), by_hand(5), strict=True))
    assert int(train(state, STEP, toy.Source(), until=5).step) == 5


def test_hooks_see_their_step_its_state_and_its_metrics():
    seen = []
    hooks = [
        lambda step, state, metrics: seen.append(("plain", step, int(state.step))),
        Hook(lambda step, state, metrics: seen.append(("late", step, state)), every=2, late=True),
        Hook(
            lambda step, state, metrics: seen.append(("save", step, int(state.step))), 3, last=True
        ),
    ]
    train(start(), STEP, toy.Source(), until=4, hooks=hooks)
    assert seen == [
        ("plain", 1, 1),
        ("late", 2, None),
        ("plain", 2, 2),
        ("plain", 3, 3),
        ("save", 3, 3),
        ("late", 4, None),
        ("plain", 4, 4),
        ("save", 4, 4),
    ]


def test_late_hooks_come_one_step_late_and_miss_none():
    order, losses = [], {}

    def step(state, batch, frozen):
        order.append(("dispatch", int(state.step)))
        return STEP(state, batch, frozen)

    def late(at, state, metrics):
        order.append(("late", at))
        losses[at] = float(metrics["loss"])
        assert metrics["seconds"] >= metrics["input_wait"] >= 0

    train(start(), step, toy.Source(), until=3, hooks=[Hook(late, late=True)])
    assert order == [
        ("dispatch", 0),
        ("dispatch", 1),
        ("late", 1),
        ("dispatch", 2),
        ("late", 2),
        ("late", 3),
    ]
    state = start()
    for s in range(3):
        state, metrics = STEP(state, toy.batch(s))
        assert losses[s + 1] == float(metrics["loss"])


def test_frozen_reaches_the_loss():
    def loss(params, batch, frozen):
        value, sums = toy.loss(params, batch)
        return value * frozen["scale"], sums

    losses = []
    note = Hook(lambda at, state, metrics: losses.append(float(metrics["loss"])), late=True)
    step = make_step(loss, TX)
    for scale in (1.0, 2.0):
        frozen = {"scale": np.float32(scale)}
        train(start(), step, toy.Source(), frozen=frozen, until=1, hooks=[note])
    assert losses[1] == pytest.approx(2 * losses[0])


def test_the_next_batch_is_read_while_the_step_runs():
    class Slow(toy.Source):
        def __getitem__(self, step):
            time.sleep(0.05)
            return super().__getitem__(step)

    def slow_step(state, batch, frozen):
        time.sleep(0.1)
        return STEP(state, batch, frozen)

    waits = []
    note = Hook(lambda at, state, metrics: waits.append(metrics["input_wait"]), late=True)
    train(start(), slow_step, Slow(), until=6, hooks=[note])
    assert waits[0] > 0.04 and sorted(waits[1:])[2] < 0.02
    waits.clear()
    train(start(), STEP, lambda state: Slow()[0], until=3, hooks=[note])
    assert min(waits) > 0.04


def test_an_error_of_the_source_passes_and_the_thread_ends():
    class Broken(toy.Source):
        def __getitem__(self, step):
            if step == 2:
                raise OSError("shard 7 is gone")
            return super().__getitem__(step)

    done = []
    with pytest.raises(OSError, match="shard 7 is gone"):
        train(start(), STEP, Broken(), until=5, hooks=[lambda at, state, m: done.append(at)])
    assert done == [1, 2]
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_leaves_with_42(number, caplog):
    saved = []

    def ask(at, state, metrics):
        if at == 3:
            os.kill(os.getpid(), number)

    hooks = [ask, Hook(lambda at, state, m: saved.append((at, int(state.step))), 100, last=True)]
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        train(start(), STEP, toy.Source(), until=50, hooks=hooks)
    assert stopped.value.code == 42 and 3 <= stopped.value.step <= 4
    assert saved == [(stopped.value.step,) * 2]
    assert signal.Signals(number).name in caplog.text and "start again" in caplog.text
    assert signal.getsignal(number) == before
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())


def test_a_hook_that_never_comes_is_refused():
    with pytest.raises(ValueError, match="every 0 steps"):
        Hook(print, every=0)


def test_rows_that_are_not_neighbours_are_placed_where_they_belong(monkeypatch):
    """As a process sees it whose devices hold rows 0-3 and 8-11 of 16."""
    every_device = jax.sharding.NamedSharding.addressable_devices_indices_map

    def ours(sharding, shape):
        indices = every_device(sharding, shape)
        return {device: index for device, index in indices.items() if device.id in (0, 1, 4, 5)}

    def make(shape, sharding, shard, dtype):
        assert dtype == shard(next(iter(ours(sharding, shape).values()))).dtype
        return [(index, shard(index)) for index in ours(sharding, shape).values()]

    monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", ours)
    monkeypatch.setattr(jax, "make_array_from_callback", make)
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    rows = placement.local_rows(mesh, 16)
    assert rows.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    batch = toy.batch(3)
    shards = placement.place({name: value[rows] for name, value in batch.items()}, mesh, 16)
    for name, value in batch.items():
        assert len(shards[name]) == 4
        for index, shard in shards[name]:
            np.testing.assert_array_equal(shard, value[index])


def test_batches_are_placed_over_rows_and_positions():
    mesh = make_mesh(MeshConfig(data=4, fsdp=1, context=2))
    batch = placement.place_whole(toy.batch(3), mesh)
    want = toy.batch(3)
    assert all(np.array_equal(batch[name], want[name]) for name in want)
    assert batch["tokens"].addressable_shards[0].data.shape == (4, 4)
    assert placement.local_rows(mesh, 16).tolist() == list(range(16))
    with pytest.raises(ValueError, match="15 rows do not divide over 4 shards"):
        placement.local_rows(mesh, 15)
    with pytest.raises(ValueError, match="7 positions of 't[a-z]*' do not divide over 2"):
        placement.place(toy.batch(0, length=7), mesh, 16)
    with pytest.raises(ValueError, match="has 8 rows"):
        placement.place(toy.batch(0, rows=8), mesh, 16)


def test_what_a_hook_measures_all_others_see_and_it_forces_no_waiting_between():
    seen = []

    def measure(step, state, metrics):
        assert metrics == {} and int(state.step) == step
        metrics["eval/score"] = float(step)

    hooks = [
        Hook(lambda step, _, metrics: seen.append((step, metrics.get("eval/score"))), late=True),
        Hook(lambda step, _, metrics: seen.append(("save", metrics["eval/score"])), every=2),
        Hook(measure, every=2, measures=True),
    ]
    train(start(), STEP, toy.Source(), until=4, hooks=hooks)
    assert seen == [(1, None), (2, 2.0), ("save", 2.0), (3, None), (4, 4.0), ("save", 4.0)]
