"""An engine whose answers are written beforehand: the turns of a script, as tokens."""

import numpy as np

from qwen3.infer.requests import Completion


class ScriptedState:
    """A request that is answered at the next step."""

    def __init__(self, request):
        self.request, self.completion = request, Completion(request)

    @property
    def done(self):
        return self.completion.finish is not None


class ScriptedBackend:
    """turns[prompt_id]: the texts of the turns, or Completions' fields as (text, finish)."""

    version = 7

    def __init__(self, tokenizer, turns, max_length=10**6):
        self.tokenizer, self.max_length = tokenizer, max_length
        self.turns = {number: list(texts) for number, texts in turns.items()}
        self.queue, self.requests, self.steps = [], [], 0

    def submit(self, requests):
        self.requests += requests
        states = [ScriptedState(request) for request in requests]
        self.queue += states
        return states

    def step(self):
        self.steps += 1
        queue, self.queue = self.queue, []
        for state in queue:
            self.complete(state.request, state.completion)

    def complete(self, request, completion):
        text = self.turns[request.prompt_id].pop(0)
        text, finish = (text + "<|im_end|>", "stop") if isinstance(text, str) else text
        ids = self.tokenizer.encode(text)
        completion.tokens += ids
        completion.log_probs += [-0.5] * len(ids)
        completion.sampling_log_probs += [-0.5] * len(ids)
        completion.forced += [False] * len(ids)
        completion.versions += [self.version] * len(ids)
        completion.finish = finish

    def abort(self, states):
        for state in states:
            if not state.done:
                state.completion.finish = "abort"

    def generate(self, requests):
        states = self.submit(requests)
        self.step()
        return [state.completion for state in states]

    def stream(self, requests):
        raise NotImplementedError

    def update(self, params, version):
        raise NotImplementedError


def same_sequences(one, other):
    """Whether two completions are equal to the last bit."""
    lists = ("tokens", "log_probs", "sampling_log_probs", "forced", "versions", "finish")
    return all(
        np.array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)))
        for name in lists
    )
