import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import kill_harness as harness
import pytest

from qwen3.train.checkpoint import steps_in
from qwen3.train.manifest import read_manifest

SCRIPT = Path(__file__).with_name("toy_run.py")


def command(workdir, *more):
    return [sys.executable, str(SCRIPT), str(workdir), *more]


def devices(count):
    flags = f"--xla_force_host_platform_device_count={count} {os.environ['QUICK_COMPILE']}"
    return {"XLA_FLAGS": flags}


def both(tmp_path, moments, count):
    """The run without and, at the same time, with kills."""
    undisturbed = threading.Thread(
        target=harness.run,
        args=(command(tmp_path / "whole"), tmp_path / "whole"),
        kwargs={"env": devices(count)},
    )
    undisturbed.start()
    kills = harness.run(
        command(tmp_path / "killed"), tmp_path / "killed", moments, env=devices(count)
    )
    undisturbed.join()
    harness.assert_same_run(tmp_path / "whole", tmp_path / "killed")
    return kills


def test_kills_in_a_checkpoint_write_and_at_a_stage_border_change_nothing(tmp_path):
    kills = both(tmp_path, [harness.while_writing(), harness.at_step(30)], 2)
    assert kills[0]["half_written"] and kills[1]["step"] >= 30
    assert steps_in(tmp_path / "killed" / "checkpoints") == [21, 42, 56, 60]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 8])
def test_twenty_random_kills_change_nothing(tmp_path, count):
    moments = harness.random_moments(20, longest=1.2, border=30, seed=count)
    kills = both(tmp_path, moments, count)
    assert len(kills) == 20 and sum(kill["half_written"] for kill in kills) >= 3


def test_sigterm_saves_where_it_is_and_the_next_start_goes_on(tmp_path):
    work = tmp_path / "run"
    arguments = command(work, "--every", "1000", "--steps", "5000")
    process = subprocess.Popen(arguments, env={**os.environ, **devices(2)})
    harness.wait_for_step(work, 3, process)
    process.terminate()
    assert process.wait(180) == 42
    saved = steps_in(work / "checkpoints")
    assert len(saved) == 1 and saved[0] >= 3 and harness.last_step(work) == saved[0]
    assert read_manifest(work / "checkpoints" / str(saved[0]))["extra"]["position"] == saved[0]


def two_processes(work):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    arguments = command(work, "--coordinator", coordinator)
    return [
        subprocess.Popen([*arguments, "--process", str(i)], env={**os.environ, **devices(2)})
        for i in range(2)
    ]


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_saves_at_one_step_and_one_process_goes_on(tmp_path):
    work = tmp_path / "run"
    for reach in (3, 12):  # the second start restores on two processes
        processes = two_processes(work)
        harness.wait_for_step(work, reach, *processes)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(180) for process in processes] == [42, 42]
        assert steps_in(work / "checkpoints")[-1] == harness.last_step(work) >= reach
    harness.run(command(work), work, env=devices(2))
    assert [json.loads(line)["step"] for line in harness.metrics(work)] == list(range(1, 61))
