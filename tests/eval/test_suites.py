"""Suites: files of every kind are read, asked in a mode and scored; the answers are a table."""

import json

import pytest

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.eval import intervals, suites
from qwen3.infer.requests import PRESETS, Completion


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["user assistant one two three lock first middle last " * 9], size=320)


class Answers:
    """Gives each sample of every prompt the text of `texts` at its number."""

    version = 0

    def __init__(self, tokenizer, *texts):
        self.tokenizer, self.texts, self.requests = tokenizer, texts, []

    def generate(self, requests):
        self.requests += requests
        return [
            Completion(request, self.tokenizer.encode(self.texts[request.sample]), finish="length")
            for request in requests
        ]


def write(folder, *rows):
    path = folder / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


GSM8K = {"question": "2 + 2?", "answer": "Two and two.\n#### 4"}


def test_a_suite_is_asked_with_the_reports_settings_of_the_mode(tokenizer, tmp_path):
    path = write(tmp_path, GSM8K, {**GSM8K, "answer": "#### 5"}, GSM8K)
    four, five = (f"<think>\nhm\n</think>\n\n\\boxed{{{n}}}" for n in (4, 5))
    backend = Answers(tokenizer, four, five)
    result = suites.measure(
        backend, tokenizer, "gsm8k", path, count=2, samples=2, max_tokens=50, seed=3
    )
    assert result.accuracy == intervals.mean([0.5, 0.5]) and result.truncated == 1.0
    assert {k: e.value for k, e in result.pass_at.items()} == {1: 0.5, 2: 1.0}
    assert [[a.score for a in group] for group in result.answers] == [[1.0, 0.0], [0.0, 1.0]]
    assert result.tokens == (len(tokenizer.encode(four)) + len(tokenizer.encode(five))) / 2
    assert len(backend.requests) == 4
    for request in backend.requests:
        assert request.sampling == PRESETS["thinking"] and request.max_tokens == 50
        assert tokenizer.decode(request.prompt).endswith(
            " /think<|im_end|>\n<|im_start|>assistant\n"
        )


def test_without_thinking_a_thought_is_wrong(tokenizer, tmp_path):
    backend = Answers(tokenizer, "<think>\n\n</think>\n\n\\boxed{4}", "<think>\nx\n</think>\n\n4")
    result = suites.measure(
        backend, tokenizer, "gsm8k", write(tmp_path, GSM8K), mode="no_think", samples=2
    )
    assert [answer.score for answer in result.answers[0]] == [1.0, 0.0]
    assert {request.sampling for request in backend.requests} == {PRESETS["non_thinking"]}


ROWS = {
    "gsm8k": GSM8K,
    "math": {"problem": "2 + 2?", "solution": "It is \\boxed{4}."},
    "mbpp": {
        "text": "Add.",
        "code": "def f(a, b):\n    return a + b",
        "task_id": 1,
        "test_list": ["assert f(1, 2) == 3"],
    },
    "ifeval": {
        "key": 1,
        "prompt": "Say nothing with a comma.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
}


@pytest.mark.parametrize("suite", ROWS)
def test_problems_of_a_suite_have_a_task_that_scores_them(tmp_path, suite):
    [problem] = suites.SUITES[suite](write(tmp_path, ROWS[suite]))
    assert problem.task in rewards.TASKS and problem.messages[-1]["role"] == "user"
    assert set(suites.SUITES) == {*ROWS, "humaneval_plus"}  # which needs a sandbox to be read


def test_an_unknown_suite_or_mode_is_refused_with_the_choices(tokenizer, tmp_path):
    path = write(tmp_path, GSM8K)
    with pytest.raises(ValueError, match="'mmlu' is none of gsm8k, math, mbpp"):
        suites.measure(None, tokenizer, "mmlu", path)
    with pytest.raises(ValueError, match="'any' is none of think, no_think"):
        suites.measure(None, tokenizer, "gsm8k", path, mode="any")
    with pytest.raises(ValueError, match="no field"):
        suites.measure(None, tokenizer, "math", path)
