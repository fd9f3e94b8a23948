"""What /metrics tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from qwen3.serve.engine_thread import EngineThread

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class ServerMetrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, engine: EngineThread):
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"qwen3_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(f"qwen3_{name}", text, registry=self.registry).set_function(value)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"qwen3_{name}", text, buckets=SECONDS, registry=self.registry)

        self.responses = counter("responses", "HTTP responses", ("endpoint", "status"))
        self.clients_left = counter("clients_left", "Clients that left before their answer's end")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts")
        self.completion_tokens = counter("completion_tokens", "Tokens of answers")
        self.first_token = histogram("first_token_seconds", "Time to the first token, waiting too")
        self.response_seconds = histogram("response_seconds", "Time to the end of the response")
        slots = engine.engine.slots
        gauge("slots", "Slots of the engine", lambda: slots)
        gauge("answers_running", "Answers being decoded", lambda: engine.engine.active)
        gauge(
            "answers_waiting",
            "Answers waiting for a slot",
            lambda: max(engine.answers - engine.engine.active, 0),
        )

    def text(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)
