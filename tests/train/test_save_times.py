"""Checkpoints by time: the clock decides, seldom asked, and steps alone do while it is off."""

import itertools
import math
from functools import partial

import jax
import pytest
import toy

from qwen3 import hosts
from qwen3.config import OptimConfig
from qwen3.stages import sft
from qwen3.train import checkpoint, optim
from qwen3.train.loop import train
from qwen3.train.save_times import SaveTimes
from qwen3.train.state import create
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

CONFIG = OptimConfig(peak=0.1, warmup=0, schedule="constant")
TX = optim.build(CONFIG, optim.schedule(CONFIG, 200))
STEP = make_step(toy.loss, TX)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def due(minutes, seconds_of, *, first=1, steps=200, every=0):
    """(steps that a save is due after, number of questions) where step n takes seconds_of(n)."""
    clock, asked, saved = Clock(), [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hosts, "decided", lambda decide: asked.append(1) or decide())
        patch.setattr(hosts, "spent", {})
        times = SaveTimes(minutes, clock)
        for step in range(first, first + steps):
            clock.seconds += seconds_of(step)
            answers = {times.due(step), times.due(step)}
            assert len(answers) == 1
            if answers == {True} or (every and step % every == 0):
                saved.append(step)
                times.saved(step)
    return saved, len(asked)


def test_a_save_is_due_when_the_minutes_have_passed_wherever_the_run_began():
    saved, asked = due(10, lambda step: 6.0, steps=400)
    assert saved == [100, 200, 300, 400] and asked < 60
    assert due(10, lambda step: 6.0, first=1001, steps=200)[0] == [1100, 1200]


def test_a_save_by_steps_begins_the_time_anew():
    assert due(1, lambda step: 7.0, every=5, steps=20)[0] == [5, 10, 15, 20]
    assert due(1, lambda step: 7.0, every=12, steps=24)[0] == [9, 12, 21, 24]


def test_rare_slow_steps_do_not_carry_the_next_save_far_beyond_the_time():
    """Rollouts come with every fourth step alone."""
    saved, _ = due(10, lambda step: 120.0 if step % 4 == 1 else 1.0)
    times = [
        sum(120 if n % 4 == 1 else 1 for n in range(a + 1, b + 1))
        for a, b in itertools.pairwise(saved)
    ]
    assert saved and all(600 <= seconds <= 840 for seconds in times)


def test_without_minutes_nobody_is_asked():
    assert due(0, lambda step: 1e6) == ([], 0)


@pytest.mark.parametrize("minutes", [-1, math.nan, math.inf])
def test_what_is_no_time_is_refused_by_name(minutes):
    with pytest.raises(ValueError, match=f"save_minutes {minutes}: wanted the minutes between"):
        sft.Config(None, "", (), 1, CONFIG, save_minutes=minutes)
    with pytest.raises(ValueError, match="save_minutes"):
        SaveTimes(minutes)


def test_a_run_saves_by_its_clock_and_ends_with_the_same_parameters(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoint, "SaveTimes", partial(SaveTimes, clock=clock))

    class Source(toy.Source):
        def __getitem__(self, step):
            return toy.batch(step)

    def run(name, minutes):
        def step(state, batch, frozen):
            clock.seconds += 20
            return STEP(state, batch, frozen)

        written = []
        with Workdir(tmp_path / name, {"a": 1}) as work:
            save = work.checkpoints.save
            work.checkpoints.save = lambda state, *more: (
                written.append(int(state.step)) or save(state, *more)
            )
            hook = work.checkpoints.hook(5, lambda step: {}, minutes=minutes)
            state = train(create(toy.init(), TX), step, Source(), until=7, hooks=[hook])
        return written, state.params

    (by_steps, one), (by_both, other) = run("steps", 0.0), run("both", 1.0)
    assert by_steps == [5, 7] and by_both == [3, 5, 7]
    assert all(map(lambda a, b: bool((a == b).all()), jax.tree.leaves(one), jax.tree.leaves(other)))
