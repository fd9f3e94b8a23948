"""Suites while a stage trains: measured, written, and the best checkpoint kept by their mean."""

import dataclasses
import json

import post
import pytest

from qwen3 import rewards
from qwen3.stages import distill, grpo, sft
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


@pytest.fixture
def others(config, monkeypatch, tmp_path):
    """{stage: its tiny run} of the stages beside RL."""
    post.one_device(monkeypatch, sft, distill)
    post.save_hf(tmp_path / "teacher", post.model())
    data = post.write(tmp_path, [post.conversation(post.lock(seed)) for seed in range(4)])
    student = dict(model=post.model(), tokenizer=post.tokenizer_folder(), steps=2, batch=4)
    common = dict(mesh=post.ONE, log=post.QUIET, optim=post.CONSTANT, evaluation=SUITES)
    return {
        sft: sft.Config(**student, **common, data=(data,), length=128),
        distill: post.distill_config(str(tmp_path / "teacher"), steps=2, evaluation=SUITES),
    }


@pytest.mark.slow
@pytest.mark.parametrize("stage", [sft, distill], ids=["sft", "distill"])
def test_suites_are_measured_in_the_other_stages_too(stage, others, tmp_path):
    stage.run(others[stage], tmp_path / "run")
    measured = records(tmp_path / "run")
    assert [row["step"] for row in measured] == [0, 2]
    assert all(row["suites"]["letters.no_think"]["n"] == 2 for row in measured)
    logged = [row for row in post.records(tmp_path / "run") if SCORE in row]
    scores = [row["score"] for row in measured]
    assert [row["eval/letters.no_think"] for row in logged] == scores


def test_a_suite_that_does_not_exist_is_named_before_training(config, tmp_path):
    wrong = dataclasses.replace(SUITES, suites=("gsm9k",))
    with pytest.raises(ValueError, match="no suite 'gsm9k'"):
        grpo.run(dataclasses.replace(config, evaluation=wrong), str(tmp_path))
    assert not records(tmp_path)
