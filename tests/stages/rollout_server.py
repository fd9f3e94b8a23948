"""A server that speaks vLLM's or SGLang's protocol of rollouts, with our engine behind it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qwen3.infer.requests import Request, SamplingParams


def vllm(body, completion):
    request = completion.request
    choice = {
        "prompt_token_ids": list(request.prompt),
        "token_ids": completion.tokens,
        "logprobs": {"token_logprobs": completion.log_probs},
        "finish_reason": completion.finish,
    }
    return {"choices": [choice]}


def sglang(body, completion):
    pairs = zip(completion.log_probs, completion.tokens, strict=True)
    about = {
        "output_token_logprobs": [[value, token, None] for value, token in pairs],
        "finish_reason": {"type": completion.finish},
    }
    return {"output_ids": completion.tokens, "meta_info": about}


def request_of(body):
    """The request that either protocol asks for."""
    settings = body.get("sampling_params", body)
    top_k = max(0, settings["top_k"])
    names = ("temperature", "top_p", "min_p", "presence_penalty")
    sampling = SamplingParams(top_k=top_k, **{name: settings[name] for name in names})
    return Request(
        body.get("prompt") or body["input_ids"],
        sampling,
        max_tokens=settings.get("max_tokens") or settings["max_new_tokens"],
        stop_ids=tuple(settings["stop_token_ids"]),
        seed=settings.get("seed", settings.get("sampling_seed")),
    )


class RolloutServerHere:
    """Answers by generate(requests); loads are counted, and load(body) is called for each."""

    ANSWERS = {"/v1/completions": vllm, "/generate": sglang}
    LOADS = ("/collective_rpc", "/update_weights_from_disk")

    def __init__(self, generate, load=lambda body: None):
        self.generate, self.load, self.loads, self.spoil = generate, load, 0, None
        self.bodies, self.lock = [], threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, body):
        """(status, reply)"""
        with self.lock:
            self.bodies.append((path, body))
            if path in self.LOADS:
                self.loads += 1
                self.load(body)
                return 200, {"success": True}
            reply = self.ANSWERS[path](body, self.generate([request_of(body)])[0])
            return self.spoil(reply) if self.spoil else (200, reply)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    owner: RolloutServerHere

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, reply = self.owner.answer(self.path, body)
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
