"""A stop signal at every moment of a run's life ends it with exit code 42, and it goes on."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from qwen3.train.checkpoint import steps_in
from qwen3.train.preemption import Stopped, stop_requests
from qwen3.train.stop_signals import leaving_at_once

SCRIPT = Path(__file__).with_name("toy_main.py")


def start(workdir):
    command = [sys.executable, str(SCRIPT), "--workdir", str(workdir)]
    return subprocess.Popen(command, stdout=-1, stderr=-1, text=True)


def test_sigterm_at_every_moment_of_a_run_leaves_with_42_and_it_goes_on(tmp_path):
    # where the signal comes, and the step that is saved when the run has left
    moments = [
        ("starting", []),
        ("restoring", []),
        ("training the first", [2, 3]),
        ("leaving the first", [4]),
        ("behind the second", [8]),
        ("closing", [8]),
        ("ending", [8]),
    ]
    for place, saved in moments:
        with start(tmp_path) as process:
            assert any(line.strip() == place for line in process.stdout), place
            process.terminate()
            if place.startswith("training"):  # supervisors repeat themselves; this leave takes long
                process.terminate()
            error = process.stderr.read()
            assert process.wait(180) == 42, (place, error)
            assert "start again" in error and "Traceback" not in error, (place, error)
        assert steps_in(tmp_path / "checkpoints")[-1:] in ([], *([step] for step in saved)), place
    with start(tmp_path) as process:
        assert "starting\nrestoring\nclosing\nending\n" == process.stdout.read()
        assert process.wait(180) == 0


def kill_me():
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_block_finishes_before_it_leaves_and_blocks_inside_it_share_the_signal():
    done = []
    with pytest.raises(Stopped):
        with stop_requests() as outer:
            with stop_requests() as inner:
                kill_me()
                done.append(inner is outer)
            done.append(outer.reached(1))
    assert done == [True, True]
    with stop_requests() as requests:
        assert not requests.reached(1)


def test_an_error_of_the_block_passes_though_a_signal_came():
    with pytest.raises(ZeroDivisionError), stop_requests():
        kill_me()
        raise ZeroDivisionError


def test_a_signal_that_a_finaliser_swallows_stops_the_next_loop():
    with pytest.raises(Stopped), leaving_at_once():
        with contextlib.suppress(Stopped):
            kill_me()  # as a finaliser does with what is raised in it
        with stop_requests() as requests:
            assert requests.reached(1)


def test_outside_of_a_run_signals_are_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with leaving_at_once():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
    with stop_requests():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_leave_signals_alone():
    handlers = []

    def work():
        with leaving_at_once(), stop_requests() as requests:
            handlers.append((signal.getsignal(signal.SIGTERM), requests.name))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [(signal.getsignal(signal.SIGTERM), "")]
