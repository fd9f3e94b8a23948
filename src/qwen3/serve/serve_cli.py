"""`qwen3 serve MODEL`: an OpenAI-compatible server on loopback, with a page to chat on.

SIGTERM or Ctrl-C drains it: no new connections, open requests finish, then it leaves with code 0; a
second one ends it at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # of the extra [serve], which other commands do without
    from qwen3.serve.application import ServerApp, ServerSettings

NEEDED = ("starlette", "uvicorn", "prometheus_client", "llguidance")  # the extra [serve]
KEY = "QWEN3_API_KEY"  # environment variable of the key, which a process list would show


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Register the command `serve`."""
    parser = subparsers.add_parser("serve", help="an OpenAI-compatible server, and a page to chat")
    parser.add_argument("model", help="a folder, a run's workdir, or a Hub name")
    parser.add_argument("--name", help="what clients call the model; default: its last part")
    parser.add_argument("--host", default="127.0.0.1", help="others than loopback need a key")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    parser.add_argument("--api-key", help=f"bearer token of clients; default: ${KEY}")
    parser.add_argument("--slots", type=int, default=16, help="answers decoded together")
    parser.add_argument("--max-length", type=int, help="tokens of prompt and answer")
    parser.add_argument("--cache-tokens", type=int, help="places in all KV caches together")
    parser.add_argument("--cache", default="rows", help="form of the KV cache: rows or paged")
    parser.add_argument("--cache-dtype", default="", help="float32, bfloat16 or int8 keys, values")
    parser.add_argument("--weights", default="", help="int8: matrices in a byte a number")
    parser.add_argument("--block", type=int, default=8, help="tokens between two looks at clients")
    parser.add_argument("--queue", type=int, default=64, help="most answers that wait")
    parser.add_argument("--time-limit", type=float, default=600.0, help="seconds of a request")
    parser.add_argument("--body-bytes", type=int, default=8 * 2**20, help="largest body")
    parser.add_argument("--drain-seconds", type=int, default=30, help="time to finish at SIGTERM")
    parser.add_argument("--warm-up", action="store_true", help="compile before taking requests")
    parser.add_argument(
        "--reload", action="store_true", help="let clients have the folder's weights read again"
    )
    parser.set_defaults(run=run)
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the command until it is told to stop. ValueError for an option or model that is wrong."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} missing: pip install 'qwen3[serve]'")
    from qwen3.serve.application import ServerSettings
    from qwen3.serve.http_server import DrainingServer

    key = arguments.api_key if arguments.api_key is not None else os.environ.get(KEY, "")
    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(ServerSettings)}
    settings = ServerSettings(**given | {"api_key": key})  # before the model takes its time
    app = build(arguments, settings)
    server = DrainingServer(app)
    print(f"{app.model.name} at {server.url}/v1", file=sys.stderr, flush=True)
    server.run_until_told()
    return 0


def build(arguments: argparse.Namespace, settings: ServerSettings) -> ServerApp:
    """The application of a loaded model."""
    from qwen3.infer import language_model
    from qwen3.model.execution import Execution
    from qwen3.serve.application import ServerApp
    from qwen3.serve.served_model import ServedModel

    numerics = {"cache_dtype": arguments.cache_dtype, "weights": arguments.weights}
    execution = Execution.for_mesh(**numerics)  # before the model takes its time
    model = language_model.load(arguments.model, execution=execution)
    engine = model.engine(
        slots=arguments.slots,
        max_length=arguments.max_length,
        cache_tokens=arguments.cache_tokens,
        cache=arguments.cache,
        block=arguments.block,
    )
    if arguments.warm_up:
        engine.warm_up(range(1, engine.max_length))
    name = arguments.name or Path(arguments.model.rstrip("/")).name
    served = ServedModel.of(name, model, engine)
    if not arguments.reload:
        return ServerApp(served, engine, settings)
    # A head that chooses thinking budgets is that of the weights it was trained for.
    served = dataclasses.replace(served, choose_budget=None, has_budget_head=False)

    def reloaded() -> Any:
        again = language_model.load(arguments.model)
        if again.config != model.config:
            raise ValueError(f"{arguments.model} holds another model now: {again.config}")
        return again.params

    return ServerApp(served, engine, settings, reloaded)
