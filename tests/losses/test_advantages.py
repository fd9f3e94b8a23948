"""Group advantages by explicit group id: centring, scales, flat groups, order."""

import math

import numpy as np
import pytest

from qwen3.losses.advantages import group_advantages

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
