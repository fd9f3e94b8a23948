"""The one thread that owns the engine: continuous batching over the requests of all clients.

The event loop hands jobs over and is handed tokens back; nothing else touches the engine. Capacity
is counted in answers: the engine's slots and a bounded queue. All public methods are called from
the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from qwen3.infer.engine import Engine
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import Request

logger = logging.getLogger(__name__)


class Overloaded(Exception):
    """The queue is full; `retry_after` is in how many seconds there may be room."""

    def __init__(self, retry_after: int):
        super().__init__(f"the queue is full; try again in {retry_after} s")
        self.retry_after = retry_after


class EngineStopped(Exception):
    """The engine's thread has ended."""


class Progress(NamedTuple):
    """What a scheduling point brought to one answer of a job."""

    answer: int  # its index in the job
    tokens: int  # tokens of its completion that may be read now
    done: bool  # whether the completion is finished


class AnswerJob:
    """The answers to one HTTP request, between the event loop and the engine's thread."""

    def __init__(self, requests: Sequence[Request]):
        self.requests = list(requests)
        self.states: list[RequestState] = []
        self.sent = [0] * len(self.requests)
        self.progress: asyncio.Queue[Progress | Exception] = asyncio.Queue()
        self.unfinished = len(self.requests)  # answers that hold a place of the capacity
        self.untold = len(self.requests)  # answers whose end `next` has not told
        self.arrival = time.monotonic()

    async def next(self, deadline: float | None) -> Progress | None:
        """The next news of one of the answers; None once all are done.

        deadline: in the event loop's time; TimeoutError beyond it. Raises what ended the engine.
        """
        if not self.untold:
            return None
        async with asyncio.timeout_at(deadline):
            item = await self.progress.get()
        if isinstance(item, Exception):
            raise item
        self.untold -= item.done
        return item


class EngineThread:
    """Runs an engine for many jobs.

    Args:
        engine: used by this thread alone from now on.
        queue: most answers that wait for a slot.
    """

    def __init__(self, engine: Engine, *, queue: int):
        self.engine = engine
        self.capacity = engine.slots + queue
        self.answers = 0  # handed over and neither finished nor aborted
        self.error: Exception | None = None  # what ended the thread
        self.answer_seconds = 1.0  # running mean of the time that an answer takes, waiting included
        self._jobs: list[AnswerJob] = []  # of the engine's thread
        self._inbox: deque[Callable[[], None]] = deque()  # calls for the engine's thread
        self._wake = threading.Condition()
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread; call it from the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Abort what is unfinished and end the thread after its current step."""
        self._call(self._close)
        self._thread.join()

    def submit(self, requests: Sequence[Request]) -> AnswerJob:
        """Queue the requests, which `check_request` has let pass. Overloaded if they do not fit."""
        self._check_open()
        if self.answers + len(requests) > self.capacity:
            raise Overloaded(self._retry_after())
        job = AnswerJob(requests)
        self.answers += len(requests)
        self._call(lambda: self._submit(job))
        return job

    def abort(self, job: AnswerJob) -> None:
        """End what is unfinished of a job; its slots are free at the next scheduling point."""
        self._call(lambda: self._abort(job))

    async def update(self, params: Any) -> int:
        """New weights, from the next token on; their version. EngineStopped if the thread ended."""
        self._check_open()
        updated: Future[int] = Future()
        self._call(lambda: self._update(params, updated))
        return await asyncio.wrap_future(updated)

    def _check_open(self) -> None:
        if self.error is not None or self._closing:
            raise EngineStopped(str(self.error or "the server is closing"))

    def _retry_after(self) -> int:
        """Seconds until a slot is free: the answers ahead, `slots` of them at a time."""
        ahead = max(self.answers - self.engine.slots, 1)
        return max(1, min(60, round(ahead / self.engine.slots * self.answer_seconds)))

    def _call(self, function: Callable[[], None]) -> None:
        with self._wake:
            self._inbox.append(function)
            self._wake.notify()

    # In the engine's thread.

    def _run(self) -> None:
        try:
            while not self._closing:
                self._wait_for_work()
                while self._inbox:
                    self._inbox.popleft()()
                if self._jobs:
                    self.engine.step()
                    self._publish()
        except Exception as error:
            logger.exception("the engine's thread ends")
            self.error = error
        stopped = EngineStopped(str(self.error or "the server is closing"))
        for job in self._jobs:
            self._deliver([(job, stopped)])

    def _wait_for_work(self) -> None:
        with self._wake:
            while not (self._inbox or self._jobs):
                self._wake.wait()

    def _close(self) -> None:
        for job in self._jobs:
            self.engine.abort(job.states)
        self._closing = True

    def _submit(self, job: AnswerJob) -> None:
        try:
            job.states = self.engine.submit(job.requests)
        except Exception as error:  # it was checked; a slip of ours ends this job alone
            logger.exception("a request was refused by the engine")
            self._deliver([(job, error)])
            return
        self._jobs.append(job)

    def _update(self, params: Any, updated: Future[int]) -> None:
        if not updated.set_running_or_notify_cancel():
            return  # whoever asked has given up
        try:
            self.engine.update(params, self.engine.version + 1)
        except Exception as error:  # the old weights stay, and answers go on
            updated.set_exception(error)
        else:
            updated.set_result(self.engine.version)

    def _abort(self, job: AnswerJob) -> None:
        if job in self._jobs:
            self.engine.abort(job.states)
            self._publish()

    def _publish(self) -> None:
        """Tell the event loop what the jobs have got since the last time, in one call."""
        news: list[tuple[AnswerJob, Progress | Exception]] = []
        for job in self._jobs:
            for index, state in enumerate(job.states):
                count = len(state.completion.tokens)
                if job.sent[index] < 0 or (count == job.sent[index] and not state.done):
                    continue  # finished and told before, or nothing new
                job.sent[index] = -1 if state.done else count
                news.append((job, Progress(index, count, state.done)))
        self._jobs = [job for job in self._jobs if not all(state.done for state in job.states)]
        self._deliver(news)

    def _deliver(self, news: list[tuple[AnswerJob, Progress | Exception]]) -> None:
        assert self._loop is not None  # set before the thread began
        if news and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, news)

    # In the event loop again.

    def _receive(self, news: list[tuple[AnswerJob, Progress | Exception]]) -> None:
        for job, item in news:
            # After an exception nothing more is told of a job.
            ended = int(item.done) if isinstance(item, Progress) else job.unfinished
            self.answers -= ended
            job.unfinished -= ended
            if ended and not job.unfinished:
                seconds = time.monotonic() - job.arrival
                self.answer_seconds += 0.1 * (seconds - self.answer_seconds)
            job.progress.put_nowait(item)
