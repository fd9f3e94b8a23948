"""A stop signal at every moment of a run's life ends it with exit code 42, and it goes on."""

import contextlib
import importlib
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
ROOT = Path(__file__).parents[2]


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


IMPORTING = ("numpy", "orbax.checkpoint", "qwen3.stages.rollouts")


@pytest.mark.parametrize(
    "program",
    [("experiments/tiny_grpo.py",), ("-m", "qwen3.cli", "recipe")],
    ids=lambda program: program[-1],
)
def test_sigterm_while_a_program_imports_leaves_with_42_at_once(tmp_path, program):
    for module in IMPORTING:
        command = [sys.executable, "-X", "importtime", *program, "--workdir", tmp_path / "run"]
        with subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
            assert any(line.split()[-1] == module for line in process.stderr), module
            process.terminate()
            said = process.stderr.read()
            assert process.wait(180) == 42 and "start again" in said, (module, said)


ENDINGS = """
from qwen3.run import main
import atexit, dataclasses, os, sys, threading

def tell(place, write=os.write, read=os.read):
    write(1, place.encode() + b"\\n")
    read(0, 1)

def outlive():
    threading.main_thread().join()  # which ends before its program waits for other threads
    tell("waiting for a thread")

class Last:
    def __del__(self, tell=tell):
        tell("torn down")

@dataclasses.dataclass(frozen=True)
class Config:
    left: str = ""  # what this program leaves behind

def run(config, workdir):
    if config.left == "thread":
        threading.Thread(target=outlive).start()
    if config.left == "call":
        atexit.register(tell, "calling what was registered")
    if config.left == "object":
        sys.last = Last()

main(run, Config())
"""


@pytest.mark.parametrize(("left", "code"), [("thread", 42), ("call", 42), ("object", 0)])
def test_sigterm_while_a_program_ends_cuts_short_or_changes_nothing(tmp_path, left, code):
    script = tmp_path / "endings.py"
    script.write_text(ENDINGS)
    command = [sys.executable, script, "--workdir", tmp_path, "--set", f"left={left}"]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout.readline()
        process.terminate()
        if code == 0:  # there are no handlers any more: it ends as it would have
            process.stdin.write("\n")
            process.stdin.flush()
        for _ in range(60):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(3)
                break
            process.terminate()  # Python loses one that comes just as it begins to wait
        assert process.wait(1) == code, process.stderr.read()


def test_a_signal_during_an_import_in_a_run_waits_for_its_end(tmp_path, monkeypatch):
    # As native code that is being loaded would abort the process over what a handler raises.
    text = "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.1)\n"
    (tmp_path / "imported_in_a_run.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped), leaving_at_once():
        with stop_requests():
            pass
        module = importlib.import_module("imported_in_a_run")
        threading.Event().wait(60)
    assert module.time


def test_a_second_signal_does_not_cut_short_a_leaving_that_has_saved():
    with pytest.raises(Stopped) as left, leaving_at_once():
        with stop_requests() as requests:
            kill_me()
            try:
                raise Stopped(7)
            finally:
                assert requests.reached(7)
    assert left.value.step == 7
    saved = []
    with pytest.raises(Stopped) as left, leaving_at_once():
        try:
            with stop_requests():
                kill_me()
                raise Stopped(8)
        finally:
            kill_me()
            saved.append(True)
    assert saved and left.value.step == 8


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
