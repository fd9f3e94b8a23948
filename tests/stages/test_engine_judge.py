"""The judge of a run on a real engine in process: one that knows nothing, and one that is told."""

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer import grammar
from qwen3.infer.engine import Engine
from qwen3.model.sizes import ModelConfig
from qwen3.rewards.judge import JudgeCase, prompt
from qwen3.rewards.judge_backends import JudgeSettings
from qwen3.rewards.judge_check import check_judge, hostile_cases
from qwen3.stages import grpo, judges
from qwen3.stages.reward_kinds import FamilyReward

NUMBERS = {"8": "eight", "7天": "七天", "Tokyo": "Tokyo"}  # words of a right answer, by reference


def verdict_on(text):
    """What a good judge replies: with a reference the truth; without one it likes the letter e, and
    has nothing to say of an x."""
    code = re.search(r"Verdict (\w{6}):", text)[1]
    answer = re.search(r"<answer>\n(.*?)\n</answer>", text, re.DOTALL)[1]
    if reference := re.search(r"<reference>\n(.*?)\n</reference>", text, re.DOTALL):
        word = NUMBERS[reference[1]]
        good, bad = ("equal", "different") if word in answer else ("different", "different")
        quote = word if word in answer else ""
    else:
        good, bad, quote = "excellent", "bad", " ".join(answer.split())
    if reference is None and "x" in answer:
        return "No idea."
    grade = good if reference or "e" in answer else bad
    return f"Quote {code}: {quote}\nVerdict {code}: {grade}"


@dataclass
class Dictation:
    """A grammar that one text follows. Its words are sampled, one by one, as any others."""

    ids: list
    vocab: int

    def matcher(self):
        return Dictated(self)


class Dictated:
    def __init__(self, dictation):
        self.dictation, self.count = dictation, 0

    def allowed(self):
        bits = np.zeros(grammar.words(self.dictation.vocab), np.uint32)
        token = self.dictation.ids[min(self.count, len(self.dictation.ids) - 1)]
        bits[token // 32] |= np.uint32(1 << token % 32)
        return bits

    def accept(self, token, *, forced):
        self.count += 1


class DictatedEngine(Engine):
    """The engine whose answers are `verdict_on` its questions."""

    asked = []

    def submit(self, requests):
        texts = [self.tokenizer.decode(request.prompt) for request in requests]
        self.asked.extend(texts)
        replies = [self.tokenizer.encode(verdict_on(text) + "<|im_end|>") for text in texts]
        return super().submit(
            [
                replace(request, grammar=Dictation(ids, self.config.vocab))
                for request, ids in zip(requests, replies, strict=True)
            ]
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model whose tokenizer knows the judge's questions and replies."""
    path = tmp_path_factory.mktemp("judge")
    cases = [*hostile_cases(), JudgeCase("q1", "an e or two"), JudgeCase("q2", "a b")]
    texts = [prompt(case, order) for case in cases for order in (0, 1)]
    replies = [verdict_on(text) for text in texts]
    tokenizer = Tokenizer.train(["user assistant\n", *texts, *replies], size=700)
    model = ModelConfig("judge", 2, 32, 64, 2, 1, head_dim=16, vocab=704, tied=True, max_length=512)
    post.save_hf(path, model)
    tokenizer.save(path)
    return str(path)


@pytest.fixture
def run(monkeypatch, folder, tmp_path):
    """run(name, **changes of JudgeSettings) -> (workdir, the judge) of a GRPO run of a step."""
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    opened, open_judge = [], judges.open_judge
    monkeypatch.setattr(
        judges, "open_judge", lambda *a: opened.append(open_judge(*a)) or opened[-1]
    )

    def grpo_run(name, **changes):
        settings = JudgeSettings(**{"model": folder, "max_tokens": 8, "slots": 64, **changes})
        table = (FamilyReward("letters", ("judge",)),)
        work = tmp_path / name
        grpo.run(post.grpo_config(steps=1, rewards=table, judge=settings), work)
        return work, opened[-1]

    return grpo_run


@pytest.mark.slow
def test_a_random_model_is_no_judge_and_is_named_before_anything_is_sampled(run, tmp_path):
    with pytest.raises(ValueError, match=r"cannot reward a run; it misjudges \d+ of 57 answers"):
        run("knows_nothing")
    assert not list((tmp_path / "knows_nothing" / "samples").glob("*"))


def test_a_run_is_rewarded_by_an_engine_in_process_and_asks_nothing_twice(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(judges, "Engine", DictatedEngine)
    store = str(tmp_path / "replies.sqlite")
    work, judge = run("first", max_tokens=200, store=store)
    asked, counts = [*DictatedEngine.asked], judge.counts
    # Both orders of every case that the rule lets through, one that came again is remembered.
    silent = counts["unreadable"] + counts["unquoted"]
    assert len(asked) == len(set(asked)) <= 2 * (counts["judged"] + silent)
    assert counts["gate"] > 9 and counts["judged"] and counts["unreadable"] and not counts["down"]
    samples = [
        json.loads(line)
        for file in sorted((work / "samples").glob("*.jsonl"))
        for line in file.read_text().splitlines()[:-1]
    ]
    scores = [sample["scores"]["judge"] for sample in samples]
    assert set(scores) == {None, 0.0, 1.0} and scores.count(None) == silent
    for score, sample in zip(scores, samples, strict=True):
        assert sample["reward"] is None if score is None else sample["reward"] is not None
        assert not score or ("e" in sample["answer"] and "x" not in sample["answer"])
    check_judge(judge)  # by the replies that are on disk
    assert DictatedEngine.asked == asked
