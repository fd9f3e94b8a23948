"""A server with OpenAI's interface that misbehaves as the question says, for tests of clients."""

import contextlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedServer:
    """answer(body) -> text. faults(body) -> what goes wrong at the first, second, ... request:
    a status, "cut", "twice", "hang", "breaks", "nonsense", "empty"."""

    def __init__(self, answer, faults=lambda body: ()):
        self.answer, self.faults = answer, faults
        self.asked = Counter()  # requests by the text of the last message
        self.bodies = []
        self.lock, self.released = threading.Lock(), threading.Event()

    @contextlib.contextmanager
    def running(self):
        """The URL of the server."""
        handler = type("Handler", (Handler,), {"script": self})
        serving = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        serving.daemon_threads = True
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}/v1"
        finally:
            self.released.set()
            serving.shutdown()
            serving.server_close()


class Handler(BaseHTTPRequestHandler):
    script: ScriptedServer

    def do_GET(self):
        self.reply(200, json.dumps({"object": "list", "data": [{"id": "first"}]}).encode())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = body["messages"][-1]["content"]
        with self.script.lock:
            attempt = self.script.asked[key]
            self.script.asked[key] += 1
            self.script.bodies.append(body)
        faults = self.script.faults(body)
        fault = faults[attempt] if attempt < len(faults) else None
        if isinstance(fault, int):
            self.reply(fault, b'{"error": {"message": "scripted"}}', {"Retry-After": "0"})
            return
        text = "" if fault == "empty" else self.script.answer(body)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice], "usage": {"total_tokens": 7}}).encode()
        if fault == "hang":
            self.script.released.wait(60)
        data = {"cut": data[: len(data) // 2], "twice": data * 2, "nonsense": b"nonsense"}.get(
            fault, data
        )
        self.reply(200, data, promised=len(data) + (9 if fault == "breaks" else 0))

    def reply(self, status, data, headers=(), promised=None):
        with contextlib.suppress(OSError):  # who was hung up on has gone
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(promised or len(data)))
            for name, value in dict(headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if promised and promised > len(data):
                self.close_connection = True

    def log_message(self, *arguments):
        pass
