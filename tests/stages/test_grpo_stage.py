import json
import logging
from dataclasses import replace

import jax
import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.config import override
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.losses.grpo_config import Grpo, preset
from qwen3.rewards import NoVerdict
from qwen3.stages import groups, grpo
from qwen3.stages.entropy import EntropyControl, EntropyTarget
from qwen3.stages.groups import Groups, NothingToLearn, Refill, Scoring
from qwen3.stages.prompts import Prompts, Share
from qwen3.stages.rollouts import Rollout, Sampling
from qwen3.train.loop import Stopped


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


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
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        chosen = config(sampling=Sampling(samples=8, max_tokens=6, slots=8))
        for change in changes:
            chosen = override(chosen, [change])


# Prompts.


def test_prompts_are_a_function_of_seed_and_number(tokenizer):
    shares = (Share("lock", 3.0, (0.0, 0.4), ("think", "no_think")), Share("countdown", 1.0))
    one, same, other = (Prompts(shares, tokenizer, seed=s) for s in (1, 1, 2))
    drawn = [one[i] for i in range(200)]
    assert drawn == [same[i] for i in range(200)] != [other[i] for i in range(200)]
    names = [each.problem.task for each in drawn]
    assert 120 < names.count("lock") < 180
    locks = [each for each in drawn if each.problem.task == "lock"]
    assert 0.3 < np.mean([each.mode for each in locks]) < 0.7
    assert max(each.problem.difficulty for each in locks) <= 0.4
    assert len({each.ids for each in drawn}) > 190
    assert tokenizer.decode(one[0].ids).endswith("<|im_start|>assistant\n")


def test_a_file_of_problems_is_gone_through_once_before_any_comes_again(tokenizer):
    problems = [post.lock(seed) for seed in range(7)]
    prompts = Prompts((Share("file"),), tokenizer, seed=0, problems=problems)
    epochs = [[prompts[e * 7 + i].problem for i in range(7)] for e in range(2)]
    for epoch in epochs:
        assert sorted(map(repr, epoch)) == sorted(map(repr, problems))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    "shares, message",
    [
        ((Share("nonsense"),), "task 'nonsense' does not exist; there are"),
        ((Share("lock", modes=("maybe",)),), "modes \\('maybe',\\) of 'lock'"),
        ((Share("lock", 0.0),), "needs weights above 0"),
        ((Share("lock", difficulty=(0.5, 0.1)),), "no range in 0..1"),
        ((Share("file"),), '"file" is the name of their share'),
    ],
)
def test_mixtures_that_cannot_be_drawn_are_refused(tokenizer, shares, message):
    with pytest.raises(ValueError, match=message):
        Prompts(shares, tokenizer, seed=0)


# Groups, with a sampler that is a table: prompt number -> letter of each sample.


CENTRED = Scoring(scale="none")


class Table:
    """Rollouts whose answers are the table's; records which prompts were asked for."""

    def __init__(self, tokenizer, rows, finish="stop"):
        self._tokenizer, self._rows, self._finish, self.asked = tokenizer, rows, finish, []

    def __call__(self, prompts):
        found = []
        for prompt in prompts:
            self.asked.append(prompt.number)
            for sample, text in enumerate(self._rows[prompt.number]):
                ids = self._tokenizer.encode(text)
                many = len(ids)
                found.append(
                    Rollout(
                        prompt.number,
                        sample,
                        1,
                        [*prompt.ids, *ids],
                        len(prompt.ids),
                        [-1.0] * many,
                        [False] * many,
                        0,
                        self._finish,
                        "letters",
                    )
                )
        return found


def choosing(tokenizer, scoring=CENTRED, wanted=2, least=1, **refill):
    prompts = Prompts((Share("letters"),), tokenizer, seed=0)
    refill = Refill(**{"oversample": 1.0, "rounds": 3, **refill})
    return Groups(prompts, tokenizer, scoring, refill, wanted=wanted, least=least, limit=8)


def test_groups_without_spread_are_refilled_and_surplus_is_carried(tokenizer):
    rows = [["e", "e"], ["x", "x"], ["ee", "x"], ["ee", "x"], ["x", "ee"], ["ee", "x"]]
    table = Table(tokenizer, rows)
    collect = choosing(tokenizer, oversample=1.5)
    chosen, records, metrics = collect.choose(table)
    assert [group[0].prompt for group in chosen] == [2, 3] and table.asked == [0, 1, 2, 3, 4]
    assert collect.memory["next"] == 5 and len(collect.memory["carry"]) == 1
    assert (metrics["groups_all_low"], metrics["groups_all_high"]) == (1 / 5, 1 / 5)
    assert metrics["refill"] == 2.5 and len(records) == 10
    assert [each.advantage for each in chosen[0]] == [0.5, -0.5]
    stored = json.loads(json.dumps(collect.memory))
    again = choosing(tokenizer)
    again.memory = stored
    chosen, _, metrics = again.choose(table)
    assert [group[0].prompt for group in chosen] == [4, 5] and metrics["carried_in"] == 1


def test_nothing_to_learn_is_an_error_that_says_why(tokenizer):
    with pytest.raises(NothingToLearn, match="6 prompts gave 0 groups.*low in 6 groups"):
        choosing(tokenizer).choose(Table(tokenizer, [["x", "x"]] * 6))


def test_fewer_groups_than_wanted_are_reported_and_used(tokenizer, caplog):
    rows = [["ee", "x"], *[["x", "x"]] * 3]
    chosen, _, _ = choosing(tokenizer).choose(Table(tokenizer, rows))
    assert len(chosen) == 1 and "1 groups instead of 2 after 3 rounds" in caplog.text
    caplog.clear()
    chosen, _, _ = choosing(tokenizer, rounds=1).choose(Table(tokenizer, rows))
    assert len(chosen) == 1 and not caplog.text  # as it was to be


