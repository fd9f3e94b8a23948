"""Bradley-Terry: values and gradients against float64 NumPy, and where the score is read."""

from typing import NamedTuple

import jax
import numpy as np
import pytest
from finite import gradient
from loss_toy import D, V, assert_same, params, split, update

from qwen3.losses.preference import bradley_terry, token_scores


class ScoreOutput(NamedTuple):
    hidden_BTD: jax.Array
    score_OD: jax.Array


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def policy():
    head = np.random.default_rng(3).normal(size=(1, D))
    return {**{k: v for k, v in params().items() if k != "head"}, "score": head}


def scoring(params, tokens, positions, segment_ids):
    hidden = params["embed"][tokens] + 0.1 * positions[..., None] * params["turn"]
    return ScoreOutput(hidden, params["score"])


def answers(seed=0):
    """Two answers to each of four questions, of 2 to 6 tokens, with a margin each."""
    rng = np.random.default_rng(seed)
    return [
        ([rng.integers(0, V, rng.integers(2, 7)) for _ in range(2)], 0.3 * number)
        for number in range(4)
    ]


def lay_out(pairs, rows, length):
    """Rows of whole pairs, padded with rubbish that must not be read."""
    shape = (len(rows), length)
    batch = {
        "tokens": np.full(shape, 1),
        "positions": np.full(shape, 3),
        "segment_ids": np.zeros(shape, int),
        "weights": np.zeros(shape),
        "margin": np.full(shape, 7.0),
    }
    for r, row in enumerate(rows):
        at = segment = 0
        for index in row:
            tokens_of, margin = pairs[index]
            for tokens in tokens_of:
                segment, place = segment + 1, slice(at, at := at + len(tokens))
                batch["tokens"][r, place] = tokens
                batch["positions"][r, place] = np.arange(len(tokens))
                batch["segment_ids"][r, place] = segment
                batch["weights"][r, at - 1] = 1
                batch["margin"][r, place] = margin
    return batch


def score(policy, tokens):
    """By a loop: the head at the last token."""
    hidden = policy["embed"][tokens[-1]] + 0.1 * (len(tokens) - 1) * policy["turn"]
    return float(sum(hidden[d] * policy["score"][0, d] for d in range(D)))


def reference(policy, pairs, centring, with_margin):
    total = 0.0
    for tokens_of, margin in pairs:
        chosen, rejected = (score(policy, tokens) for tokens in tokens_of)
        x = chosen - rejected - margin * with_margin
        total += np.log1p(np.exp(-x)) + centring * (chosen + rejected) ** 2
    return total / len(pairs)


def loss(centring):
    return lambda policy, batch: bradley_terry(scoring, policy, batch, centring=centring)


@pytest.mark.parametrize("centring", [0.0, 0.2])
@pytest.mark.parametrize("with_margin", [False, True])
def test_value_and_gradients_equal_a_loop(centring, with_margin):
    pairs, weights = answers(), policy()
    batch = lay_out(pairs, [[0, 1], [2, 3]], 31)
    if not with_margin:
        del batch["margin"]
    value, slopes = update(loss(centring), weights, [batch])
    assert value == pytest.approx(reference(weights, pairs, centring, with_margin), abs=1e-12)
    for name, array in weights.items():

        def of(x, name=name):
            return reference({**weights, name: x}, pairs, centring, with_margin)

        np.testing.assert_allclose(slopes[name], gradient(of, array), atol=1e-8)


@pytest.mark.parametrize("length", [12, 13, 30])
def test_padding_packing_and_microbatches_change_nothing(length):
    pairs, weights = answers(), policy()
    alone = lay_out(pairs, [[0], [1], [2], [3]], length)
    want = update(loss(0.1), weights, [alone])
    assert_same(want, update(loss(0.1), weights, split(alone, 2)))
    assert_same(want, update(loss(0.1), weights, [lay_out(pairs, [[3, 0], [], [1, 2]], 40)]))


def test_the_smallest_rows_hold_a_pair_of_single_tokens():
    pairs = [([np.array([2]), np.array([4])], 0.0)]
    value, _ = update(loss(0.1), policy(), [lay_out(pairs, [[0]], 2)])
    assert value == pytest.approx(reference(policy(), pairs, 0.1, False))


def test_metrics_are_sums_over_pairs_and_equal_scores_count_half():
    pairs, weights = answers(), policy()
    batch = lay_out(pairs, [[0, 1], [2, 3]], 30)
    _, sums = bradley_terry(scoring, weights, batch)
    scores = np.array([[score(weights, tokens) for tokens in pair] for pair, _ in pairs])
    right = np.sum(0.5 * (np.sign(scores[:, 0] - scores[:, 1]) + 1))  # one pair is equal
    assert sums["weight"] == 4 and sums["accuracy"] == right == 3.5
    _, equal = bradley_terry(scoring, {**weights, "score": 0 * weights["score"]}, batch)
    assert equal["accuracy"] == 2
    np.testing.assert_allclose(sums["chosen"], scores[:, 0].sum())
    np.testing.assert_allclose(sums["difference"], (scores[:, 0] - scores[:, 1]).sum())


def test_what_follows_the_end_of_an_answer_has_no_gradient():
    pairs = answers()
    batch = lay_out(pairs, [[0]], 20)

    def total(hidden):
        def fixed(params, *inputs):
            return ScoreOutput(hidden, params["score"])

        return bradley_terry(fixed, policy(), batch)[0]

    slopes = jax.grad(total)(np.random.default_rng(0).normal(size=(1, 20, D)))
    read = np.abs(slopes).sum(-1) > 0
    np.testing.assert_array_equal(read, batch["weights"] > 0)
    assert read.sum() == 2


def test_the_head_reads_in_fp32_whatever_the_hidden_states_are():
    weights = jax.tree.map(lambda x: x.astype(np.float32), policy())
    batch = lay_out(answers(), [[0]], 20)

    def half(params, *inputs):
        output = scoring(params, *inputs)
        return output._replace(hidden_BTD=output.hidden_BTD.astype("bfloat16"))

    scores = token_scores(half, weights, batch)
    assert scores.dtype == np.float32
    hidden = np.asarray(
        half(weights, *(batch[n] for n in ("tokens", "positions", "segment_ids")))[0]
    )
    want = hidden.astype(np.float32) @ weights["score"][0]
    np.testing.assert_allclose(scores, want, rtol=1e-6)
