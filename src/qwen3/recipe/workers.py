"""Stages that do not wait for each other, side by side in worker processes.

A training step of this size gains little from a second core; the student's pretraining beside the
teacher's does. So each worker has cores of its own: two that shared theirs took a fifth longer
(docs/log/2026-11-28-workers-on-their-own-cores.md). A worker keeps its compiled programs from stage
to stage and writes what a stage prints to a log file, whose last line the board shows.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Mapping
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias

from qwen3.sandbox import namespaces
from qwen3.train.preemption import STOPPED, Stopped, stop_requests
from qwen3.train.writing import ADVICE, WorkdirError, advice

SPAWN = multiprocessing.get_context("spawn")
TICK = 0.5  # seconds between refreshes of the board


class Failed(RuntimeError):
    """A stage failed; its log file has the traceback."""


class Job(NamedTuple):
    """A call of the function that all workers run."""

    arguments: tuple[Any, ...]
    after: tuple[str, ...]  # names of the jobs that must be done first
    log: Path  # where the output goes


class Watcher(Protocol):
    """Is told what happens to jobs, see `board.Board`."""

    def started(self, job: str, log: Path) -> None: ...
    def finished(self, job: str) -> None: ...
    def refresh(self) -> None: ...


Perform: TypeAlias = Callable[..., object]


class Worker:
    """A process that does one job after another, number `index` of `count`."""

    def __init__(self, perform: Perform, index: int, count: int):
        self.index = index
        self.pipe, child_pipe = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(child_pipe, perform, cores(index, count)))
        self.process.start()
        child_pipe.close()
        self.job: str | None = None  # at work; None while idle

    def give(self, name: str, job: Job) -> None:
        self.job = name
        with contextlib.suppress(ConnectionError):  # it died; `take` will tell
            self.pipe.send((job.arguments, str(job.log)))

    def take(self) -> str:
        """The name of the finished job. Raises what it raised; Stopped if a signal stopped it."""
        job, self.job = self.job, None
        assert job is not None
        try:
            error = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._raise_death(job)
        if error is not None:
            raise error
        return job

    def _raise_death(self, job: str) -> NoReturn:
        self.process.join()
        code = self.process.exitcode
        if code in (STOPPED, -signal.SIGTERM, -signal.SIGINT):
            raise Stopped(0) from None
        raise Failed(f"{job}: its process died with exit code {code}") from None

    def close(self) -> None:
        """End the process: an idle one at once, a busy one once it has saved."""
        self.pipe.close()
        if self.job is not None and self.process.is_alive():
            self.process.terminate()
        self.process.join()


def run(
    jobs: Mapping[str, Job], perform: Perform, count: int, board: Watcher, *, fresh: bool = False
) -> None:
    """Do all jobs, `count` at once, each after those that it waits for, in the order given.

    Names to wait for that are not among `jobs` count as done. `perform(*arguments)` must be a
    function of a module. fresh: a new process for every job, where memory matters more than
    compiled programs. An error or a stop signal lets the other jobs save before it is raised.
    """
    waiting, workers = dict(jobs), list[Worker]()
    with stop_requests() as stop:
        try:
            while waiting or any(worker.job for worker in workers):
                for name in ready(waiting, {worker.job for worker in workers}):
                    worker = _idle(workers, perform, count)
                    if worker is None:
                        break
                    worker.give(name, waiting[name])
                    board.started(name, waiting.pop(name).log)
                busy: dict[Any, Worker] = {worker.pipe: worker for worker in workers if worker.job}
                for pipe in connection.wait(list(busy), timeout=TICK):
                    board.finished(busy[pipe].take())
                    if fresh:
                        workers.remove(busy[pipe])
                        busy[pipe].close()
                if stop.name:
                    raise Stopped(0)
                board.refresh()
        finally:
            for worker in workers:
                worker.close()


def ready(waiting: Mapping[str, Job], running: Collection[str | None]) -> list[str]:
    """Names of jobs that wait for nothing that is still to be done."""
    undone = {*waiting, *running}
    return [name for name, job in waiting.items() if not undone & set(job.after)]


def _idle(workers: list[Worker], perform: Perform, count: int) -> Worker | None:
    """A worker without a job, a new one if there may be more, or None."""
    for worker in workers:
        if worker.job is None:
            return worker
    if len(workers) == count:
        return None
    index = min({*range(count)} - {worker.index for worker in workers})
    workers.append(Worker(perform, index, count))
    return workers[-1]


def cores(index: int, count: int) -> list[int]:
    """The cores of worker `index` of `count`; none where cores cannot be chosen (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    available = sorted(os.sched_getaffinity(0))
    return available[index::count] or [available[index % len(available)]]


def _serve(pipe: Connection, perform: Perform, pinned: list[int]) -> None:
    """The worker process: jobs from the pipe until it is closed."""
    if pinned:
        # Before jax starts, which makes as many threads as there are cores.
        os.sched_setaffinity(0, pinned)
    # Whoever starts again after a kill must not meet this process at work.
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    if sys.platform == "linux":  # the kernel is faster where this process has much to do
        namespaces.prctl(namespaces.SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    while True:
        try:
            arguments, log = pipe.recv()
        except EOFError:
            return
        try:
            _print_to(log)
            perform(*arguments)
            sys.stdout.flush()
        except Exception as error:
            with contextlib.suppress(OSError):  # the log may be on the disk that is full
                traceback.print_exc()
            pipe.send(_sendable(error, log))
        else:
            pipe.send(None)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(STOPPED)


def _print_to(log: str) -> None:
    """Append stdout and stderr, also those of native code, to a log file."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _sendable(error: Exception, log: str) -> Exception:
    """An error that a pipe can carry: a user's mistake as it is, any other one by its text.

    A disk that is full or read-only is a WorkdirError that says what to do, whoever met it.
    """
    rest = f"({log} has the rest)"
    if isinstance(error, WorkdirError):
        return WorkdirError(f"{error} {rest}")
    if isinstance(error, OSError) and error.errno in ADVICE:
        return WorkdirError(f"{error}; {advice(error.errno)} {rest}")
    for kind in (ValueError, OSError):
        if isinstance(error, kind):
            return kind(f"{error} {rest}")
    return Failed(f"{type(error).__name__}: {error} {rest}")
