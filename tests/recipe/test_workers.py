"""The recipe's worker processes: order, errors, signals, and what the board says."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from qwen3.recipe import board, workers
from qwen3.train.writing import WorkdirError


def work(folder, name, needs=(), seconds=0.0):
    assert all((folder / each).exists() for each in needs), f"{name} before {needs}"
    print(f"{name} is at work")
    time.sleep(seconds)
    (folder / name).write_text(str(os.getpid()))


def fail(folder, name):
    raise ValueError(f"{name} cannot be made")


def die(folder, name):
    os._exit(3)


class Silent:
    def started(self, *_): ...
    def finished(self, *_): ...
    def refresh(self): ...


def jobs(folder, after, **options):
    """{name: job} that write a file each; after: {name: names}."""
    return {
        name: workers.Job((folder, name, needs, *options.values()), needs, folder / f"{name}.txt")
        for name, needs in after.items()
    }


def test_jobs_wait_for_those_before_them_and_share_processes(tmp_path):
    after = {"d": ("b", "c"), "a": (), "b": ("a",), "c": ("a",), "e": ("done earlier",)}
    (tmp_path / "done earlier").write_text("")
    workers.run(jobs(tmp_path, after), work, 2, Silent())
    assert {(tmp_path / name).exists() for name in after} == {True}
    assert len({(tmp_path / name).read_text() for name in after}) == 2
    assert board.last_line(tmp_path / "a.txt") == "a is at work"


def test_fresh_processes_do_one_job_each(tmp_path):
    after = {"a": (), "b": ("a",), "c": ("a",), "d": ("c",)}
    workers.run(jobs(tmp_path, after), work, 2, Silent(), fresh=True)
    assert len({(tmp_path / name).read_text() for name in after}) == 4


def cores(folder, name):
    (folder / name).write_text(str(sorted(os.sched_getaffinity(0))))
    work(folder, name + " done")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here")
def test_workers_share_the_cores(tmp_path):
    made = {
        name: workers.Job((tmp_path, name), (), tmp_path / f"{name}.txt") for name in ("a", "b")
    }
    workers.run(made, cores, 2, Silent())
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a", "b"))
    mine = os.sched_getaffinity(0)
    assert {*a, *b} == mine and ({*a}.isdisjoint(b) or len(mine) == 1)
    assert workers.cores(5, 7) and workers.cores(0, 1) == sorted(mine)


def test_ready_jobs_are_those_whose_inputs_are_made():
    after = {"a": ("x",), "b": ("a",), "c": ()}
    waiting = {name: workers.Job((), names, Path("log.txt")) for name, names in after.items()}
    assert workers.ready(waiting, set()) == ["a", "c"]
    assert workers.ready(waiting, {"x"}) == ["c"]


def fill(folder, name):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{name}.json")


def fill_unnamed(folder, name):
    raise WorkdirError("cannot write it: No space left; free space")


@pytest.mark.parametrize(
    ("perform", "kind", "words"),
    [
        (fail, ValueError, "one cannot be made"),
        (die, workers.Failed, "died with exit code 3"),
        (fill, WorkdirError, "No space left on device: 'one.json'; free space on that disk and"),
        (fill_unnamed, WorkdirError, "cannot write it: No space left; free space .*one.txt has"),
    ],
)
def test_a_failure_is_told_and_ends_the_run(tmp_path, perform, kind, words):
    job = {"one": workers.Job((tmp_path, "one"), (), tmp_path / "one.txt")}
    with pytest.raises(kind, match=words):
        workers.run(job, perform, 1, Silent())


def test_a_worker_that_dies_before_its_first_job_is_told(tmp_path):
    worker = workers.Worker(work, 0, 1)
    worker.process.kill()
    worker.process.join()
    worker.give("one", workers.Job((tmp_path, "one"), (), tmp_path / "one.txt"))
    with pytest.raises(workers.Failed, match="one: its process died with exit code -9"):
        worker.take()
    worker.close()


def test_a_log_that_cannot_be_written_does_not_hide_the_error(tmp_path):
    full = {"one": workers.Job((tmp_path, "one"), (), Path("/dev/full"))}
    with pytest.raises(ValueError, match="one cannot be made"):
        workers.run(full, fail, 1, Silent())
    (tmp_path / "file").write_text("")
    none = {"one": workers.Job((tmp_path, "one"), (), tmp_path / "file" / "one.txt")}
    with pytest.raises(WorkdirError, match="a file stands where a directory is needed"):
        workers.run(none, work, 1, Silent())


SCRIPT = """
import sys
import test_workers
from pathlib import Path
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    made = test_workers.jobs(folder, {"a": (), "b": ()}, seconds=60.0)
    test_workers.workers.run(made, test_workers.work, 2, test_workers.Silent())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_after_a_signal_to_the_parent(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=here)
    until(lambda: (tmp_path / "a.txt").exists() and (tmp_path / "b.txt").exists())
    started = children(parent.pid)
    assert len(started) >= 2
    parent.send_signal(number)
    assert parent.wait(timeout=30) == (42 if number != signal.SIGKILL else -number)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_board_tells_stages_and_time_left(tmp_path):
    console = Console(record=True, width=120, file=open(os.devnull, "w"))
    (tmp_path / "log.txt").write_text("stage S1  step 3/9\n\n")
    with board.Board(console, {"a": 1, "b": 3}, 2, done=["a"]) as shown:
        assert shown.left(0.25) == pytest.approx(90)
        shown.started("b", tmp_path / "log.txt")
        shown._shown -= 60
        shown.refresh()
        shown.finished("b")
        assert shown.left(1.0) == 0
    text = console.export_text()
    assert "b begins; 1 of 2 stages done, about 0:01:30 left" in text
    assert "b: stage S1  step 3/9" in text
