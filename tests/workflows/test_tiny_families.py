"""The experiment that shows general RL in small: its data, and all of its code in two steps."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from random import Random

import jax
import pytest

from qwen3 import environments, mesh, rewards
from qwen3.curate.files import write_problems
from qwen3.rewards import Problem, response
from qwen3.rewards.task import ask
from qwen3.stages.conversations import sequences
from qwen3.stages.groups import Refill
from qwen3.stages.problem_evaluation import ProblemEvaluation, records
from qwen3.stages.prompts import prompt_ids
from qwen3.stages.rollouts import Sampling
from qwen3.train.recording import Log

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("tiny_families")


@pytest.fixture
def easy(experiment):
    return importlib.import_module("tiny_problems")


def test_its_problems_of_both_splits_have_right_answers_and_share_none(experiment, easy):
    config = experiment.CONFIG
    train, held = (
        experiment.problems(config, split, seed, 4)
        for split, seed in (("train", 1), ("heldout", 2))
    )
    for part in (train, held):
        assert {problem.task for problem in part} == set(config.families)
        assert all(message["content"].isascii() for p in part for message in p.messages)
    keys = [{str((p.messages, p.tools, p.answer)) for p in part} for part in (train, held)]
    assert not keys[0] & keys[1]
    for name in config.families:
        family = environments.get(name)
        part = [problem for problem in train if problem.task == name]
        assert len(part) == 4
        assert not family.paired or [p.twin for p in part[::2]] == [p.twin for p in part[1::2]]
        if name not in environments.WORLDS:
            for problem in part:
                reply = easy.answered(problem, Random(0), is_right=True)["messages"][-1]
                text = response.render(reply.get("reasoning_content", ""), reply["content"])
                assert family.score(problem, text) == 1.0, problem


def test_as_many_of_the_answers_that_it_teaches_are_right_as_is_asked(experiment):
    config = replace(experiment.CONFIG, families=("lock", "exact_stop", "late_requests"))
    taught = experiment.conversations(config, 1, 40, right=0.5)
    assert taught == experiment.conversations(config, 1, 40, right=0.5)
    assert len(taught) == 120 and any(sample["tools"] for sample in taught)
    locks = [sample for sample in taught if "a lock at" in sample["messages"][0]["content"]]
    right = {
        p.messages[0]["content"]: rewards.get("lock").solve(p)[1]
        for p in experiment.problems(config, "train", 1, 40)
        if p.task == "lock"
    }
    texts = [[message["content"] for message in sample["messages"]] for sample in locks]
    assert 0.3 < sum(right[question] == answer for question, answer in texts) / len(texts) < 0.7


def test_a_look_up_says_its_pairs_again_in_other_orders(easy):
    words = "red hat Oslo Ana is lamp Leo grove".split()
    for seed in range(20):
        pairs = easy.look_up(Random(seed), words).removesuffix(".").split(".")
        told = pairs[: len(pairs) // 4]
        assert len({pair.split()[0] for pair in told}) == len(told)
        assert sorted(pairs) == sorted(4 * told)


def test_questions_and_answers_are_rendered_alike_for_reading_teaching_and_asking(
    experiment, easy, tmp_path
):
    config = replace(experiment.CONFIG, families=("key_value", "tool_call", "abstention"))
    samples = experiment.conversations(config, 1, 4, right=1.0)
    words = easy.tokenizer(tmp_path, samples, size=500)
    read = [sample["ids"] for sample in easy.documents(words, samples, look_ups=0, seed=0)]
    for problem, sample in zip(experiment.problems(config, "train", 1, 4), samples, strict=True):
        (taught,) = sequences(sample, words)
        assert taught.tokens.tolist() in read
        prompt = prompt_ids(problem, words)
        assert taught.tokens[: len(prompt)].tolist() == prompt
        assert not taught.weights[: len(prompt)].any() and taught.weights[len(prompt)]


class Letters:
    """Pays a model that knows nothing for the letter e."""

    name, group, paired, record = "letters", "reasoning", False, {}

    def require(self):
        """Every machine can run it."""

    def generate(self, seed, difficulty=0.5, split="train", mode="any"):
        return Problem("letters", ask(f"q{seed % 1000}"), {})

    def solve(self, problem):
        return "", "eee"

    def guess(self, problem, rng):
        return rng.choice(("e", "q", "user"))

    def score(self, problem, text):
        return min(text.count("e"), 3) / 3


def test_two_steps_run_through_all_of_it(experiment, tmp_path, monkeypatch, one_device, capsys):
    monkeypatch.setitem(rewards.TASKS, "letters", Letters())
    devices, make_mesh = jax.devices()[:1], mesh.make_mesh
    monkeypatch.setattr("tiny_lock.make_mesh", lambda config: make_mesh(config, devices))
    size = dict(vocab=448, layers=2, hidden=32, ffn=64, heads=2, kv_heads=1, head_dim=16)
    config = replace(
        experiment.CONFIG,
        model=experiment.CONFIG.model.replace(**size),
        families=("letters", "abstention"),
        examples=8,
        look_ups=4,
        pretrained=2,
        careless=8,
        taught=2,
        drawn=4,
        held=4,
        steps=2,
        optim=replace(experiment.CONFIG.optim, warmup=0),
        prompts=4,
        length=256,
        sampling=Sampling(samples=8, max_tokens=8, slots=32),
        refill=Refill(oversample=2.0, rounds=2),
        log=Log(every=1, display=False),
    )
    held = tmp_path / "held.jsonl"
    write_problems(held, experiment.problems(config, "heldout", 9, 2))
    evaluation = ProblemEvaluation(problems=str(held), every=2)
    experiment.run(replace(config, evaluation=evaluation), str(tmp_path))
    rows = json.loads((tmp_path / "families.json").read_text())
    assert [row["family"] for row in rows] == ["letters", "abstention", "all"]
    assert [row["n"] for row in rows] == [4, 4, 8]
    assert all(row["low"] <= row["rise"] <= row["high"] for row in rows)
    assert all(math.isclose(row["rise"], row["after"] - row["before"]) for row in rows)
    assert rows[0]["pairs"] == [None, None] and rows[1]["pairs"] == [0.0, 0.0]
    assert "abstention" in capsys.readouterr().out
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").open()]
    assert any("pairs/abstention" in record for record in metrics)
    (*_, last) = records(tmp_path)
    assert last["step"] == 2 and last["pairs"] == {"abstention": 0.0}
    assert metrics[-1]["eval/pairs/abstention"] == 0.0
