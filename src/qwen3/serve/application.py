"""The server's routes, over one engine thread."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from qwen3.infer.engine import Engine
from qwen3.serve.answer_plan import AnswerPlan
from qwen3.serve.api_errors import TYPES, ApiError, invalid
from qwen3.serve.chat_body import chat_plan
from qwen3.serve.completion_body import completion_plan
from qwen3.serve.engine_thread import AnswerJob, EngineStopped, EngineThread, Overloaded
from qwen3.serve.event_stream import DONE, ClientLeft, EventStream, event, unless_left
from qwen3.serve.json_body import dumps, read_body
from qwen3.serve.responses import AnswerReader, ResponseWriter
from qwen3.serve.served_model import ServedModel
from qwen3.serve.server_metrics import ServerMetrics

logger = logging.getLogger(__name__)
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class ServerSettings:
    """How a server treats its clients."""

    host: str = "127.0.0.1"  # address to listen on
    port: int = 8000  # 0 for any free one
    api_key: str = ""  # what clients must send as a bearer token; "" asks for none
    queue: int = 64  # most answers that wait for a slot
    time_limit: float = 600.0  # most seconds of one request, waiting included
    body_bytes: int = 8 * 2**20  # largest body of a request
    drain_seconds: int = 30  # time that open requests have to finish after SIGTERM

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 0, 65535),
            ("queue", 0, 2**20),
            ("time_limit", 1e-3, 1e9),
            ("body_bytes", 1, 2**32),
            ("drain_seconds", 0, 10**6),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}: wanted {low:g} to {high:g}")
        if self.host not in LOOPBACK and not self.api_key:
            raise ValueError(f"host {self.host} is open to the network: set an API key")


class ServerApp:
    """The ASGI application. `draining` makes /health tell load balancers to look elsewhere.

    reload_weights: reads the served folder's weights again, for a trainer that has written new
    ones; None where no client may ask for that.
    """

    def __init__(
        self,
        model: ServedModel,
        engine: Engine,
        settings: ServerSettings,
        reload_weights: Callable[[], Any] | None = None,
    ):
        self.model, self.settings, self._reload_weights = model, settings, reload_weights
        self.engine_thread = EngineThread(engine, queue=settings.queue)
        self.metrics = ServerMetrics(self.engine_thread)
        self.draining = False
        # Rendering and encoding a long prompt must not hold the event loop up.
        self.workers = ThreadPoolExecutor(2, thread_name_prefix="bodies")
        self.asgi = Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
                Route("/v1/completions", self._guarded(self.complete), methods=["POST"]),
                Route("/v1/models", self._guarded(self.models), methods=["GET"]),
                Route("/v1/models/{name:path}", self._guarded(self.one_model), methods=["GET"]),
                Route("/collective_rpc", self._guarded(self.reload), methods=["POST"]),
                Route("/metrics", self._guarded(self.show_metrics), methods=["GET"]),
                Route("/health", self.health, methods=["GET"]),
                Route("/", self.page, methods=["GET"]),
            ],
            exception_handlers={HTTPException: self._on_http, Exception: self._on_error},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.engine_thread.start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, self.engine_thread.close)
        self.workers.shutdown(cancel_futures=True)

    # What is refused.

    def _guarded(self, endpoint: Any) -> Callable[[HttpRequest], Any]:
        """The endpoint behind the checks of host and key, with errors in OpenAI's form."""

        async def guarded(request: HttpRequest) -> Response:
            try:
                self._check_host(request)
                self._check_key(request)
                response = await endpoint(request)
            except ApiError as error:
                response = _error(error)
            except (ClientLeft, ClientDisconnect):  # while it was answered, or with a body begun
                self.metrics.clients_left.inc()
                response = Response(status_code=499)  # nobody reads it
            # The endpoint's name, not the path: a client could make up any number of paths.
            self.metrics.responses.labels(endpoint.__name__, response.status_code).inc()
            return response

        return guarded

    def _check_host(self, request: HttpRequest) -> None:
        """On loopback the Host must be loopback too: a page elsewhere whose name was pointed at
        this machine (DNS rebinding) names itself there.
        """
        host = request.headers.get("host", "").rsplit("@")[-1]
        name = host[1:].split("]")[0] if host.startswith("[") else host.split(":")[0]
        if self.settings.host in LOOPBACK and name not in LOOPBACK:
            raise ApiError(400, f"Host {host[:80]!r}: this server answers on loopback only")

    def _check_key(self, request: HttpRequest) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        wanted = self.settings.api_key
        is_right = scheme.lower() == "bearer" and hmac.compare_digest(key.encode(), wanted.encode())
        if wanted and not is_right:
            message = "no API key, or a wrong one; send it as Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key")

    async def _on_http(self, request: HttpRequest, error: Exception) -> Response:
        """Unknown paths and methods."""
        assert isinstance(error, HTTPException)
        status = error.status_code if error.status_code in TYPES else 400
        message = f"{error.detail}: {request.method} {request.url.path[:80]}"
        return _error(ApiError(status, message, headers=dict(error.headers or {})))

    async def _on_error(self, request: HttpRequest, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return _error(ApiError(500, f"the server failed: {type(error).__name__}"))

    # Endpoints.

    async def chat(self, request: HttpRequest) -> Response:
        """/v1/chat/completions"""
        return await self._answer(request, chat_plan)

    async def complete(self, request: HttpRequest) -> Response:
        """/v1/completions"""
        return await self._answer(request, completion_plan)

    async def models(self, request: HttpRequest) -> Response:
        """/v1/models"""
        return _json({"object": "list", "data": [self.model.describe()]})

    async def one_model(self, request: HttpRequest) -> Response:
        """/v1/models/NAME"""
        self.model.check_name(request.path_params["name"])
        return _json(self.model.describe())

    async def reload(self, request: HttpRequest) -> Response:
        """/collective_rpc, as vLLM has it, with the one method reload_weights: those of the served
        folder, from the next token on. Answers on their way go on over their KV caches.
        """
        body = await read_body(request, self.settings.body_bytes)
        if body != {"method": "reload_weights"}:
            raise invalid('the body must be {"method": "reload_weights"}', "method")
        if self._reload_weights is None:
            raise invalid("this server was started without --reload", "method", "unsupported")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.settings.time_limit):
                params = await loop.run_in_executor(self.workers, self._reload_weights)
                version = await self.engine_thread.update(params)
        except (ValueError, OSError) as error:  # another model, or half of one: the old ones stay
            raise invalid(str(error)) from None
        except TimeoutError:
            limit = f"reloading took longer than {self.settings.time_limit:g} s"
            raise ApiError(504, limit, code="timeout") from None
        except EngineStopped as error:
            raise ApiError(503, str(error), code="unavailable") from None
        return _json({"success": True, "version": version})

    async def show_metrics(self, request: HttpRequest) -> Response:
        """/metrics"""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def health(self, request: HttpRequest) -> Response:
        """/health: 200 while requests are taken, else 503 with the reason."""
        error = self.engine_thread.error
        status = "failed" if error else "draining" if self.draining else "ok"
        return _json({"status": status}, 200 if status == "ok" else 503)

    async def page(self, request: HttpRequest) -> Response:
        """The page to chat on."""
        return HTMLResponse(files("qwen3.serve").joinpath("chat_page.html").read_bytes())

    # Answers.

    async def _answer(
        self, request: HttpRequest, parse: Callable[[dict[str, Any], ServedModel], AnswerPlan]
    ) -> Response:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.time_limit
        body = await read_body(request, self.settings.body_bytes)
        plan = await loop.run_in_executor(self.workers, parse, body, self.model)
        job = self._submit(plan)
        if plan.stream:
            events = self._events(plan, job, deadline)
            return EventStream(events, lambda: self.engine_thread.abort(job))
        try:
            return _json(await unless_left(request.receive, self._whole(plan, job, deadline)))
        finally:
            self.engine_thread.abort(job)

    def _submit(self, plan: AnswerPlan) -> AnswerJob:
        if len(plan.requests) > self.engine_thread.capacity:
            capacity = self.engine_thread.capacity
            raise ApiError(400, f"{len(plan.requests)} answers: at most {capacity} a request")
        try:
            job = self.engine_thread.submit(plan.requests)
        except Overloaded as error:
            headers = {"Retry-After": str(error.retry_after)}
            raise ApiError(429, str(error), code="queue_full", headers=headers) from None
        except EngineStopped as error:
            raise ApiError(503, str(error), code="unavailable") from None
        self.metrics.prompt_tokens.inc(sum(len(request.prompt) for request in plan.requests))
        return job

    async def _progress(
        self, job: AnswerJob, deadline: float
    ) -> AsyncIterator[tuple[int, int, bool]]:
        """(index, tokens that may be read, whether it is the last) of every answer's news."""
        first = True
        try:
            while (news := await job.next(deadline)) is not None:
                if first:
                    self.metrics.first_token.observe(time.monotonic() - job.arrival)
                    first = False
                yield news
        except TimeoutError:
            limit = f"the request took longer than {self.settings.time_limit:g} s"
            headers = {"x-should-retry": "false"}
            raise ApiError(504, limit, code="timeout", headers=headers) from None
        except EngineStopped as error:
            raise ApiError(503, str(error), code="unavailable") from None
        self.metrics.response_seconds.observe(time.monotonic() - job.arrival)
        self.metrics.completion_tokens.inc(sum(len(s.completion.tokens) for s in job.states))

    def _writer(self, plan: AnswerPlan, job: AnswerJob) -> ResponseWriter:
        readers = [
            AnswerReader(plan, index, state.completion, self.model.tokenizer)
            for index, state in enumerate(job.states)
        ]
        return ResponseWriter(plan, self.model.name, readers)

    async def _whole(self, plan: AnswerPlan, job: AnswerJob, deadline: float) -> dict[str, Any]:
        """The response once all answers are finished."""
        async for _ in self._progress(job, deadline):
            pass
        writer = self._writer(plan, job)
        deltas = [
            reader.advance(len(reader.completion.tokens), True)[0] for reader in writer.readers
        ]
        return writer.whole(deltas)

    async def _events(
        self, plan: AnswerPlan, job: AnswerJob, deadline: float
    ) -> AsyncIterator[bytes]:
        """The events of a stream. A failure in its midst is an event too, as OpenAI's are."""
        writer: ResponseWriter | None = None
        try:
            async for index, count, done in self._progress(job, deadline):
                if writer is None:
                    writer = self._writer(plan, job)
                    for chunk in writer.opening():
                        yield event(chunk)
                for chunk in writer.chunks(writer.readers[index], count, done):
                    yield event(chunk)
            if writer is not None:
                for chunk in writer.closing():
                    yield event(chunk)
        except ApiError as error:
            yield event(error.body())
        yield DONE


def _json(value: Any, status: int = 200) -> Response:
    return Response(dumps(value), status, media_type="application/json")


def _error(error: ApiError) -> Response:
    response = _json(error.body(), error.status)
    response.headers.update(error.headers)
    return response
