"""Rewards by rule, judge and reward model; decoupled advantages; bands; shares of reasoning."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.requests import Completion, Request
from qwen3.rewards import Problem, response
from qwen3.rewards.answers import ScoredAnswer
from qwen3.rewards.judge import Judge
from qwen3.rewards.judge_backends import JudgeSettings
from qwen3.stages import grpo, judges, reward_kinds
from qwen3.stages.curriculum import Curriculum, DifficultyBands
from qwen3.stages.groups import Scoring, learnable, set_advantages
from qwen3.stages.prompts import Prompts, Share
from qwen3.stages.reward_kinds import (
    FamilyReward,
    RewardKinds,
    by_reward_model,
    kind_metrics,
    warn_of_disagreement,
)
from qwen3.stages.rollout_metrics import rollout_metrics
from qwen3.stages.rollouts import Rollout
from qwen3.stages.stored_rollouts import pack, restore, unpack

MODEL, JUDGE = "reward_model", "judge"


def rollout(prompt, score, family="planted_style", text="red", tokens=4, **record):
    request = Request([1, 2], prompt_id=prompt)
    ids = list(range(tokens))
    completion = Completion(request, ids, log_probs=[0.0] * tokens, forced=[False] * tokens)
    completion.finish, completion.versions = "stop", [0] * tokens
    problem = Problem(family, [{"role": "user", "content": "Which?"}], record)
    return Rollout(ScoredAnswer(problem, completion, text, score))


def scored(prompt, rule, model, **changes):
    made = rollout(prompt, rule, **changes)
    made.scores, made.mean_score = {"rule": rule, MODEL: model}, model
    return made


def fixed(*values):
    """A scorer that gives these scores, whatever the answers are."""
    return lambda answers: list(values[: len(answers)])


def test_each_family_is_rewarded_by_its_kinds_and_the_rule_is_kept_as_the_truth():
    rollouts = [
        rollout(0, 1.0, "maths"),
        rollout(1, 0.0),
        rollout(2, 0.5, "format"),
        rollout(3, None, ""),
    ]
    table = (
        FamilyReward("planted_style", (MODEL,)),
        FamilyReward("format", ("rule", JUDGE), (3.0, 1.0)),
        FamilyReward("", (MODEL,)),
    )
    RewardKinds(table, {JUDGE: fixed(1.0), MODEL: fixed(0.75, 0.25)})(rollouts)
    assert [r.score for r in rollouts] == [1.0, 0.75, 0.625, 0.25]
    assert [r.scores for r in rollouts] == [
        {"rule": 1.0},
        {"rule": 0.0, MODEL: 0.75},
        {"rule": 0.5, JUDGE: 1.0},
        {"rule": None, MODEL: 0.25},
    ]
    stored = restore(json.loads(json.dumps(unpack(pack(rollouts[2])))))
    assert stored.scores == rollouts[2].scores and stored.score == 0.625


def test_a_kind_without_verdict_leaves_the_answer_out():
    rollouts = [rollout(0, 1.0), rollout(0, 0.0), rollout(0, 0.0)]
    RewardKinds((FamilyReward("planted_style", ("rule", JUDGE)),), {JUDGE: fixed(None, 1.0, 0.0)})(
        rollouts
    )
    groups, flat = learnable(rollouts, Scoring(), 8)
    assert [len(group) for group in groups] == [2] and rollouts[0].reward is None
    assert not flat.total()


def test_the_gap_between_a_score_and_the_truth_is_in_the_metrics():
    rollouts = [
        scored(0, 1.0, 0.9),
        scored(0, 0.0, 0.7),
        scored(1, 0.0, 0.8),
        scored(1, 1.0, 0.6),
        scored(1, 0.0, 0.6),
        scored(2, None, None),
    ]
    name = f"{MODEL}/planted_style"
    assert kind_metrics(rollouts) == pytest.approx(
        {
            f"kind/{MODEL}/no_verdict": 1 / 6,
            f"kind/{name}": 0.72,
            f"gap/{name}": 0.72 - 0.4,
            f"agreement/{name}": 0.5,  # right, wrong, equal
        }
    )
    assert kind_metrics([rollout(0, 1.0)]) == {}


@pytest.mark.parametrize(("least", "warned"), [(0.6, True), (0.5, False)])
def test_scores_against_the_rules_order_are_warned_of(caplog, least, warned):
    rollouts = [scored(0, 1.0, 0.9), scored(0, 0.0, 0.7), scored(1, 0.0, 0.8), scored(1, 1.0, 0.6)]
    warn_of_disagreement(kind_metrics(rollouts), least)
    line = f"{MODEL} puts 50% of the pairs of answers to planted_style in the rule's order"
    assert (line in caplog.text) == warned


# --- advantages -----------------------------------------------------------------------------------
def advantages(rollouts, scoring, table=()):
    groups, _ = learnable(rollouts, scoring, 10, table)
    set_advantages(groups, scoring, 10, table)
    return [r.advantage for r in rollouts]


TWO = (FamilyReward("planted_style", ("rule", MODEL)),)


def with_scores(prompt, rule, model, **changes):
    made = scored(prompt, rule, model, **changes)
    made.mean_score = (rule + model) / 2
    return made


def test_decoupled_rewards_are_normalised_one_by_one():
    pairs = [(1.0, 0.0), (0.0, 0.1), (0.0, 0.0), (0.0, 0.1)]
    rollouts = [with_scores(0, *pair) for pair in pairs]
    rule, model = (np.array(column) for column in zip(*pairs, strict=True))
    parts = [(x - x.mean()) / x.std() for x in (rule, model)]
    want = 0.5 * parts[0] + 0.5 * parts[1]
    np.testing.assert_allclose(
        advantages(rollouts, Scoring(scale="none", decoupled=True), TWO), want, rtol=1e-12
    )
    batch = advantages(rollouts, Scoring(decoupled=True), TWO)
    np.testing.assert_allclose(batch, want / np.sqrt(np.mean(want**2)), rtol=1e-12)
    added = advantages(rollouts, Scoring(scale="none"), TWO)
    np.testing.assert_allclose(added, (rule + model) / 2 - np.mean(rule + model) / 2)


def test_a_group_with_one_mean_and_different_parts_teaches_only_where_decoupled():
    rollouts = [with_scores(0, *pair) for pair in [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5)]]
    assert learnable(rollouts, Scoring(), 10, TWO)[0] == []
    assert len(learnable(rollouts, Scoring(decoupled=True), 10, TWO)[0]) == 1


def test_form_and_length_are_parts_too():
    rollouts = [
        with_scores(0, 1.0, 1.0, tokens=10),
        with_scores(0, 0.0, 1.0, tokens=2),
        with_scores(0, 0.0, 0.0, text="<think>", tokens=2),
    ]
    scoring = Scoring(scale="none", decoupled=True, form=0.25, overlong=4)

    def part(*values):
        return (np.array(values) - np.mean(values)) / np.std(values)

    want = 0.375 * part(1, 0, 0) + 0.375 * part(1, 1, 0) + 0.25 * part(1, 1, 0) + part(-1, 0, 0)
    np.testing.assert_allclose(advantages(rollouts, scoring, TWO), want)


def test_the_advantages_of_a_family_have_one_size_whatever_its_rewards_are():
    loud = [rollout(0, score, "maths") for score in (0.0, 1.0)]
    quiet = [rollout(1, score, "format") for score in (0.5, 0.6)]
    np.testing.assert_allclose(advantages([*loud, *quiet], Scoring(scale="family")), [-1, 1, -1, 1])
    together = advantages([*loud, *quiet], Scoring(scale="batch"))
    assert together[1] > 5 * together[3] > 0


def test_decoupling_is_refused_with_a_scale_it_does_already():
    with pytest.raises(ValueError, match="scale 'group' is none"):
        Scoring(scale="group", decoupled=True)


# --- the scorers ----------------------------------------------------------------------------------
def test_a_reward_model_reads_answers_without_thoughts_and_none_malformed_or_cut():
    asked = []

    def scores(conversations, tools):
        asked.extend(conversations)
        return [0.0, None][: len(conversations)]

    texts = ["<think>\nhm\n</think>\n\nred", "<think>red", "", "blue"]
    answers = [rollout(0, None, text=text).answer for text in texts]
    cut = rollout(0, None, text="green").answer
    cut.completion.finish = "length"
    answers.append(cut)
    assert by_reward_model(SimpleNamespace(scores=scores))(answers) == [0.5, 0.0, 0.0, None, 0.0]
    assert [messages[-1]["content"] for messages in asked] == ["red", "blue"]


def test_a_judge_is_given_question_answer_reference_and_rubric():
    answers = [
        rollout(0, None, text="<think>\nhm\n</think>\n\nIt is red", gold="red").answer,
        rollout(0, None, text="It is red", rubric="It rhymes.").answer,
    ]
    first, second = map(judges.case_of, answers)
    assert (first.question, first.answer, first.reference) == ("Which?", "It is red", "red")
    assert (second.reference, second.rubric) == (None, "It rhymes.")
    silent = Judge(lambda conversations: [None] * len(conversations))
    malformed = rollout(0, None, text="<think>").answer
    assert judges.by_judge(silent)([*answers, malformed]) == [None, None, 0.0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"rewards": (FamilyReward("x", (MODEL,)),)}, "`reward_model` is not set"),
        ({"reward_model": "runs/x"}, "`reward_model` is set: both or none"),
        ({"judge": JudgeSettings(model="x")}, "`judge` is set: both or none"),
        ({"rewards": (FamilyReward("x"), FamilyReward("x"))}, "'x' has two rows"),
    ],
)
def test_kinds_of_reward_and_their_models_go_together(changes, message):
    with pytest.raises(ValueError, match=message):
        post.grpo_config(**changes)


@pytest.mark.parametrize(
    "kinds, weights, message",
    [
        (("rules",), (), "choose from"),
        ((), (), "choose from"),
        (("rule", "rule"), (), "choose from"),
        (("rule",), (1.0, 2.0), "weights"),
        (("rule",), (0.0,), "above 0"),
    ],
)
def test_rows_of_rewards_that_cannot_be_are_refused(kinds, weights, message):
    with pytest.raises(ValueError, match=message):
        FamilyReward("x", kinds, weights)


# --- difficulty and mixture -----------------------------------------------------------------------
def test_bands_follow_the_pass_rate_within_the_shares_range():
    bands = DifficultyBands(Curriculum(step=0.25, width=0.5, low=0.2, high=0.8))
    assert bands.range("lock", (0.2, 0.6)) == (0.2, 0.4)
    good = [rollout(0, 1.0, "lock"), rollout(1, 0.9, "lock"), rollout(2, 0.5, "maths")]
    for _ in range(4):
        metrics = bands.update(good)
    assert metrics == {"band/lock": 0.5, "band/maths": 0.0}
    assert bands.range("lock", (0.2, 0.6)) == pytest.approx((0.4, 0.6))
    again = DifficultyBands(Curriculum(step=0.25, width=0.5, low=0.2, high=0.8))
    again.restore(json.loads(json.dumps(bands.state())))
    again.update([rollout(0, 0.0, "lock"), rollout(0, None, "lock")])
    assert again.state()["lock"] == 0.25


def test_without_a_step_bands_are_the_whole_range_and_stand_still():
    bands = DifficultyBands(Curriculum())
    assert bands.update([rollout(0, 1.0)]) == {} == bands.state()
    assert bands.range("lock", (0.0, 1.0)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="low is below high"):
        Curriculum(low=0.9, high=0.1)


def test_half_of_every_batch_is_reasoning_and_problems_are_drawn_from_the_band():
    tokenizer = Tokenizer.load(post.tokenizer_folder())
    shares = (Share("lock", 1.0), Share("length_control", 9.0))
    assert rewards.get("lock").group == "reasoning" != rewards.get("length_control").group
    prompts = Prompts(
        shares, tokenizer, seed=3, reasoning=0.5, band=lambda family, whole: (0.25, 0.25)
    )
    problems = [prompts[i].problem for i in range(12)]
    for first in range(8):
        tasks = [problem.task for problem in problems[first : first + 4]]
        assert tasks.count("lock") == 2
    assert all(problem.difficulty == 0.25 for problem in problems if problem.task == "lock")
    with pytest.raises(ValueError, match="1 of reasoning and 0 others"):
        Prompts(shares[:1], tokenizer, seed=3, reasoning=0.5)
    with pytest.raises(ValueError, match="reasoning 1.0"):
        Prompts(shares, tokenizer, seed=3, reasoning=1.0)


def test_metrics_tell_families_and_the_reports_groups_apart():
    rollouts = [
        rollout(0, 1.0, "lock"),
        rollout(0, 0.0, "lock"),
        rollout(1, 0.5, "length_control", tokens=8),
        rollout(1, 0.5, "length_control", tokens=8),
        rollout(2, 1.0, "constraints"),
    ]
    metrics = rollout_metrics(rollouts)
    assert metrics["group/reasoning"] == 0.5 and metrics["group/instruction"] == 0.75
    assert metrics["flat/length_control"] == 1.0 and metrics["flat/lock"] == 0.0
    assert metrics["tokens/length_control"] == 8.0
    assert not any(name.startswith("group/") for name in rollout_metrics(rollouts[:2]))


# --- a run ----------------------------------------------------------------------------------------
def test_a_run_learns_from_a_reward_model_alone_and_writes_what_it_said(
    monkeypatch, tmp_path, caplog
):
    """The reward model is a table: it likes the letter e, as the rule does."""
    post.one_device(monkeypatch, grpo)
    # A model that knows nothing hardly ever ends an answer, and a cut one would score 0.
    monkeypatch.setattr(ScoredAnswer, "truncated", property(lambda answer: False))
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)

    def load(name, *place, **execution):
        def scores(conversations, tools):
            return [4.0 * (m[-1]["content"].count("e") > 0) - 2.0 for m in conversations]

        assert name == "runs/likes_e"
        return SimpleNamespace(scores=scores)

    monkeypatch.setattr(grpo.RewardModel, "load", load)
    config = post.grpo_config(
        steps=2,
        rewards=(FamilyReward("letters", (MODEL,)),),
        reward_model="runs/likes_e",
        scoring=Scoring(scale="family"),
        curriculum=Curriculum(step=0.5),
        alarms=grpo.Alarms(agreement=1.01),  # above what any reward model reaches
    )
    grpo.run(config, tmp_path / "run")
    assert "answers to letters in the rule's order (alarms.agreement is 1.01" in caplog.text
    first = post.records(tmp_path / "run")[0]
    assert {f"gap/{MODEL}/letters", f"kind/{MODEL}/letters", "band/letters"} <= set(first)
    lines = (tmp_path / "run" / "samples" / "000000.jsonl").read_text().splitlines()
    sample = json.loads(lines[0])
    assert {"prompt", "answer", "score", "scores", "reward", "advantage"} <= set(sample)
    for line in map(json.loads, lines[:-1]):
        if line["scores"][MODEL]:
            turn = response.read(line["answer"])
            assert (line["scores"][MODEL] > 0.5) == ("e" in turn.answer)


def test_a_judge_that_is_down_ends_a_run_before_anything_is_sampled(monkeypatch, tmp_path):
    post.one_device(monkeypatch, grpo)
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)
    config = post.grpo_config(
        rewards=(FamilyReward("letters", (JUDGE,)),),
        judge=JudgeSettings("http://127.0.0.1:9/v1", "m", retries=0),
    )
    with pytest.raises(ValueError, match=r"cannot reward a run.*scored nothing \(down\)"):
        grpo.run(config, tmp_path / "run")
    assert not list((tmp_path / "run" / "samples").glob("*"))
    assert replace(config.judge, url="").off is False and reward_kinds.KINDS[0] == "rule"
