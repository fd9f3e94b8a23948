"""Sampling rules against literal tables, sorted references and frequencies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qwen3.ops import sampling


def rules(rows=1, **changes):
    return sampling.neutral(rows)._replace(
        **{
            f"{name}_B": jnp.asarray(value, jnp.int32 if name == "top_k" else jnp.float32).reshape(
                rows
            )
            for name, value in changes.items()
        }
    )


def probabilities(logits, *, counts=None, seen=None, allowed=None, **changes):
    logits = jnp.atleast_2d(jnp.asarray(logits, jnp.float32))
    none = jnp.zeros(logits.shape, jnp.int32)
    scores = sampling.distribution(
        logits,
        rules(len(logits), **changes),
        counts_BV=none if counts is None else jnp.atleast_2d(jnp.asarray(counts)),
        seen_BV=none > 0 if seen is None else jnp.atleast_2d(jnp.asarray(seen)),
        allowed_BV=none == 0 if allowed is None else jnp.atleast_2d(jnp.asarray(allowed)),
    )
    return np.asarray(jax.nn.softmax(scores, axis=-1))


P = np.array([0.5, 0.25, 0.15, 0.1])
LOGITS = np.log(P)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, P),
        ({"temperature": 0.5}, P**2 / (P**2).sum()),
        ({"temperature": 0.0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.7}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.76}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        ({"top_p": 0.01}, [1, 0, 0, 0]),
        ({"min_p": 0.25}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
        # top-p counts what top-k left: 0.6 of {2/3, 1/3} is one token.
        ({"top_k": 2, "top_p": 0.6}, [1, 0, 0, 0]),
        # temperature comes first: the squares are 0.72, 0.18, 0.07, 0.03.
        ({"temperature": 0.5, "top_p": 0.7}, [1, 0, 0, 0]),
    ],
)
def test_rules_in_order(changes, expected):
    np.testing.assert_allclose(probabilities(LOGITS, **changes)[0], expected, atol=1e-6)


def test_penalties_on_literal_logits():
    logits, counts, seen = [2.0, 1.0, -1.0, 0.5], [0, 3, 1, 0], [True, True, True, False]

    def shifted(**changes):
        found = np.log(probabilities(logits, counts=counts, seen=seen, **changes)[0])
        return found - found[3] + 0.5

    np.testing.assert_allclose(shifted(presence=1.5), [2, -0.5, -2.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(shifted(frequency=0.5), [2, -0.5, -1.5, 0.5], atol=1e-5)
    np.testing.assert_allclose(shifted(repetition=2.0), [1, 0.5, -2, 0.5], atol=1e-5)


def test_each_row_has_its_own_rules_and_masked_tokens_are_never_kept():
    logits = np.tile(LOGITS, (3, 1))
    allowed = np.ones((3, 4), bool)
    allowed[2, 0] = False
    found = probabilities(logits, temperature=[1, 0, 1], top_k=[0, 3, 2], allowed=allowed)
    expected = [P, [1, 0, 0, 0], [0, 2.5 / 4, 1.5 / 4, 0]]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("top_k", "top_p"), [(7, 1.0), (0, 0.6), (50, 0.9), (1, 0.5), (0, 0.999)])
def test_cuts_match_a_sorted_reference_on_random_logits(top_k, top_p):
    logits = 3 * np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)
    found = probabilities(logits, top_k=[top_k] * 4, top_p=[top_p] * 4)
    for row, kept in zip(logits, found, strict=True):
        order = np.argsort(-row)[: top_k or None]
        mass = np.exp(row[order].astype(np.float64) - row.max())
        before = np.cumsum(mass) / mass.sum() - mass / mass.sum()
        wanted = set(order[before < top_p - 1e-5])
        assert wanted <= set(np.flatnonzero(kept)) <= set(order[before < top_p + 1e-5])


def test_drawn_frequencies_follow_the_distribution():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(300).astype(np.float32) * 2
    scores[rng.permutation(300)[:100]] = -np.inf
    probs = np.exp(scores) / np.exp(scores).sum()
    count = 40_000
    uniforms = jax.random.uniform(jax.random.key(0), (count, 2))
    drawn, total = sampling.draw(jnp.broadcast_to(scores, (count, 300)), uniforms)
    np.testing.assert_allclose(total[0], np.log(np.exp(scores).sum()), rtol=1e-5)
    drawn = np.bincount(np.asarray(drawn), minlength=300)
    assert drawn[probs == 0].sum() == 0
    large = probs > 1e-3
    sigma = np.sqrt(probs * (1 - probs) / count)
    assert (np.abs(drawn / count - probs)[large] < 5 * sigma[large]).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_extreme_uniforms_never_pick_an_impossible_token(uniform):
    scores = jnp.full((1, 257), -jnp.inf).at[0, jnp.array([3, 130])].set(0.0)
    drawn, _ = sampling.draw(scores, jnp.full((1, 2), uniform))
    assert int(drawn[0]) == (3 if uniform == 0 else 130)


def test_uniforms_depend_on_seed_prompt_sample_and_position_only():
    seeds = jnp.array(
        [[0, 1, 2], [0, 1, 2], [1, 1, 2], [0, 2, 2], [0, 1, 3], [0, 1, 2]], jnp.uint32
    )
    positions = jnp.array([5, 5, 5, 5, 5, 6])
    found = np.asarray(sampling.uniforms(sampling.row_keys(seeds), positions))
    assert (found[0] == found[1]).all()
    assert len({tuple(row) for row in found.tolist()}) == 5
    assert (found >= 0).all() and (found < 1).all()


def test_log_prob_is_that_of_softmax():
    found = sampling.log_prob(jnp.asarray(LOGITS)[None] + 7, jnp.array([2]))
    np.testing.assert_allclose(found, np.log([0.15]), rtol=1e-5)
