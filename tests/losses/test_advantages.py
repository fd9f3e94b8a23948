"""Group advantages by explicit group id: centring, scales, flat groups, order."""

import math

import numpy as np
import pytest

from qwen3.losses.advantages import decoupled_advantages, group_advantages

REWARDS = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.0, 2.0]
GROUPS = [7, 7, 7, 7, 3, 3, 9, 9]
ROOT2 = math.sqrt((4 * 0.25 + 2 * 1.0) / 6)  # of the centred rewards of groups 7 and 9


@pytest.mark.parametrize(
    "scale, want",
    [
        ("none", [0.5, -0.5, -0.5, 0.5, 0, 0, -1, 1]),
        ("group", [1, -1, -1, 1, 0, 0, -1, 1]),
        ("batch", [x / ROOT2 for x in (0.5, -0.5, -0.5, 0.5, 0, 0, -1, 1)]),
    ],
)
def test_scales(scale, want):
    got = group_advantages(REWARDS, GROUPS, scale=scale)
    np.testing.assert_allclose(got.values, want, rtol=1e-15)
    np.testing.assert_array_equal(got.learnable, np.array(GROUPS) != 3)
    assert (got.groups, got.flat_low, got.flat_high) == (3, 0, 1)


def test_the_order_of_rollouts_does_not_change_a_bit():
    rng = np.random.default_rng(0)
    rewards, groups = rng.normal(size=64), np.repeat(np.arange(8), 8)
    for scale in ("none", "group", "batch"):
        want = group_advantages(rewards, groups, scale=scale).values
        for _ in range(5):
            order = rng.permutation(64)
            got = group_advantages(rewards[order], groups[order], scale=scale).values
            np.testing.assert_array_equal(got, want[order])


def test_advantages_of_a_group_sum_to_zero():
    rng = np.random.default_rng(1)
    got = group_advantages(rng.normal(size=60), np.arange(60) % 6, scale="group")
    sums = np.bincount(np.arange(60) % 6, got.values)
    np.testing.assert_allclose(sums, 0, atol=1e-12)


def test_rounding_noise_in_equal_rewards_is_no_signal():
    noisy = [0.1 + 0.2, 0.3, 0.3, 0.3]
    assert noisy[0] != noisy[1]
    got = group_advantages(noisy, [0, 0, 0, 0], scale="group")
    np.testing.assert_array_equal(got.values, 0)
    assert not got.learnable.any() and got.flat_high == 1
    assert group_advantages(noisy, [0] * 4, scale="group", tolerance=0).learnable.all()


def test_binarising_first_keeps_a_formatting_accident_from_training_at_full_strength():
    countdown = [0.05] * 7 + [0.01]
    loud = group_advantages(countdown, [0] * 8, scale="group").values
    np.testing.assert_allclose(loud, [0.378] * 7 + [-2.646], atol=1e-3)
    quiet = group_advantages(countdown, [0] * 8, scale="group", binarise=0.5)
    np.testing.assert_array_equal(quiet.values, 0)
    assert quiet.flat_low == 1
    # A reward at the threshold counts as 1.
    edge = group_advantages([0.5, 0.4], [0, 0], binarise=0.5)
    np.testing.assert_array_equal(edge.values, [0.5, -0.5])


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        (([1.0, math.nan], [0, 0]), {}, "reward nan of rollout 1"),
        (([1.0, 0.0, 1.0], [0, 0, 5]), dict(size=2), "group 5 has 1 rollouts, not 2"),
        (([1.0, 0.0], [0, 0]), dict(scale="std"), "'std' is not one of none, group, batch"),
        (([1.0, 0.0], [0]), {}, "one each"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        group_advantages(*arguments, **options)


def test_advantages_of_each_family_have_one_size():
    families = ["a"] * 4 + ["b"] * 2 + ["c"] * 2
    rewards = [1.0, 0.0, 0.0, 1.0, 0.5, 0.5, 0.0, 0.02]
    got = group_advantages(rewards, GROUPS, scale="family", families_R=families)
    np.testing.assert_allclose(got.values, [1, -1, -1, 1, 0, 0, -1, 1], rtol=1e-12)
    with pytest.raises(ValueError, match="needs the family of each of 8"):
        group_advantages(rewards, GROUPS, scale="family", families_R=families[:3])
    with pytest.raises(ValueError, match="needs the family"):
        group_advantages(rewards, GROUPS, scale="family")


def test_decoupled_rewards_are_normalised_in_their_groups_and_added_by_weight():
    right, short = [1.0, 0.0, 0.0, 1.0], [0.3, 0.3, 0.1, 0.1]
    nothing = [np.nan] * 4
    got = decoupled_advantages(
        {"right": [*right, *nothing], "short": [*short, 0.2, 0.2, 0.0, 0.4]},
        [0] * 4 + [1] * 4,
        {"right": [2.0] * 8, "short": [1.0] * 8},
        scale="none",
    )
    spread = math.sqrt(0.08 / 4)
    second = [0.0, 0.0, -0.2 / spread, 0.2 / spread]
    np.testing.assert_allclose(got, [3, -1, -3, 1, *second], atol=1e-12)
    # Added first, the louder reward would be all that counts.
    alone = group_advantages(np.add(right, np.multiply(0.001, short)), [0] * 4, scale="group")
    assert abs(alone.values[0] - alone.values[3]) < 1e-3


@pytest.mark.parametrize(
    "rewards, scale, message",
    [
        ([1.0, np.nan], "none", "some rollouts of group 0 have no reward 'a'"),
        ([1.0, np.inf], "none", "reward inf"),
        ([1.0, 0.0], "group", "by their groups already"),
        ([1.0, 0.0], "family", "needs the family"),
    ],
)
def test_bad_decoupled_rewards_are_named(rewards, scale, message):
    with pytest.raises(ValueError, match=message):
        decoupled_advantages({"a": rewards}, [0, 0], {"a": [1.0, 1.0]}, scale=scale)
