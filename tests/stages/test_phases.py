"""Phases without a model: the sampler is a table, prompt number -> the answers it gives."""

import json
from types import SimpleNamespace

import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.requests import Completion, Request
from qwen3.rewards import NoVerdict
from qwen3.rewards.answers import ScoredAnswer, score
from qwen3.stages import grpo, phases, rollout_metrics
from qwen3.stages.groups import NothingToLearn, Refill, Scoring
from qwen3.stages.prompts import Prompts, Share
from qwen3.stages.rollout_metrics import PhaseMetrics
from qwen3.stages.rollouts import Rollout, Sampling, token_sequence
from qwen3.stages.stored_rollouts import pack, restore, unpack

CENTRED = Scoring(scale="none")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setitem(rewards.TASKS, "letters", post.letters)


class Table:
    """Rollouts whose answers are the table's; records which prompts were asked for."""

    def __init__(self, tokenizer, rows, finish="stop"):
        self._tokenizer, self._rows, self._finish, self.asked = tokenizer, rows, finish, []

    def __call__(self, state, prompts):
        self.asked += [prompt.number for prompt in prompts]
        return [
            self.rollout(prompt, number, text, state.steps)
            for prompt in prompts
            for number, text in enumerate(self._rows[prompt.number])
        ]

    def rollout(self, prompt, sample, text, version):
        ids = self._tokenizer.encode(text)
        request = Request(list(prompt.ids), prompt_id=prompt.number, sample=sample)
        completion = Completion(
            request,
            ids,
            log_probs=[-1.0] * len(ids),
            forced=[False] * len(ids),
            versions=[version] * len(ids),
            finish=self._finish,
        )
        (value,) = score([(prompt.problem, text)])
        return Rollout(ScoredAnswer(prompt.problem, completion, text, value))


class Collecting:
    """A `Collect` of GRPO over a table, with the trainer's log-probabilities 0.25 below -1."""

    def __init__(self, tokenizer, table, folder, *, wanted=2, minibatches=1, **changes):
        refill = {"oversample": 1.0, "rounds": 3, **changes.pop("refill", {})}
        config = post.grpo_config(
            prompts=wanted,
            minibatches=minibatches,
            sampling=Sampling(samples=2, max_tokens=8, slots=8),
            **{"scoring": CENTRED, "refill": Refill(**refill), **changes},
        )
        self.folder, self.report = folder, PhaseMetrics(dict)
        self.collect = phases.Collect(
            Prompts((Share("letters"),), tokenizer, seed=0),
            table,
            grpo.RewardedPhase(config, self, None, lambda state: None),
            wanted=wanted,
            least=minibatches,
            tokenizer=tokenizer,
            work=SimpleNamespace(samples=folder),
            report=self.report,
        )

    def values(self, function, params, sequences):
        """In the place of RolloutBatches.values."""
        return [np.full(len(sequence.tokens), -1.25) for sequence in sequences]

    def __call__(self, step=0):
        """(minibatches, lines of samples/, metrics) of the phase of `step`."""
        parts = self.collect(SimpleNamespace(steps=step, params=None))
        lines = (self.folder / f"{step:06d}.jsonl").read_text().splitlines()
        return parts, list(map(json.loads, lines)), self.report._pending.pop(step + 1)


def prompts_of(part):
    return list(dict.fromkeys(rollout.prompt for rollout in part))


ALARMS = {"alarms": grpo.Alarms(mismatch=1.0)}


def collecting(tokenizer, rows, folder, finish="stop", **changes):
    table = Table(tokenizer, rows, finish)
    return Collecting(tokenizer, table, folder, **ALARMS, **changes), table


def test_groups_without_spread_are_refilled_and_surplus_is_carried(tokenizer, tmp_path):
    rows = [["e", "e"], ["x", "x"], *[["ee", "x"], ["x", "ee"]] * 3]
    collect, table = collecting(tokenizer, rows, tmp_path, refill={"oversample": 1.5})
    [part], lines, metrics = collect()
    assert prompts_of(part) == [2, 3] and table.asked == [0, 1, 2, 3, 4]
    memory = collect.collect.memory
    assert memory["next"] == 5 and len(memory["carry"]) == 1
    assert (metrics["groups_all_low"], metrics["groups_all_high"]) == (1 / 5, 1 / 5)
    assert metrics["refill"] == 2.5 and len(lines) == 10 + 1 and metrics["carried_out"] == 1
    assert [rollout.advantage for rollout in part[:2]] == [0.5, -0.5]
    [part], _, metrics = collect(step=7)
    assert prompts_of(part) == [4, 5] and metrics["carried_in"] == 1
    # The carried group was sampled 7 steps ago, the other one now.
    assert [rollout.version for rollout in part] == [0, 0, 7, 7] and metrics["staleness"] == 3.5


