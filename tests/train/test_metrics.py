import io
import json
import os
import signal

import numpy as np
import pytest
from rich.console import Console

from qwen3.train import metrics as records
from qwen3.train.display import Display, duration
from qwen3.train.profile import Profile


class Memory:
    def __init__(self):
        self.rows = []

    def write(self, step, values):
        self.rows.append((step, values))


def step_metrics(loss, **more):
    return {"loss": np.float32(loss), "seconds": 0.5, "input_wait": 0.05, **more}


def test_a_record_has_its_own_steps_loss_and_the_windows_speed():
    memory = Memory()
    meter = records.Meter(
        [memory],
        every=2,
        tokens_per_step=100,
        flops_per_token=3.0,
        peak_flops=1200.0,
        derived={"learning_rate": lambda step: 0.1 * step},
        labels={"stage": "S1"},
    )
    assert meter.hook().late
    for step, loss in [(1, 9.0), (2, 4.0), (3, 7.0), (4, 2.0)]:
        meter(step, None, step_metrics(loss, counts=np.ones(3)))
    assert [step for step, _ in memory.rows] == [2, 4]
    assert memory.rows[0][1] == {
        "loss": 4.0,
        "seconds": 0.5,
        "input_wait": pytest.approx(0.1),
        "learning_rate": pytest.approx(0.1),
        "stage": "S1",
        "tokens_per_second": pytest.approx(200.0),
        "mfu": pytest.approx(0.5),
    }


def test_without_a_peak_there_is_no_mfu():
    memory = Memory()
    records.Meter([memory], every=1, tokens_per_step=1)(1, None, step_metrics(1.0))
    assert "mfu" not in memory.rows[0][1]


def test_steps_that_count_their_tokens_are_believed():
    memory = Memory()
    meter = records.Meter([memory], every=2)
    for step, tokens in ((1, 30.0), (2, 10.0), (3, 5.0), (4, 0.0)):
        meter(step, None, step_metrics(1.0, trained_tokens=tokens))
    assert [row["tokens_per_second"] for _, row in memory.rows] == [40.0, 5.0]


def test_a_loss_that_is_not_finite_stops_the_run_unless_its_step_was_skipped():
    meter = records.Meter([], every=10, tokens_per_step=1)
    meter(1, None, step_metrics(np.nan, skipped=np.float32(1)))
    with pytest.raises(FloatingPointError, match="nan at step 2"):
        meter(2, None, step_metrics(np.nan, skipped=np.float32(0)))


def test_json_lines_are_there_as_soon_as_written_and_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = records.MetricsFile(path)
    writer.write(1, {"loss": 1.23456789012, "stage": "S1"})
    assert path.read_text() == '{"step": 1, "loss": 1.234568, "stage": "S1"}\n'
    writer.close()
    writer = records.MetricsFile(path)
    writer.write(2, {"loss": float("nan")})
    writer.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [1.234568, "nan"]


def test_tensorboard_events_hold_the_scalars(tmp_path):
    tensorboard = pytest.importorskip("tensorboardX")
    writer = records.TensorBoard(tmp_path, step=0)
    writer.write(7, {"loss": 2.5, "stage": "S1"})
    writer.close()
    data = next(tmp_path.iterdir()).read_bytes()
    events, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = tensorboard.proto.event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        events += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
        at += 16 + length
    assert events == [(7, "loss", 2.5)]


VALUES = {
    "loss": 2.0,
    "tokens_per_second": 12345.0,
    "mfu": 0.273,
    "seconds": 2.0,
    "max_load": 1.5,
    "input_wait": 0.012,
}


def test_without_a_terminal_there_is_a_line_now_and_then_and_at_the_end():
    out = io.StringIO()
    display = Display(stage="S2", until=9, period=1000.0, console=Console(file=out))
    for step in (3, 4, 9):
        display.write(step, VALUES)
    display.close()
    assert out.getvalue().splitlines() == [
        "stage S2  step 3/9  ETA 0:00:12  loss 2.0000  tokens/s 12,345  MFU 27.3%  "
        "input wait 1.2%  expert load max 1.50",
        "stage S2  step 9/9  ETA 0:00:00  loss 2.0000  tokens/s 12,345  MFU 27.3%  "
        "input wait 1.2%  expert load max 1.50",
    ]


def test_a_terminal_gets_a_live_table():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=140)
    display = Display(stage="S2", until=9, console=console)
    display.write(3, VALUES)
    display.write(4, {**VALUES, "loss": 1.75})
    display.close()
    assert "tokens/s" in out.getvalue() and "1.7500" in out.getvalue()
    assert "\x1b[" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (3661.4, "1:01:01"), (90000, "1d 1:00:00")]
)
def test_durations_read_well(seconds, text):
    assert duration(seconds) == text


def traces(path):
    return sorted(f for f in path.rglob("*") if f.name.endswith(".xplane.pb"))


def test_profiles_come_for_named_steps_and_on_sigusr1(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    profile = Profile(tmp_path / "named", steps=(2, 3))
    for step in range(1, 3):
        profile(step, None, {})
        assert not traces(tmp_path)
    profile(3, None, {})
    assert len(traces(tmp_path / "named")) == 1
    profile = Profile(tmp_path / "asked", length=2)
    profile(1, None, {})
    os.kill(os.getpid(), signal.SIGUSR1)
    profile(2, None, {})
    profile(3, None, {})
    assert not traces(tmp_path / "asked")
    profile(4, None, {})
    assert len(traces(tmp_path / "asked")) == 1
    signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ValueError, match="neither"):
        Profile(tmp_path, steps=(5, 2))


def test_a_measured_step_has_a_record_of_its_own_and_so_has_the_state_before_the_first():
    memory = Memory()
    meter = records.Meter([memory], every=4, labels={"stage": "rl"}, initial={"eval/score": 0.25})
    for step in range(1, 5):
        more = {"eval/score": 0.5} if step == 2 else {}
        meter(step, None, step_metrics(1.0, trained_tokens=10.0, **more))
    assert [(step, row.get("eval/score")) for step, row in memory.rows] == [
        (0, 0.25),
        (2, 0.5),
        (4, None),
    ]
    assert memory.rows[0][1]["stage"] == "rl" and memory.rows[1][1]["loss"] == 1.0
