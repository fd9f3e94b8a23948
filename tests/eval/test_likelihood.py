"""Log-likelihoods of continuations against a float64 softmax of the model's logits."""

import jax
import numpy as np
import pytest

import qwen3
from qwen3.data.tokenizer import Tokenizer
from qwen3.eval.likelihood import encode_pair, log_likelihoods
from qwen3.model.sizes import ModelConfig

MODEL = ModelConfig("toy", 2, 32, 64, 4, 2, head_dim=8, vocab=320, tied=True, max_length=64)


@pytest.fixture(scope="module")
def model():
    tokenizer = Tokenizer.train(["one two three four answer yes no maybe " * 9], size=300)
    model = qwen3.create(MODEL, seed=1, tokenizer=tokenizer)
    model.params = jax.tree.map(lambda x: 3 * x, model.params)
    return model


def reference(model, context, continuation):
    ids = [*context, *continuation]
    logits = np.asarray(model.logits([ids]), np.float64)[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    places = range(len(context) - 1, len(ids) - 1)
    greedy = all(logits[t].argmax() == ids[t + 1] for t in places)
    return sum(log_probs[t, ids[t + 1]] for t in places), greedy


def test_they_equal_a_float64_softmax_whatever_the_batch(model):
    random = np.random.default_rng(0)
    pairs = [
        (random.integers(0, 300, n).tolist(), random.integers(0, 300, m).tolist())
        for n, m in ((1, 1), (5, 3), (30, 9), (33, 2), (40, 20), (2, 1))
    ]
    for rows in (1, 4):
        measured = dict(log_likelihoods(model, pairs, rows=rows))
        assert sorted(measured) == list(range(len(pairs)))
        for number, pair in enumerate(pairs):
            log_prob, greedy = reference(model, *pair)
            assert measured[number].log_prob == pytest.approx(log_prob, abs=1e-4)
            assert measured[number].greedy == greedy
            assert measured[number].tokens == len(pair[1])


def test_a_continuation_of_the_likeliest_tokens_is_greedy(model):
    ids = [5, 9, 3]
    for _ in range(4):
        ids.append(int(np.asarray(model.logits([ids]))[0, -1].argmax()))
    [(_, likelihood)] = log_likelihoods(model, [(ids[:3], ids[3:])])
    assert likelihood.greedy
    [(_, likelihood)] = log_likelihoods(model, [(ids[:3], [*ids[3:-1], (ids[-1] + 1) % 300])])
    assert not likelihood.greedy


def test_a_long_context_loses_its_oldest_tokens(model):
    random = np.random.default_rng(1)
    context, continuation = random.integers(0, 300, 100).tolist(), [7, 8]
    [(_, cut)] = log_likelihoods(model, [(context, continuation)])
    [(_, short)] = log_likelihoods(model, [(context[-63:], continuation)])
    assert cut.log_prob == short.log_prob


def test_pairs_without_tokens_are_refused(model):
    for pair in (([], [1]), ([1], [])):
        with pytest.raises(ValueError, match="pair 0: .* wanted at least one of each"):
            list(log_likelihoods(model, [pair]))


def test_spaces_belong_to_the_continuation(model):
    tokenizer = model.tokenizer
    for context, continuation in (("answer: ", "yes"), ("answer:", " yes"), ("one  ", "two")):
        head, tail = encode_pair(tokenizer, context, continuation)
        assert head == tokenizer.encode(context.rstrip())
        assert [*head, *tail] == tokenizer.encode(context + continuation)
    assert encode_pair(tokenizer, "", "yes") == ([tokenizer.pad], tokenizer.encode("yes"))