def test_a_phase_goes_on_from_a_checkpoint_where_it_stood(tokenizer, tmp_path):
    """With its minibatches, its surplus and its next prompt."""
    rows = [["ee", "x"], ["e", "x"], ["x", "ee"], ["ee", "e"], ["e", "x"], ["ee", "x"]]
    options = {"refill": {"oversample": 2.0}, "minibatches": 2}
    collect, _ = collecting(tokenizer, rows, tmp_path, **options)
    again, table = collecting(tokenizer, rows, tmp_path, **options)
    state = SimpleNamespace(steps=0, params=None)
    source = phases.RolloutSource(collect.collect, list)
    first = source(state)
    restored = phases.RolloutSource(again.collect, list, json.loads(json.dumps(source.extra())))
    assert prompts_of(first) == [0] and not table.asked
    for _ in range(2):  # what is left of the phase, then the surplus
        wanted, got = source(state), restored(state)
        assert prompts_of(got) == prompts_of(wanted)
        for policy in (True, False):
            for one, other in zip(wanted, got, strict=True):
                a, b = (token_sequence(r, policy=policy) for r in (one, other))
                np.testing.assert_array_equal(a.tokens, b.tokens)
                assert a.mode == b.mode and a.fields.keys() == b.fields.keys()
                for name in a.fields:
                    np.testing.assert_array_equal(a.fields[name], b.fields[name])
        assert [r.answer for r in wanted] == [r.answer for r in got]
    assert table.asked == []


def test_what_a_checkpoint_stores_of_a_rollout_comes_back_exactly(tokenizer):
    prompt = Prompts((Share("lock", modes=("no_think",)),), tokenizer, seed=0)[4]
    rollout = Table(tokenizer, {}).rollout(prompt, 1, "so 0.1", 3)
    rollout.completion.log_probs[0] = float(np.float32(-0.1))
    rollout.reward, rollout.advantage, rollout.old_log_probs = 1 / 3, -2 / 3, [1e-9]
    assert restore(unpack(pack(rollout))) == rollout
    assert rollout.mode == "no_think" and rollout.task == "lock" and rollout.prompt == 4


def test_the_rollouts_of_an_older_checkpoint_are_trained_on(tokenizer, tmp_path):
    collect, table = collecting(tokenizer, [["ee", "x"]] * 9, tmp_path)
    prompt = Prompts((Share("letters"),), tokenizer, seed=0)[7]
    flat = {
        **{"prompt": 7, "sample": 1, "mode": 1, "ids": [*prompt.ids, 5, 6], "task": "letters"},
        **{"start": len(prompt.ids), "logp": [-0.5, -2.0], "forced": [False, True], "version": 3},
        **{"finish": "stop", "reward": 1.0, "advantage": 0.25, "old": [-0.75, -2.5]},
    }
    stored = pack({"memory": {"next": 8, "carry": [[flat]]}, "left": [[flat]]})
    source = phases.RolloutSource(collect.collect, list, stored)
    [rollout] = source(None)
    assert [rollout] == collect.collect.memory["carry"][0] and collect.collect.memory["next"] == 8
    assert rollout.answer.problem == prompt.problem and rollout.prompt == 7 and not table.asked
    assert rollout.version == 3 and rollout.reward == 1.0 and rollout.mode == "think"
    sequence, answer = token_sequence(rollout, policy=True), slice(-2, None)
    assert sequence.tokens.tolist() == flat["ids"] and sequence.weights[answer].tolist() == [1, 0]
    for name, values in (("rollout_logp", flat["logp"]), ("old_logp", flat["old"])):
        assert sequence.fields[name][answer].tolist() == values
    assert sequence.fields["advantages"][answer].tolist() == [0.25, 0.25]


def test_groups_are_dealt_out_to_the_minibatches_in_turn(tokenizer, tmp_path):
    rows = [["ee", "x"]] * 6
    collect, _ = collecting(tokenizer, rows, tmp_path, wanted=6, minibatches=3)
    parts, _, _ = collect()
    assert [prompts_of(part) for part in parts] == [[0, 3], [1, 4], [2, 5]]


