"""Asking problems of a backend: prompts, regrouping, scores; the backend here is a table."""

import pytest

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.environments.episode_answers import ask
from qwen3.infer import chat_session
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.requests import Completion
from qwen3.rewards import Problem, answers
from qwen3.rewards.answers import ScoredAnswer, prompt_ids
from qwen3.stages import prompts


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["user assistant one two three lock first middle last " * 9], size=320)


class Echo:
    """Answers with the prompt's and the sample's number; `errors` are finished with one."""

    version = 0

    def __init__(self, tokenizer, errors=()):
        self.tokenizer, self.errors, self.requests = tokenizer, errors, []

    def generate(self, requests):
        self.requests += requests
        return [self.complete(request) for request in requests]

    def complete(self, request):
        tokens = self.tokenizer.encode(f"{request.prompt_id}.{request.sample}")
        error = "not finite" if request.prompt_id in self.errors else None
        return Completion(request, tokens, forced=[False] * len(tokens), finish="stop", error=error)

    def stream(self, requests):
        raise NotImplementedError

    def update(self, params, version):
        raise NotImplementedError


def problems(*texts, task=""):
    return [Problem(task, [{"role": "user", "content": text}], {}) for text in texts]


def test_answers_are_grouped_by_problem_and_scored_where_there_is_a_task(tokenizer, monkeypatch):
    judged = []

    def score_all(pairs, threads=None):
        judged.extend(pairs)
        return [0.25 * int(text[-1]) for _, text in pairs]

    monkeypatch.setattr(rewards, "score_all", score_all)
    backend = Echo(tokenizer)
    assert isinstance(backend, RolloutBackend)
    asked = [*problems("one"), *problems("two", task="lock"), *problems("three")]
    groups = ask(backend, tokenizer, asked, samples=2, seed=7, max_tokens=9)
    assert [[a.text for a in group] for group in groups] == [
        ["0.0", "0.1"],
        ["1.0", "1.1"],
        ["2.0", "2.1"],
    ]
    assert [[a.score for a in group] for group in groups] == [[None] * 2, [0.0, 0.25], [None] * 2]
    assert [[a.problem for a in group] for group in groups] == [[p] * 2 for p in asked]
    assert [text for _, text in judged] == ["1.0", "1.1"]
    assert {(r.seed, r.max_tokens, r.sampling.temperature) for r in backend.requests} == {(7, 9, 0)}


def test_evaluation_training_and_chat_ask_with_the_same_tokens(tokenizer):
    """Control tokens that a text holds are text in all of them."""
    (problem,) = problems("say <|im_end|> and </think> /no_think")
    backend = Echo(tokenizer)
    ask(backend, tokenizer, [problem])
    trained = prompts.Prompts((prompts.Share("file"),), tokenizer, seed=0, problems=[problem])[
        0
    ].ids
    chat = chat_session.chat_request(tokenizer, problem.messages).prompt
    (request,) = backend.requests
    assert request.prompt == list(trained) == chat == prompt_ids(problem, tokenizer)
    assert request.prompt.count(tokenizer.im_end) == 1


def test_the_hard_switch_is_in_the_prompt_and_opens_the_turn(tokenizer):
    backend, asked = Echo(tokenizer), problems("one")
    [[soft]] = ask(backend, tokenizer, asked)
    [[hard]] = ask(backend, tokenizer, asked, enable_thinking=False)
    empty = "<think>\n\n</think>\n\n"
    assert (soft.text, hard.text) == ("0.0", f"{empty}0.0")
    without, with_block = (tokenizer.decode(request.prompt) for request in backend.requests)
    assert with_block == without + empty


def test_the_block_that_a_folders_template_opens_belongs_to_the_turn(tokenizer):
    opens = Tokenizer(tokenizer.backend)
    opens.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\\n<think>\\n' }}"
    )

    class Thinker(Echo):
        def complete(self, request):
            tokens = opens.encode("hm\n</think>\n\nyes<|im_end|>")
            return Completion(request, tokens, forced=[False] * len(tokens), finish="stop")

    [[answer]] = ask(Thinker(opens), opens, problems("one <think>"))
    assert answer.text == "<think>\nhm\n</think>\n\nyes<|im_end|>"
    assert answer.turn == answers.response.Response("hm", "yes")
    with pytest.raises(ValueError, match="has no enable_thinking switch"):
        ask(Thinker(opens), opens, problems("one"), enable_thinking=False)


def test_an_answer_that_the_backend_gave_up_is_an_error(tokenizer):
    with pytest.raises(RuntimeError, match="answer 0 to prompt 1: not finite"):
        ask(Echo(tokenizer, errors=[1]), tokenizer, problems("one", "two"))


def test_what_a_budget_cut_and_what_the_model_thought(tokenizer):
    opened, closed = tokenizer.think_open, tokenizer.think_close
    (problem,) = problems("one")

    def answer(tokens, forced):
        completion = Completion(None, tokens, forced=[i in forced for i in range(len(tokens))])
        return ScoredAnswer(problem, completion, "", None)

    whole = answer([opened, 5, 6, closed, 7], forced=())
    assert not whole.cut and whole.thinking_tokens(closed) == 2
    cut = answer([opened, 5, 6, 8, 8, closed, 7], forced=(3, 4, 5))
    assert cut.cut and cut.thinking_tokens(closed) == 2
    assert answer([opened, 5, 6], forced=()).thinking_tokens(closed) == 2  # it never closed
    assert answer([closed], forced=()).thinking_tokens(closed) == 0


def test_a_text_from_elsewhere_is_an_answer_without_tokens():
    (problem,) = problems("one")
    answer = ScoredAnswer.from_text(problem, "<think>\nhm\n</think>\n\nyes", 1.0)
    assert answer.conversation() == {
        "messages": [
            problem.messages[0],
            {"role": "assistant", "content": "yes", "reasoning_content": "hm"},
        ],
        "tools": None,
    }
    assert not answer.cut and not answer.completion.tokens
    with pytest.raises(ValueError, match="malformed turn"):
        ScoredAnswer.from_text(problem, "<think>\nhm").conversation()
    assert answers.score([(problem, "x")]) == [None]
