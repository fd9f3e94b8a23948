"""What a stage records: each setting of Log and each argument of recording_hooks has an effect."""

import json

import jax
import pytest
import toy

from qwen3.config import OptimConfig
from qwen3.train import optim, recording
from qwen3.train.loop import train
from qwen3.train.recording import Log, recording_hooks
from qwen3.train.retention import Keep
from qwen3.train.state import create
from qwen3.train.step import make_step
from qwen3.train.workdir import Workdir

CONFIG = OptimConfig(peak=0.1, warmup=3, schedule="linear")
RATE = optim.schedule(CONFIG, 20)
TX = optim.build(CONFIG, RATE)
STEP = make_step(toy.loss, TX)


def record(path, log, until=6, **options):
    """Records of a run with this Log."""
    with Workdir(path, {}) as work:
        hooks = recording_hooks(
            work, log, stage="s2", step=0, until=until, tokens_per_step=128, **options
        )
        with hooks as hooks:
            train(create(toy.init(), TX), STEP, toy.Source(), until=until, hooks=hooks)
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


QUIET = {"display": False}


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4, 5, 6]), (2, [2, 4, 6]), (4, [4])])
def test_a_record_every_few_steps_with_the_stage_and_what_is_derived(tmp_path, every, steps):
    records = record(tmp_path, Log(every=every, **QUIET), derived={"learning_rate": RATE})
    assert [record["step"] for record in records] == steps
    assert {record["stage"] for record in records} == {"s2"}
    for line in records:  # step n was taken at the rate of place n - 1
        assert line["learning_rate"] == pytest.approx(float(RATE(line["step"] - 1)))


def test_mfu_needs_the_peak_of_one_device_and_counts_them_all(tmp_path):
    assert "mfu" not in record(tmp_path / "a", Log(every=1, **QUIET), flops_per_token=5.0)[0]
    log = Log(every=1, peak_flops=1e3, **QUIET)
    for line in record(tmp_path / "b", log, flops_per_token=5.0):
        rate = line["tokens_per_second"]
        assert rate == pytest.approx(128 / line["seconds"], rel=1e-4)
        assert line["mfu"] == pytest.approx(rate * 5.0 / (1e3 * jax.device_count()), rel=1e-4)


def test_tensorboard_and_profiles_are_written_where_they_are_set(tmp_path):
    record(tmp_path / "a", Log(**QUIET))
    assert not (tmp_path / "a" / "tensorboard").exists()
    assert not (tmp_path / "a" / "profile").exists()
    pytest.importorskip("tensorboardX")
    record(tmp_path / "b", Log(tensorboard=True, profile=(2, 4), **QUIET))
    assert list((tmp_path / "b" / "tensorboard").iterdir())
    assert len(list((tmp_path / "b" / "profile").rglob("*.xplane.pb"))) == 1


def test_the_display_is_shown_where_it_is_set(tmp_path, capsys):
    record(tmp_path / "a", Log(every=1, display=False))
    assert capsys.readouterr().err == ""
    record(tmp_path / "b", Log(every=1, display=True))
    shown = capsys.readouterr().err
    assert "stage s2  step 1/6" in shown and "stage s2  step 6/6" in shown


def test_files_are_closed_when_the_loop_fails(tmp_path, monkeypatch):
    closed = []
    for name in ("MetricsFile", "Display", "Profile"):
        monkeypatch.setattr(getattr(recording, name), "close", lambda self: closed.append(self))
    with Workdir(tmp_path, {}) as work, pytest.raises(ZeroDivisionError):
        with recording_hooks(work, Log(), stage="s", step=0, until=1, tokens_per_step=1):
            raise ZeroDivisionError
    assert {type(writer).__name__ for writer in closed} == {"MetricsFile", "Display", "Profile"}


@pytest.mark.parametrize(
    ("keep", "steps"), [(Keep(last=1), [6]), (Keep(last=2), [4, 6]), (Keep(1, every=4), [4, 6])]
)
def test_a_workdir_keeps_the_checkpoints_that_are_asked_for(tmp_path, keep, steps):
    with Workdir(tmp_path, {}, keep=keep) as work:
        save = work.checkpoints.hook(2, lambda step: {})
        train(create(toy.init(), TX), STEP, toy.Source(), until=6, hooks=[save])
    assert work.checkpoints.steps() == steps


def test_a_measurement_before_the_first_step_is_recorded_and_shown_as_step_0(tmp_path, capsys):
    log = Log(every=4)
    first, *rest = record(tmp_path, log, initial={"eval/score": 0.25})
    assert first == {"step": 0, "stage": "s2", "eval/score": 0.25}
    assert [line["step"] for line in rest] == [4]
    assert capsys.readouterr().err.splitlines()[0] == "stage s2  step 0/6  held out 0.250"
