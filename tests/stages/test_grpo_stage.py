"""Whole runs of GRPO with a very small model."""

import json
import logging
from dataclasses import replace

import jax
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.config import override
from qwen3.curate.files import write_problems
from qwen3.infer.engine import Engine
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.rewards import Problem
from qwen3.stages import grpo
from qwen3.stages.entropy import EntropyTarget
from qwen3.stages.groups import NothingToLearn, Refill
from qwen3.stages.prompts import Share
from qwen3.stages.rollouts import Sampling
from qwen3.train.loop import Stopped


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)


def config(**changes):
    return post.grpo_config(**changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(config, workdir, last state) of a run that the tests below share with its programs."""
    chosen = post.grpo_config(
        steps=24,
        minibatches=2,
        policy=Grpo(entropy=True),
        refill=Refill(oversample=1.5),
        entropy=EntropyTarget(change=1e-4),
        optim=replace(post.CONSTANT, peak=1e-2),
        prompts=8,
    )
    work = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        post.one_device(patch, grpo)
        patch.setitem(rewards.TASKS, "letters", post.letters)
        return chosen, work, grpo.run(chosen, work)


def test_the_policy_learns_a_bandit_like_task(whole):
    scores = [line["score"] for line in post.records(whole[1]) if "score" in line]
    assert np.mean(scores[:2]) < 0.5 and np.mean(scores[-2:]) > np.mean(scores[:2]) + 0.2


def test_a_run_stopped_within_a_phase_goes_on_bitwise_and_trains_no_prompt_twice(whole, tmp_path):
    chosen, work, last = whole
    with post.stopping_at(3), pytest.raises(Stopped):
        grpo.run(chosen, tmp_path / "again")
    again = grpo.run(chosen, tmp_path / "again")
    post.assert_same_trees(last, again)
    assert post.records(work) == post.records(tmp_path / "again")
    trained = [post.trained(folder) for folder in (work, tmp_path / "again")]
    assert trained[0] == trained[1]
    numbers = sum(trained[0], [])
    assert len(set(numbers)) == len(numbers) >= 80
    assert any(line.get("carried_in") for line in post.records(work))


@pytest.fixture(scope="module")
def paged(whole, tmp_path_factory):
    """(config, workdir, last state) of the first two phases of `whole`, sampled from pages, with
    fewer places than the answers of all slots take.
    """
    sampling = replace(whole[0].sampling, cache="paged", cache_tokens=8 * 33)
    chosen, work = replace(whole[0], sampling=sampling, steps=4), tmp_path_factory.mktemp("paged")
    with pytest.MonkeyPatch.context() as patch:
        post.one_device(patch, grpo)
        patch.setitem(rewards.TASKS, "letters", post.letters)
        return chosen, work, grpo.run(chosen, work)


def test_a_paged_cache_samples_what_rows_do(whole, paged):
    """Log-probabilities differ in their last bits only: the second phase has the same ids too."""
    for step in (0, 2):
        rows, pages = ((run[1] / f"samples/{step:06d}.jsonl").read_text() for run in (whole, paged))
        assert rows == pages
    for rows, pages in zip(post.records(whole[1]), post.records(paged[1]), strict=False):
        assert pages["loss"] == pytest.approx(rows["loss"], abs=1e-4)
        assert pages.get("sync_max", 0) < 1e-4


def test_a_run_that_samples_from_pages_goes_on_bitwise(paged, tmp_path):
    chosen, work, last = paged
    with post.stopping_at(3), pytest.raises(Stopped):
        grpo.run(chosen, tmp_path / "again")
    post.assert_same_trees(last, grpo.run(chosen, tmp_path / "again"))
    assert post.records(work) == post.records(tmp_path / "again")
    assert post.trained(work) == post.trained(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["rows", "paged"])
@pytest.mark.parametrize(
    "run", [{"cache_dtype": "bfloat16"}, {"cache_dtype": "int8"}, {"weights": "int8"}]
)
def test_what_a_sampler_of_other_numerics_does_is_corrected_for(whole, tmp_path, run, cache):
    sampling = replace(whole[0].sampling, cache=cache)
    grpo.run(replace(whole[0], sampling=sampling, rollout_execution=run, steps=2), tmp_path)
    exact, half = post.records(whole[1])[0], post.records(tmp_path)[0]
    assert exact["sync_max"] < 1e-4 < half["sync_max"] < 0.1
    assert exact["correction"] == 1.0 != half["correction"] == pytest.approx(1.0, abs=0.02)
    assert half["loss"] == pytest.approx(exact["loss"], abs=0.02)


def test_sampler_and_trainer_agree_and_the_ratio_starts_at_one(whole):
    first, second = post.records(whole[1])[:2]
    assert first["sync_max"] < 1e-4 and first["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert first["drift_k3"] < 1e-9 < second["drift_k3"]  # off-policy in the second half


def test_a_sampler_with_other_weights_stops_the_run(whole, tmp_path, monkeypatch):
    def scaled(self, model, params, **options):
        init(self, model, jax.tree.map(lambda x: x * 3, params), **options)

    init = Engine.__init__
    monkeypatch.setattr(Engine, "__init__", scaled)
    with pytest.raises(RuntimeError, match="does not run the trainer's weights"):
        grpo.run(replace(whole[0], alarms=grpo.Alarms(mismatch=0.05)), tmp_path / "run")


def test_truncated_answers_raise_the_alarm(whole, tmp_path, caplog):
    with caplog.at_level(logging.ERROR, "qwen3"), post.stopping_at(1), pytest.raises(Stopped):
        grpo.run(replace(whole[0], alarms=grpo.Alarms(truncated=0.01)), tmp_path / "run")
    assert "answers were cut at 6 tokens" in caplog.text


@pytest.mark.slow
def test_a_mixture_in_both_modes_with_a_reference_runs_and_reports_each(tmp_path):
    first = config(steps=1)
    grpo.run(first, tmp_path / "first")
    both = config(
        steps=1,
        name="general_rl",
        init_from=str(tmp_path / "first"),
        tasks=(Share("letters", 2.0), Share("letters", 1.0, modes=("no_think",))),
        prompts=8,
        policy=preset("gspo", kl="k2", kl_coef=0.1),
        reference=str(tmp_path / "first"),
    )
    grpo.run(both, tmp_path / "run")
    [line] = post.records(tmp_path / "run")
    assert {"score/think", "score/no_think", "score/letters", "entropy/think"} <= set(line)
    assert line["reference_k3"] == pytest.approx(0, abs=1e-6) and line["stage"] == "general_rl"


@pytest.mark.parametrize(
    "changes, message",
    [
        (["prompts=5", "minibatches=2"], "5 prompts a phase do not divide into 2"),
        (["sampling.samples=1"], "a group of 1 sample"),
        (["policy.entropy=true"], "both or none"),
        (["reference=x"], "policy.kl 'none' with reference 'x'"),
        (["scoring.overlong=99"], "99 tokens are more than max_tokens"),
        (["sampling.cache=blocks"], "sampling.cache 'blocks': wanted one of rows, paged"),
        (
            ["sampling.cache=paged", "server.weights=w", "server.url=http://x"],
            "cache='paged'.* needs the own engine",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        chosen = config(sampling=Sampling(samples=8, max_tokens=6, slots=8))
        for change in changes:
            chosen = override(chosen, [change])


# What is refused or written before it is too late.


def test_problems_without_a_task_are_refused_before_any_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "__init__", None)  # no engine may be made
    write_problems(tmp_path / "bare.jsonl", [Problem("", post.lock(0).messages, {})])
    bare = config(tasks=(Share("file"),), problems=str(tmp_path / "bare.jsonl"), length=200)
    with pytest.raises(ValueError, match="bare.jsonl: 1 of 1 problems have no task"):
        grpo.run(bare, tmp_path / "run")


@pytest.mark.parametrize("too_long", ["error", "drop"])
def test_a_problem_that_leaves_no_room_ends_no_run(tmp_path, too_long, caplog):
    """It is named when the run begins; left out, the run goes to its end."""
    problems = [post.letters.generate(i) for i in range(3)]
    problems.append(Problem("letters", [{"role": "user", "content": "q" * 40}], {}))
    write_problems(tmp_path / "some.jsonl", problems)
    chosen = config(
        tasks=(Share("file"),),
        problems=str(tmp_path / "some.jsonl"),
        too_long=too_long,
        steps=2,
        refill=Refill(1.0, 1),
    )
    if too_long == "error":
        with pytest.raises(ValueError, match="1 of 4 problems .* problem 4. Raise the length"):
            grpo.run(chosen, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    else:
        assert int(grpo.run(chosen, tmp_path / "run").step) == 2
        assert "problem 4. They are left out" in caplog.text


def test_answers_are_there_to_be_read_where_nothing_can_be_learnt(tmp_path, monkeypatch):
    monkeypatch.setattr(post.letters, "verdict", lambda text: 0.0)
    with pytest.raises(NothingToLearn, match="8 prompts gave 0 groups"):
        grpo.run(config(refill=Refill(1.0, 2)), tmp_path / "run")
    lines = (tmp_path / "run/samples/000000.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    assert len(lines) == 8 * 8
    assert record["prompt"].startswith("<|im_start|>user\nq") and record["answer"]
    assert record["score"] == record["reward"] == 0.0 and record["advantage"] is None


# What reaches the sampler and the loss.


@pytest.fixture
def spied(monkeypatch):
    """(requests of every phase, batches of every step) of the runs of a test."""
    requests, batches = [], []
    generate, batch = Engine.generate, grpo.RewardedPhase.batch

    def generate_(self, asked):
        requests.append(list(asked))
        return generate(self, asked)

    def batch_(self, part):
        batches.append((list(part), batch(self, part)))
        return batches[-1][1]

    monkeypatch.setattr(Engine, "generate", generate_)
    monkeypatch.setattr(grpo.RewardedPhase, "batch", batch_)
    return requests, batches


def test_forced_tokens_of_a_thinking_budget_have_no_weight_in_the_batch(
    whole, tmp_path, spied, monkeypatch
):
    requests, batches = spied
    # Half of the answers are right, whatever they are: all groups are trained on.
    monkeypatch.setattr(post.letters, "verdict", lambda text: float(len(text) % 2))
    chosen = config(
        tasks=(Share("letters", modes=("think",)),),
        sampling=Sampling(samples=8, max_tokens=160, slots=32, budget=3),
        length=200,
        steps=1,
        refill=Refill(1.0, 1),
        policy=preset("gspo"),  # whose denominator is sequences: tokens are counted all the same
    )
    grpo.run(chosen, tmp_path / "run")
    assert {request.budget for request in requests[0]} == {3}
    assert {request.max_tokens for request in requests[0]} == {160}
    [(part, batch)] = batches
    forced = sum(sum(rollout.completion.forced) for rollout in part)
    sampled = sum(len(rollout.completion.tokens) for rollout in part) - forced
    assert forced > 0 and sampled > 0
    assert np.asarray(batch["weights"]).sum() == sampled
    [line] = post.records(tmp_path / "run")
    assert line["trained_tokens"] == sampled and line["sync_max"] < 1e-4


def test_the_entropy_bonus_of_the_record_is_the_one_of_the_batch(tmp_path, spied):
    target = EntropyTarget(relative=False, start=9.0, end=9.0, change=0.01)  # never reached
    steered = config(policy=Grpo(entropy=True), entropy=target, minibatches=2, prompts=8)
    with post.stopping_at(2), pytest.raises(Stopped):
        grpo.run(steered, tmp_path / "run")
    coefficients = [np.unique(np.asarray(batch["entropy_coef"])) for _, batch in spied[1]]
    assert [c.tolist() for c in coefficients] == [[0.0], [pytest.approx(0.01)]]
    lines = post.records(tmp_path / "run")
    assert [line["entropy_coef"] for line in lines] == [0.0, pytest.approx(0.01)]


def test_the_objective_of_the_settings_reaches_the_loss(tmp_path, monkeypatch):
    chosen = preset("gspo", kl="k2", kl_coef=0.1, old="rollout")
    reference, seen = tmp_path / "reference", []
    post.save_hf(reference, post.model())

    class Reached(Exception):
        pass

    def loss(apply, params, batch, frozen, *, config):
        seen.append((config, set(frozen)))
        raise Reached

    monkeypatch.setattr("qwen3.stages.builders.grpo.policy_gradient", loss)
    monkeypatch.setattr(grpo.RewardedPhase, "_check", lambda *_: {})
    with pytest.raises(Reached):
        grpo.run(config(policy=chosen, reference=str(reference)), tmp_path / "run")
    assert seen == [(chosen, {"reference"})]


def test_staleness_counts_the_steps_since_a_carried_group_was_sampled(whole):
    lines = post.records(whole[1])
    carried = [(a, b) for a, b in zip(lines[::2], lines[2::2], strict=False) if b["carried_in"]]
    assert carried and all(0 < b["staleness"] <= 2 * 8 for _, b in carried)
    assert lines[0]["staleness"] == 0


def test_each_minibatch_has_its_part_of_the_groups(whole):
    """Two steps a phase, eight groups of eight: each prompt is in one step's batch alone."""
    lines = post.records(whole[1])
    phases = [lines[i : i + 2] for i in range(0, len(lines), 2)]
    assert all("groups" in first and "groups" not in second for first, second in phases)
    sums = [first["trained_tokens"] + second["trained_tokens"] for first, second in phases]
    for total, file in zip(sums, sorted((whole[1] / "samples").iterdir()), strict=True):
        *answers, last = map(json.loads, file.read_text().splitlines())
        new = [a["tokens"] for a in answers if a["prompt_id"] in last["trained"]]
        carried = len(last["trained"]) * 8 - len(new)
        assert sum(new) <= total <= sum(new) + 6 * carried and len(last["trained"]) <= 8
        assert carried > 0 or sum(new) == total


def test_tokens_a_second_are_those_that_were_trained_on(whole):
    lines = [json.loads(line) for line in (whole[1] / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        assert line["tokens_per_second"] == pytest.approx(
            line["trained_tokens"] / line["seconds"], rel=1e-4
        )
