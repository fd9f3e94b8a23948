"""The HTTP server around the application, and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

import uvicorn

from qwen3.serve.application import ServerApp

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which after a signal takes no new connections, lets open requests finish
    and returns; a second signal ends it at once.
    """

    def __init__(self, app: ServerApp):
        settings = app.settings
        config = uvicorn.Config(
            app.asgi,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=settings.drain_seconds,
            lifespan="on",
            server_header=False,
        )
        super().__init__(config)
        self.app = app
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        self.socket = socket.create_server((settings.host, settings.port), family=family)

    @property
    def url(self) -> str:
        """Where clients find the server."""
        host, port = self.socket.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def run_until_told(self) -> None:
        """Serve until a signal, or until another thread calls `stop`."""
        asyncio.run(self.serve([self.socket]))

    def stop(self) -> None:
        """Begin to drain; called again, do not wait for open requests."""
        self.force_exit = self.should_exit
        self.should_exit = self.app.draining = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but the signal is not raised again: to be told to stop is no failure."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop()

        handlers = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
