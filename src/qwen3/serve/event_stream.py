"""Server-sent events, and noticing that a client has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from qwen3.serve.json_body import dumps

DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """One event of a JSON value."""
    return b"data: " + dumps(value) + b"\n\n"


class ClientLeft(Exception):
    """The client closed its connection before the response was complete."""


async def until_left(receive: Receive) -> None:
    """Return once the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_left(receive: Receive, work: Awaitable[Any]) -> Any:
    """The result of `work`, which is cancelled with ClientLeft when the client leaves."""
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeft
        return task.result()
    finally:
        left.cancel()
        task.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


class EventStream(Response):
    """A response of events. `end` is called once, however the stream ends."""

    def __init__(self, events: AsyncIterator[bytes], end: Callable[[], None]):
        super().__init__(media_type="text/event-stream")
        # Whatever stands between must neither store nor collect the events.
        self.raw_headers = [(k, v) for k, v in self.raw_headers if k != b"content-length"]
        self.headers["Cache-Control"] = "no-store"
        self.headers["X-Accel-Buffering"] = "no"
        self.events, self.end = events, end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_left(receive, self._send(send))
        except (ClientLeft, OSError):
            pass  # nobody is there to be told
        finally:
            self.end()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for data in self.events:
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