def test_nothing_to_learn_is_an_error_that_says_why_and_leaves_the_answers(tokenizer, tmp_path):
    collect, _ = collecting(tokenizer, [["x", "xe"]] + [["x", "x"]] * 5, tmp_path)
    collect.collect._least = 2
    with pytest.raises(NothingToLearn, match="4 prompts gave 1 groups.*low in 3 groups"):
        collect()
    lines = list(map(json.loads, (tmp_path / "000000.jsonl").read_text().splitlines()))
    assert len(lines) == 8
    assert lines[1] == {
        "prompt_id": 0,
        "sample": 1,
        "task": "letters",
        "mode": "think",
        "prompt": lines[0]["prompt"],
        "answer": "xe",
        "score": 0.5,
        "finish": "stop",
        "tokens": 2,
        "reward": 0.5,
        "advantage": None,
    }
    assert lines[1]["prompt"].startswith("<|im_start|>user\nq")
    assert lines[1]["prompt"].endswith("<|im_start|>assistant\n")


def test_a_line_of_samples_has_the_advantage_that_was_trained_on(tokenizer, tmp_path):
    collect, _ = collecting(tokenizer, [["ee", "x"], ["x", "x"], ["x", "ee"]], tmp_path)
    _, lines, _ = collect()
    assert [line["advantage"] for line in lines[:-1]] == [0.5, -0.5, None, None, -0.5, 0.5]
    assert lines[-1] == {"trained": [0, 2]}


def test_fewer_groups_than_wanted_are_reported_and_used(tokenizer, tmp_path, caplog):
    rows = [["ee", "x"], *[["x", "x"]] * 3]
    [part], _, _ = collecting(tokenizer, rows, tmp_path)[0]()
    assert prompts_of(part) == [0] and "1 groups instead of 2 after 3 rounds" in caplog.text
    caplog.clear()
    [part], _, _ = collecting(tokenizer, rows, tmp_path, refill={"rounds": 1})[0]()
    assert prompts_of(part) == [0] and not caplog.text  # as it was to be


def test_answers_without_a_verdict_are_left_out_not_zero(tokenizer, tmp_path):
    rows = [["ee", "?", "x"], ["ee", "?", "ee"], ["?", "?", "?"], ["x", "x", "ee"]]
    [part], lines, metrics = collecting(tokenizer, rows, tmp_path)[0]()
    assert [rollout.reward for rollout in part] == [1, 0, 0, 0, 1]
    assert metrics["no_verdict"] == pytest.approx(5 / 12)
    assert [line["reward"] for line in lines[:3]] == [1, None, 0]


def test_rewards_binarise_first_and_long_answers_cost_by_tokens():
    assert Scoring().value(0.4, False) == 0.4 and Scoring().penalty(10, 10) == 0
    assert [Scoring(binarise=0.5).value(x, False) for x in (0.4, 0.5, 1.0)] == [0, 1, 1]
    soft = Scoring(binarise=0.5, overlong=4)
    assert [soft.penalty(n, 10) for n in (6, 7, 8, 10)] == [0, 0.25, 0.5, 1]
    with pytest.raises(ValueError, match="'sum' is not one of none, group, batch"):
        Scoring(scale="sum")


def test_a_group_that_differs_in_length_alone_is_not_trained_on(tokenizer, tmp_path):
    """All wrong, two of them in the penalty's zone: it would only learn to be short."""
    rows = [["x", "xxxxxxxx"], ["e", "eeeeeeee"]] + [["x", "xxxx"]] * 2
    soft = Scoring(scale="none", binarise=1.0, overlong=4)
    collect, _ = collecting(tokenizer, rows, tmp_path, scoring=soft, wanted=1, refill={"rounds": 4})
    [part], _, metrics = collect()
    assert prompts_of(part) == [1]  # both wrong answers of prompt 0 had the score 0
    assert [rollout.reward for rollout in part] == [0.0, 1.0 - 1.0]  # right, but as long as can be
    assert metrics["groups_all_low"] == 1 / 2


def test_form_is_paid_for_in_part_where_a_mode_is_asked_for(tokenizer, tmp_path):
    part = Scoring(form=0.4)
    assert [part.value(x, True) for x in (0, 0.5, 1)] == pytest.approx([0.4, 0.7, 1])
    assert part.value(0.0, False) == 0.0
    with pytest.raises(ValueError, match="form 1 is a share of the reward"):
        Scoring(form=1)
    # Both answers are wrong, but one has no form at all: a group with something to teach.
    wrong = [["x", "<think>"]] * 6
    with pytest.raises(NothingToLearn):
        collecting(tokenizer, wrong, tmp_path)[0]()
    scoring = Scoring("none", form=0.4)
    [chosen], _, metrics = collecting(tokenizer, wrong, tmp_path, scoring=scoring)[0]()
    assert [rollout.reward for rollout in chosen[:2]] == [0.4, 0.0] and metrics["score"] == 0.0


