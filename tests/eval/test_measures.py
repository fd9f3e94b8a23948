"""Intervals, pass@k, ThinkFollow and expert use by literal cases."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.eval import budget_sweep, expert_use, intervals, needle, pass_at_k, think_follow
from qwen3.eval.accuracy import accuracy
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (50, 100, 0.4038, 0.5962),
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (1, 10, 0.0179, 0.4042),
    ],
)
def test_wilson_intervals_are_those_of_the_tables(hits, n, low, high):
    found = intervals.share(hits, n)
    assert found.value == hits / n
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(("hits", "n"), [(3, 2), (-1, 2), (0, 0)])
def test_shares_of_nothing_are_refused(hits, n):
    with pytest.raises(ValueError, match=f"{hits} hits of {n}"):
        intervals.share(hits, n)


def test_paired_differences_are_tighter_than_unpaired_ones():
    rng = np.random.default_rng(1)
    first = rng.random(40)
    second = first + 0.1
    found = intervals.paired(first, second)
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)
    assert intervals.mean(second).low < intervals.mean(first).high
    with pytest.raises(ValueError, match="same problems"):
        intervals.paired([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("right", "n", "k", "expected"),
    [(0, 4, 2, 0.0), (4, 4, 1, 1.0), (1, 4, 1, 0.25), (1, 4, 2, 0.5), (2, 4, 2, 1 - 1 / 6)],
)
def test_pass_at_k_counts_draws_without_replacement(right, n, k, expected):
    assert pass_at_k.pass_at_k(right, n, k) == pytest.approx(expected)


def test_pass_at_k_of_more_than_was_sampled_is_refused():
    with pytest.raises(ValueError, match="pass@5 of 1 right among 4"):
        pass_at_k.pass_at_k(1, 4, 5)


def answers(*groups):
    problem = Problem("", [], {})
    return [[ScoredAnswer.from_text(problem, "", score) for score in group] for group in groups]


def test_accuracy_is_over_problems_and_leaves_out_what_has_no_verdict():
    assert accuracy(answers([1.0], [0.0], [1.0])) == intervals.share(2, 3)
    assert accuracy(answers([1.0, 0.0], [0.5, None], [None])) == intervals.mean([0.5, 0.5])
    assert accuracy(answers([0.25, 0.75, None], [1.0])) == intervals.mean([0.5, 1.0])
    with pytest.raises(ValueError, match="at least one"):
        accuracy(answers([None], []))


def test_pass_at_k_of_answers_counts_full_marks_alone():
    groups = answers([1.0, 0.9, None, 1.0], [0.0, 0.0, 0.0, 0.0])
    assert pass_at_k.per_problem(groups, 2) == [1 - 1 / 6, 0.0]
    assert pass_at_k.estimate(groups, 2) == intervals.mean([1 - 1 / 6, 0.0])


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["a /think"], "/think"),
        (["/no_think a"], "/no_think"),
        (["a /think", "b"], "none after a flag"),
        (["a", "b"], "no flag at all"),
        (["a /think", "b /no_think"], "/no_think"),
    ],
)
def test_dialogues_are_told_apart_by_their_last_flag(texts, kind):
    messages = [{"role": "user", "content": text} for text in texts]
    assert think_follow.kind(Problem("mode_following", messages, {})) == kind


def test_a_fall_counts_only_beyond_both_intervals():
    def row(budget, value, half):
        estimate = intervals.Estimate(value, value - half, value + half, 100)
        return {"budget": budget, "all": estimate}

    rows = [row(0, 0.1, 0.05), row(8, 0.5, 0.05), row(16, 0.45, 0.05), row(32, 0.2, 0.05)]
    assert budget_sweep.falls(rows) == [(16, 32)]


def test_specialisation_is_0_for_equal_use_and_1_for_disjoint_use():
    even = np.full((2, 4), 0.25)
    first, second = (np.array([row, row]) for row in ([0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]))
    assert expert_use.specialisation({"a": even, "b": even}) == 0
    assert expert_use.specialisation({"a": first, "b": second}) == 1
    third = expert_use.specialisation({"a": first, "b": second, "c": even})
    assert math.isclose(third, (1 + 0.5 + 0.5) / 3)
    with pytest.raises(ValueError, match="at least two"):
        expert_use.specialisation({"a": even})


class Letters:
    """A tokenizer of one token a character."""

    pad = 0

    def encode(self, text):
        return [ord(each) for each in text]


def copier(params, tokens, positions, segment_ids):
    """A model that knows each next token, but for those at positions in `params`."""
    following = jnp.roll(tokens, -1, axis=1)
    wrong = (positions[..., None] == params).any(-1)
    return SimpleNamespace(
        hidden_BTD=jax.nn.one_hot(jnp.where(wrong, 1, following), 128), head_VD=jnp.eye(128)
    )


@pytest.mark.parametrize(
    ("wrong", "share"),
    [([], 1.0), ([3], 0.5), ([4], 0.5), ([2], 1.0), ([5], 1.0), ([9], 0.5), ([3, 9], 0.0)],
)
def test_a_needle_counts_if_every_token_of_its_value_is_predicted(wrong, share):
    # The first's value stands at 4 and 5, predicted at 3 and 4; the second's at 9 and 10.
    needles = [needle.Needle("ab: ", "47"), needle.Needle("abcdefgh:", "47")]
    test = needle.Needles(copier, Letters(), widths=(16,), batch=4)
    found = test.accuracy(jnp.array([*wrong, -1]), needles)
    assert found.value == share and found.n == 2


def test_a_needle_longer_than_every_width_is_refused():
    test = needle.Needles(copier, Letters(), widths=(4, 8))
    with pytest.raises(ValueError, match="needle of 11 tokens; rows have at most 8"):
        test.accuracy(jnp.array([-1]), [needle.Needle("abcdefgh:", "47")])
