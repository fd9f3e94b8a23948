"""What the other hosts do when one fails, differs or hangs."""

import json
import os
import signal
import time

import jax
import numpy as np
import pytest
from processes import Hosts

from qwen3.train.checkpoint import load_params, steps_in


def wait_for(condition, seconds=1800):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_exception_of_one_host_ends_all_within_seconds_and_the_run_goes_on(tmp_path):
    words = ["--workdir", str(tmp_path / "run")]
    crash = Hosts(tmp_path, "host_run.py", *words, "--set", "fault=crash")
    try:
        wait_for(lambda: crash.processes[1].poll() is not None)
        begun = time.monotonic()
        codes = crash.codes()
        # Five seconds where the machine is ours.
        assert time.monotonic() - begun < 5 * max(1, os.getloadavg()[0] / os.cpu_count())
    finally:
        crash.kill()
    assert codes[1] == 1 and codes[0] != 0, crash.text(0) + crash.text(1)
    record = json.loads((crash.folders[1] / "exit.json").read_text())
    assert record["error"] == "ValueError: a bad row in shard 17" and record["rc"] == 1
    assert record["where"].startswith("host_run.py:") and record["process"] == 1
    assert "Traceback" in crash.text(1)
    # By a broken collective, or, where it waits for something else, by the other one's word.
    reasons = "process 0 fails", "ended, as process 1 fails: ValueError: a bad row in shard 17"
    assert any(reason in crash.text(0) for reason in reasons)
    assert json.loads((crash.folders[1] / "heartbeat.json").read_text())["step"] >= 4

    again = Hosts(tmp_path, "host_run.py", *words)
    assert again.codes() == [0, 0], again.text(0) + again.text(1)
    # Saved by time alone, and at the end: the hosts agree on when.
    changes = [f"--set={change}" for change in ("every=100", "minutes=0.002", "pause=0.13")]
    words = ["--workdir", str(tmp_path / "other"), *changes]
    straight = Hosts(tmp_path / "straight", "host_run.py", *words)
    assert straight.codes() == [0, 0]
    assert steps_in(tmp_path / "run" / "checkpoints") == [8, 10, 12]
    assert len(steps_in(tmp_path / "other" / "checkpoints")) > 1
    resumed, whole = load_params(tmp_path / "run"), load_params(tmp_path / "other")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_a_host_that_hangs_prints_its_stack_when_asked(tmp_path):
    words = ["--workdir", str(tmp_path / "run"), "--set", "fault=hang"]
    hosts = Hosts(tmp_path, "host_run.py", *words)
    try:
        beat = hosts.folders[1] / "heartbeat.json"
        wait_for(lambda: beat.exists() and json.loads(beat.read_text())["step"] == 5)
        hosts.processes[1].send_signal(signal.SIGUSR2)
        wait_for(lambda: "in __getitem__" in hosts.text(1), 10)
        assert [process.poll() for process in hosts.processes] == [None, None]
    finally:
        hosts.kill()


@pytest.mark.parametrize("other", [("--set", "steps=14"), ("--workdir", "elsewhere")])
def test_hosts_that_were_told_different_things_say_which(tmp_path, other):
    words = ["--workdir", str(tmp_path / "run")]
    hosts = Hosts(tmp_path, "host_run.py", *words, each=[(), other])
    codes = hosts.codes()
    assert 0 not in codes
    name = "config" if "steps=14" in other else "workdir"
    assert any(f"process 1 has {name} '" in hosts.text(number) for number in (0, 1))
    assert not (tmp_path / "run").exists()
