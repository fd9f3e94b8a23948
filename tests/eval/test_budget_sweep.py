"""The budget sweep on hand-made answers: who is cut, who is right, with and without thinking."""

import pytest

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval import budget_sweep, intervals
from qwen3.infer.requests import Completion
from qwen3.rewards import Problem


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["user assistant one two three lock first middle last " * 9], size=320)


class Thinkers:
    """Problem number n thinks for 10 n tokens and is then right; with less it is cut and wrong, but
    for problem 1, which is right in any case. Without thinking, problems 0 and 2 are right."""

    version = 0

    def __init__(self, tokenizer):
        self.tokenizer, self.requests = tokenizer, []

    def generate(self, requests):
        self.requests += requests
        return [self.complete(request) for request in requests]

    def complete(self, request):
        number, flags = request.prompt_id, self.tokenizer.decode(request.prompt)
        cut = request.budget is not None and request.budget < 10 * number
        right = number in (0, 2) if " /no_think" in flags else number == 1 or not cut
        tokens = self.tokenizer.encode("yes" if right else "no")
        forced = [cut] + [False] * (len(tokens) - 1)
        return Completion(request, tokens, forced=forced, finish="stop")


def test_a_sweep_tells_the_cut_from_the_whole_and_what_they_would_have_without(tokenizer):
    problems = [Problem("", [{"role": "user", "content": f"{n}"}], {}) for n in range(4)]
    backend = Thinkers(tokenizer)
    table = budget_sweep.sweep(
        backend,
        tokenizer,
        problems,
        [15, 40],
        credit=lambda answer: float(answer.text == "yes"),
        max_tokens=7,
    )
    assert table["non_thinking"] == intervals.mean([1, 0, 1, 0])
    short, long = table["budgets"]
    # 15 tokens are too few for problems 2 and 3.
    assert short == {
        "budget": 15,
        "all": intervals.mean([1, 1, 0, 0]),
        "cut_share": 0.5,
        "cut": intervals.mean([0, 0]),
        "cut_non_thinking": intervals.mean([1, 0]),
    }
    assert long["all"] == intervals.mean([1, 1, 1, 1]) and long["cut_share"] == 0
    assert long["cut"] is None and long["cut_non_thinking"] is None
    assert [answer.text for answer in table["answers"][15]] == ["yes", "yes", "no", "no"]
    prompts = [tokenizer.decode(request.prompt) for request in backend.requests]
    budgets = [request.budget for request in backend.requests]
    assert budgets == [None] * 4 + [15] * 4 + [40] * 4
    assert all(" /no_think<" in text for text in prompts[:4])
    assert all(" /think<" in text for text in prompts[4:])
    assert {request.max_tokens for request in backend.requests} == {7}
