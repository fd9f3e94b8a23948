"""An OpenAI-compatible server around the scripted model."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from made_corpus import ScriptedModel


@contextmanager
def model_server(model=None, before=lambda count: None):
    """An OpenAI-compatible server of a scripted model. before: is told how many calls came."""
    model = model or ScriptedModel()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._send({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            before(len(model.calls))
            text, tokens, *_ = model(body["messages"], body["max_tokens"])
            message = {"role": "assistant", "content": f"<think>\nHm.\n</think>\n\n{text}"}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
            fields = {"id": "1", "object": "chat.completion", "created": 0, "model": "scripted"}
            self._send({**fields, "choices": [choice], "usage": usage})

        def _send(self, value):
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", model
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
