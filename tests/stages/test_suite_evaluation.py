"""Suites while a stage trains: measured, written, and the best checkpoint kept by their mean."""

import dataclasses
import json

import post
import pytest

from qwen3 import rewards
from qwen3.stages import grpo
from qwen3.stages.problem_evaluation import SCORE, ProblemEvaluation, records
from qwen3.train.checkpoint import steps_in
from qwen3.train.retention import Keep

SUITES = ProblemEvaluation(every=2, limit=2, max_tokens=4, suites=("letters",))


class Graded(post.Letters):
    """The letters, as a family whose held-out problems are a suite."""

    paired = False

    def grade(self, problem, text):
        return self.verdict(text)


@pytest.fixture
def config(monkeypatch):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", Graded())
    keep = Keep(last=1, best=SCORE, best_is="max")
    return post.grpo_config(evaluation=SUITES, save_every=2, keep=keep)


def test_suites_are_measured_written_and_keep_the_best(config, tmp_path):
    grpo.run(config, str(tmp_path))
    measured = records(tmp_path)
    assert [row["step"] for row in measured] == [0, 2, 4]
    for row in measured:
        [suite] = row["suites"].values()
        assert list(row["suites"]) == ["letters.no_think"] and suite["n"] == 2
        assert row["score"] == suite["score"]
        samples = (tmp_path / "samples" / f"suites_{row['step']:06d}.jsonl").read_text()
        answers = [json.loads(line) for line in samples.splitlines()]
        assert [answer["suite"] for answer in answers] == ["letters.no_think"] * 2
    logged = [row for row in post.records(tmp_path) if SCORE in row]
    assert all(row[SCORE] == row["eval/letters.no_think"] for row in logged) and logged
    scores = {row["step"]: row["score"] for row in measured if row["step"]}
    best = max(scores, key=scores.get)
    assert {best, 4} == set(steps_in(tmp_path / "checkpoints"))


def test_a_suite_that_does_not_exist_is_named_before_training(config, tmp_path):
    wrong = dataclasses.replace(SUITES, suites=("gsm9k",))
    with pytest.raises(ValueError, match="no suite 'gsm9k'"):
        grpo.run(dataclasses.replace(config, evaluation=wrong), str(tmp_path))
    assert not records(tmp_path)