def test_scales_of_the_advantages(tokenizer, tmp_path):
    rows = [["ee", "x"], ["ee", "e"]]  # rewards 1, 0 and 1, .5
    found = {}
    for scale in ("none", "group", "batch"):
        scoring = Scoring(scale=scale)
        [part], _, _ = collecting(tokenizer, rows, tmp_path, scoring=scoring)[0]()
        found[scale] = [rollout.advantage for rollout in part]
    assert found["none"] == [0.5, -0.5, 0.25, -0.25]
    assert found["group"] == [1, -1, 1, -1]
    np.testing.assert_allclose(found["batch"], np.array(found["none"]) / np.sqrt(0.15625))


def test_truncated_answers_count_but_may_be_left_untrained(tokenizer, tmp_path):
    rows = [["ee", "x"]] * 2
    [part], _, metrics = collecting(tokenizer, rows, tmp_path, finish="length")[0]()
    assert len(part) == 4 and metrics["truncated"] == 1.0
    skipping = Scoring(scale="none", skip_truncated=True)
    with pytest.raises(RuntimeError, match="all answers of 2 groups were cut at 8 tokens"):
        collecting(tokenizer, rows, tmp_path, finish="length", scoring=skipping)[0]()


def test_metrics_of_rollouts_count_copies_loops_and_malformed_turns(tokenizer, tmp_path):
    rows = [["ee", "ee", "<think>", "e " * 30]] * 2
    _, _, metrics = collecting(tokenizer, rows, tmp_path)[0]()
    assert metrics["duplicates"] == 1 / 4
    assert metrics["malformed"] == 1 / 4 and metrics["repeated"] == 1 / 4
    assert metrics["pass_at_1"] == 3 / 4 and metrics["pass_at_group"] == 1.0
    assert metrics["finish/stop"] == 1.0 and metrics["answer_tokens_max"] > 20
    assert metrics["score/letters"] == metrics["score/think"] == metrics["score"] == 0.75


def test_repeats_need_eight_words():
    assert rollout_metrics.repeats("a b c d e f g h " * 4)
    short = ("a a a a", "one two three four five six")
    assert not any(map(rollout_metrics.repeats, short))


def test_old_log_probabilities_are_the_trainers_unless_the_rollouts_serve(tokenizer, tmp_path):
    """After the first phase, in which the two are compared in any case."""
    rows = [["ee", "x"]] * 4
    for old, wanted in (("recomputed", -1.25), ("rollout", -1.0)):
        policy = grpo.Grpo(old=old)
        collect, _ = collecting(tokenizer, rows, tmp_path, wanted=2, policy=policy)
        _, _, first = collect()
        assert first["sync_mean"] == pytest.approx(0.25) and first["sync_max"] == 0.25
        [part], _, second = collect(step=1)
        fields = token_sequence(part[0], policy=True).fields
        answer = -len(part[0].completion.tokens)
        assert fields["old_logp"][answer:].tolist() == [wanted] * -answer
        assert fields["rollout_logp"][answer:].tolist() == [-1.0] * -answer
        assert not fields["old_logp"][:answer].any()
        assert ("sync_mean" in second) == (old == "recomputed")


def test_forced_tokens_are_not_trained_on_nor_compared(tokenizer, tmp_path):
    def force(rollouts):
        for rollout in rollouts:
            rollout.completion.forced[0] = True
            rollout.completion.log_probs[0] = -9.0  # the model would never have written it
        return rollouts

    table = Table(tokenizer, [["xee", "xx"]] * 2)
    collect = Collecting(tokenizer, lambda *a: force(table(*a)), tmp_path, **ALARMS)
    [part], _, metrics = collect()
    sequence = token_sequence(part[0], policy=True)
    count = len(part[0].completion.tokens)
    assert sequence.weights[-count:].tolist() == [0.0] + [1.0] * (count - 1)
    assert not sequence.weights[:-count].any() and metrics["sync_max"] == 0.25


def test_no_verdict_is_what_the_toy_task_raises():
    with pytest.raises(NoVerdict):
        post.letters.verdict("?")