def test_answers_without_a_verdict_are_left_out_not_zero(tokenizer):
    rows = [["ee", "?", "x"], ["ee", "?", "ee"], ["?", "?", "?"], ["x", "x", "ee"]]
    chosen, records, metrics = choosing(tokenizer).choose(Table(tokenizer, rows))
    assert [[each.reward for each in group] for group in chosen] == [[1, 0], [0, 0, 1]]
    assert metrics["no_verdict"] == pytest.approx(5 / 12)
    assert [each["reward"] for each in records[:3]] == [1, None, 0]


def test_rewards_binarise_first_and_long_answers_cost_by_tokens():
    plain = Scoring()
    assert plain.reward(0.4, 5, 10) == 0.4 and plain.reward(None, 5, 10) is None
    assert [Scoring(binarise=0.5).reward(x, 5, 10) for x in (0.4, 0.5, 1.0)] == [0, 1, 1]
    soft = Scoring(binarise=0.5, overlong=4)
    assert [soft.reward(0.6, n, 10) for n in (6, 7, 8, 10)] == [1, 0.75, 0.5, 0]
    with pytest.raises(ValueError, match="'sum' is not one of none, group, batch"):
        Scoring(scale="sum")


def test_form_is_paid_for_in_part_where_a_mode_is_asked_for(tokenizer):
    part = Scoring(form=0.4)
    assert [part.reward(x, 5, 10, formed=True) for x in (0, 0.5, 1)] == pytest.approx([0.4, 0.7, 1])
    assert part.reward(0.0, 5, 10) == 0.0 and part.reward(None, 5, 10, formed=True) is None
    with pytest.raises(ValueError, match="form 1 is a share of the reward"):
        Scoring(form=1)
    # Both answers are wrong, but one has no form at all: a group with something to teach.
    wrong = Table(tokenizer, [["x", "<think>"]] * 6)
    with pytest.raises(NothingToLearn):
        choosing(tokenizer).choose(wrong)
    chosen, _, metrics = choosing(tokenizer, Scoring("none", form=0.4)).choose(wrong)
    assert [each.reward for each in chosen[0]] == [0.4, 0.0] and metrics["score"] == 0.0


def test_scales_of_the_advantages(tokenizer):
    rows = [["ee", "x"], ["ee", "e"]]  # rewards 1, 0 and 1, .5
    found = {}
    for scale in ("none", "group", "batch"):
        chosen, _, _ = choosing(tokenizer, Scoring(scale=scale)).choose(Table(tokenizer, rows))
        found[scale] = [each.advantage for group in chosen for each in group]
    assert found["none"] == [0.5, -0.5, 0.25, -0.25]
    assert found["group"] == [1, -1, 1, -1]
    np.testing.assert_allclose(found["batch"], np.array(found["none"]) / np.sqrt(0.15625))


def test_truncated_answers_count_but_may_be_left_untrained(tokenizer):
    table = Table(tokenizer, [["ee", "x"]] * 2, finish="length")
    chosen, _, metrics = choosing(tokenizer).choose(table)
    assert len(chosen) == 2 and metrics["truncated"] == 1.0
    skipping = Scoring(scale="none", skip_truncated=True)
    with pytest.raises(RuntimeError, match="all answers of 2 groups were cut"):
        choosing(tokenizer, skipping).choose(table)


def test_metrics_of_rollouts_count_copies_loops_and_malformed_turns(tokenizer):
    table = Table(tokenizer, [["ee", "ee", "<think>", "e " * 30]] * 2)
    _, _, metrics = choosing(tokenizer).choose(table)
    assert metrics["duplicates"] == 1 / 4
    assert metrics["malformed"] == 1 / 4 and metrics["repeated"] == 1 / 4
    assert metrics["pass_at_1"] == 3 / 4 and metrics["pass_at_group"] == 1.0
    assert metrics["finish/stop"] == 1.0 and metrics["answer_tokens_max"] > 20


def test_repeats_need_eight_words():
    assert groups.repeats("a b c d e f g h " * 4)
    assert not groups.repeats("a a a a") and not groups.repeats("one two three four five six")


# The entropy controller.


@pytest.mark.parametrize("natural", [0.3, 1.4])
def test_the_controller_brings_a_toy_policy_to_its_target_from_below_and_above(natural):
    """Entropy drifts to `natural`; a bonus pushes up, and so does it drift down without."""
    control = EntropyControl(
        EntropyTarget(0.8, 1.0, relative=False, change=0.01, most=1.0), steps=400
    )
    entropy, seen = natural, []
    for step in range(1, 401):
        entropy += 0.3 * control.coefficient - 0.02 * (entropy - 0.3)
        control.update(step, entropy)
        seen.append(entropy)
        if step == 200:
            control = EntropyControl(control._config, 400, json.loads(json.dumps(control.state())))
    assert np.mean(seen[-50:]) == pytest.approx(1.0, abs=0.1)
    assert np.mean(seen[150:200]) == pytest.approx(0.89, abs=0.1)


def test_a_relative_target_is_a_multiple_of_the_first_entropy_and_the_bonus_stops_above():
    control = EntropyControl(EntropyTarget(1.0, 1.5, change=0.1), steps=10)
    control.update(1, 2.0)
    assert control.target(10) == 3.0 and control.coefficient == 0.05  # its upper end
    control.update(2, 9.0)
    assert control.coefficient == 0.0
    with pytest.raises(ValueError, match="must be above 0"):
        EntropyTarget(change=0.0)


def test_no_verdict_is_what_the_toy_task_raises():
    with pytest.raises(NoVerdict):
        post.letters.verdict("?")
