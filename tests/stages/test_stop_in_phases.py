"""A stop signal in the midst of rollouts or of an evaluation: the run leaves within a block, with
its steps saved, and the next start ends where the run that was never stopped ends.
"""

import dataclasses
import os
import signal
from functools import partial

import jax
import post
import pytest
import toy_pretraining

from qwen3 import hosts, rewards
from qwen3.curate.files import write_problems
from qwen3.eval.perplexity import HeldOut
from qwen3.infer.engine import Engine
from qwen3.mesh import make_mesh
from qwen3.stages import grpo, pretrain, start
from qwen3.stages.problem_evaluation import ProblemEvaluation
from qwen3.train.checkpoint import load_params, steps_in
from qwen3.train.preemption import Stopped


@pytest.fixture
def config(tmp_path, monkeypatch):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    write_problems(tmp_path / "problems.jsonl", [post.letters.generate(n) for n in range(3)])
    evaluation = ProblemEvaluation(str(tmp_path / "problems.jsonl"), every=2)
    return post.grpo_config(evaluation=evaluation, minibatches=2)


def told_in_block(number, work):
    """(versions of the blocks that work() samples, step that it leaves at) where SIGTERM comes in
    the engine's block of that number.
    """
    blocks, step = [], Engine.step

    def counted(engine):
        blocks.append(engine.version)
        if len(blocks) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        step(engine)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", counted)
        try:
            work()
        except Stopped as stopped:
            return blocks, stopped.step
    return blocks, None


def samples(work):
    files = [*work.glob("samples/*"), work / "evaluation.jsonl"]
    return {file.name: file.read_text() for file in files}


def test_rollouts_and_evaluations_are_left_within_a_block(config, tmp_path):
    straight, work = tmp_path / "straight", tmp_path / "run"
    # 2 steps a phase: measured (0), sampled (0), measured (2), sampled (2), measured (4)
    versions, _ = told_in_block(0, lambda: grpo.run(config, str(straight)))
    first = {version: versions.index(version) + 1 for version in (0, 2, 4)}
    sampled = max(n for n, version in enumerate(versions, 1) if version == 2)
    wanted = load_params(straight)
    for number, (block, step) in enumerate({first[2]: 2, sampled: 2, first[4]: 4}.items()):
        place = work.with_name(f"run{number}")
        blocks, stopped = told_in_block(block, partial(grpo.run, config, str(place)))
        assert len(blocks) == block and stopped == step
        assert steps_in(place / "checkpoints")[-1] == step
        grpo.run(config, str(place))
        post.assert_same_trees(load_params(place), wanted)
        assert samples(place) == samples(straight)
        scores = [r["eval/score"] for r in post.records(place) if "eval/score" in r]
        assert scores == [r["eval/score"] for r in post.records(straight) if "eval/score" in r]


def test_before_the_first_step_there_is_nothing_to_save(config, tmp_path):
    config = dataclasses.replace(config, evaluation=ProblemEvaluation())
    blocks, stopped = told_in_block(2, lambda: grpo.run(config, str(tmp_path / "run")))
    assert len(blocks) == 2 and stopped == 0
    assert steps_in(tmp_path / "run" / "checkpoints") == []


@pytest.mark.slow
def test_held_out_sets_are_left_after_a_batch_and_measured_by_the_next_start(tmp_path, monkeypatch):
    settings = toy_pretraining.config(tmp_path / "corpora")
    stages = [dataclasses.replace(stage, steps=2) for stage in settings.stages[:2]]
    config = dataclasses.replace(settings, stages=tuple(stages))
    straight, work = tmp_path / "straight", tmp_path / "run"
    pretrain.run(config, str(straight))
    calls, sums = [], HeldOut._bucket_sums

    def told(*arguments):
        calls.append(1)
        if len(calls) == 2:  # before and after the first stage, on one set each
            os.kill(os.getpid(), signal.SIGTERM)
        hosts.alive()
        return sums(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "_bucket_sums", told)
        with pytest.raises(Stopped) as stopped:
            pretrain.run(config, str(work))
    assert stopped.value.step == 2 and steps_in(work / "checkpoints") == [2]
    pretrain.run(config, str(work))
    post.assert_same_trees(load_params(work), load_params(straight))
    assert (work / "evaluation.json").read_text() == (straight / "evaluation.json").read_text()
    assert post.records(work) == post.records(straight)


def test_an_import_is_left_between_two_layers(tmp_path, monkeypatch):
    """On several hosts, that is, where a signal does not end the process at once."""
    calls = []

    def told():
        calls.append(1)
        if len(calls) == 3:
            raise Stopped

    post.save_hf(tmp_path / "hf", post.model())
    monkeypatch.setattr(hosts, "between_blocks", [told])
    with pytest.raises(Stopped):
        start.parameters(str(tmp_path / "hf"), post.model(), make_mesh(post.ONE, jax.devices()[:1]))
    assert len(calls) == 3
