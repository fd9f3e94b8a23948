"""Stages that do not wait for each other, side by side in worker processes.

A training step of this size gains little from a second core; the student's pretraining beside the
teacher's does. So each worker has cores of its own: two that shared theirs took a fifth longer. It
keeps its compiled programs from stage to stage and writes what a stage prints to a log file, whose
last line the board shows.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path

from qwen3.train.preemption import STOPPED, Stopped, stop_requests

SPAWN = multiprocessing.get_context("spawn")
TICK = 0.5  # seconds between looks at the board


class Failed(RuntimeError):
    """A stage did; its log file has the traceback."""


class Worker:
    """A process that does one job after another, number `index` of `count`. job: the one at work,
    None while idle."""

    def __init__(self, perform: Callable, index: int, count: int):
        self.index = index
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs, perform, share(index, count)))
        self.process.start()
        theirs.close()
        self.job = None

    def give(self, job, arguments, log: Path) -> None:
        self.job = job
        self.pipe.send((arguments, str(log)))

    def take(self):
        """The finished job. Raises what it raised; Stopped if the process was stopped."""
        job, self.job = self.job, None
        try:
            error = self.pipe.recv()
        except EOFError:
            self.process.join()
            if self.process.exitcode in (STOPPED, -signal.SIGTERM, -signal.SIGINT):
                raise Stopped(0) from None
            raise Failed(
                f"{job}: its process died with exit code {self.process.exitcode}"
            ) from None
        if error is not None:
            raise error
        return job

    def close(self) -> None:
        """An idle one leaves by itself; a busy one saves and leaves."""
        self.pipe.close()
        if self.job is not None and self.process.is_alive():
            self.process.terminate()
        self.process.join()


def run(jobs: Mapping, perform: Callable, count: int, board, *, fresh: bool = False) -> None:
    """Do all jobs, each when those it waits for are done, `count` at once, earlier ones first.

    jobs: {name: (arguments, names it waits for, log file)}; what is not among them counts as done.
    perform(*arguments) must be a function of a module. fresh: a new process for every job, where
    memory matters more than compiled programs. An error, or a stop signal, lets the other jobs save
    and leave before it is raised.
    """
    waiting, workers = dict(jobs), []
    with stop_requests() as stop:
        try:
            while waiting or any(worker.job for worker in workers):
                for name in ready(waiting, {worker.job for worker in workers}):
                    worker = _idle(workers, perform, count)
                    if worker is None:
                        break
                    arguments, _, log = waiting.pop(name)
                    worker.give(name, arguments, log)
                    board.started(name, log)
                busy = {worker.pipe: worker for worker in workers if worker.job}
                for pipe in connection.wait(busy, timeout=TICK):
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


def ready(waiting: Mapping, running) -> list:
    """Names of jobs that wait for nothing that is still to be done."""
    undone = {*waiting, *running}
    return [name for name, (_, after, _) in waiting.items() if not undone & set(after)]


def _idle(workers, perform, count):
    """A worker without a job, a new one if there may be more, or None."""
    for worker in workers:
        if worker.job is None:
            return worker
    if len(workers) == count:
        return None
    index = min({*range(count)} - {worker.index for worker in workers})
    workers.append(Worker(perform, index, count))
    return workers[-1]


def share(index: int, count: int) -> list[int]:
    """The cores of one of `count` workers; empty where cores cannot be chosen (macOS)."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    return cores[index::count] or [cores[index % len(cores)]]


def _serve(pipe, perform, cores) -> None:
    if cores:
        os.sched_setaffinity(0, cores)  # before jax makes its threads, as many as there are cores
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    while True:
        try:
            arguments, log = pipe.recv()
        except EOFError:
            return
        _print_to(log)
        try:
            perform(*arguments)
            pipe.send(None)
        except Exception as error:
            traceback.print_exc()
            pipe.send(_sendable(error, log))


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(STOPPED)


def _print_to(log: str) -> None:
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _sendable(error: Exception, log: str) -> Exception:
    """One that a pipe can carry: the user's mistakes as they are, others by their text."""
    text = f"{error} ({log} has the rest)"
    for kind in (ValueError, OSError):
        if isinstance(error, kind):
            return kind(text)
    return Failed(f"{type(error).__name__}: {text}")
