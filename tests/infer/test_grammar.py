"""Grammars that answers must follow, and the most likely tokens beside each."""

import dataclasses

import numpy as np
import pytest
from tiny import clean

from qwen3.infer import grammar
from qwen3.infer.requests import Request, check_request


class Even:
    """Allows even ids, and `stop` once there are `count` of them."""

    def __init__(self, vocab, stop, count):
        self.vocab, self.stop, self.count = vocab, stop, count

    def matcher(self):
        return EvenMatcher(self)


class EvenMatcher:
    def __init__(self, rules):
        self.rules, self.seen = rules, 0

    def allowed(self):
        flags = np.zeros(32 * grammar.words(self.rules.vocab), bool)
        if self.seen < self.rules.count:
            flags[:200:2] = True
        else:
            flags[self.rules.stop] = True
        return np.packbits(flags, bitorder="little").view(np.uint32)

    def accept(self, token, *, forced):
        if self.seen == 3 and self.rules.count == 99:
            raise ValueError("a grammar that fails")
        self.seen += 1


def test_a_grammar_holds_and_leaves_the_others_as_they_are(
    make, config, tokenizer, requests, expected
):
    rules = Even(config.vocab, tokenizer.im_end, 7)
    ruled = [Request([1, 2, 3], max_tokens=30, grammar=rules, sample=i) for i in range(3)]
    engine = make()
    mixed = engine.generate([*ruled[:2], *requests, ruled[2]])
    for completion in (*mixed[:2], mixed[-1]):
        assert completion.finish == "stop" and len(completion.tokens) == 8
        assert all(i % 2 == 0 for i in completion.tokens[:-1])
    assert [completion.tokens for completion in mixed[2:-1]] == expected
    assert len({tuple(completion.tokens) for completion in (*mixed[:2], mixed[-1])}) == 3
    assert clean(engine)


def test_a_grammar_that_fails_ends_its_answer_alone(make, config, tokenizer, requests, expected):
    rules = Even(config.vocab, tokenizer.im_end, 99)
    engine = make()
    failed, *others = engine.generate([Request([1, 2], grammar=rules), *requests])
    assert failed.finish == "abort" and "a grammar that fails" in failed.error
    assert [completion.tokens for completion in others] == expected
    assert clean(engine)


def test_the_most_likely_tokens_stand_beside_each(make, requests, expected, config):
    asked = [dataclasses.replace(r, alternatives=i % 4) for i, r in enumerate(requests)]
    for request, completion, tokens in zip(asked, make().generate(asked), expected, strict=True):
        assert completion.tokens == tokens
        if not request.alternatives:
            assert completion.alternatives == []
            continue
        assert len(completion.alternatives) == len(tokens)
        for token, log_prob, beside in zip(
            tokens, completion.log_probs, completion.alternatives, strict=True
        ):
            values = list(beside.values())
            assert len(values) == request.alternatives and values == sorted(values, reverse=True)
            assert log_prob <= values[0] + 1e-5
            assert token not in beside or beside[token] == pytest.approx(log_prob, abs=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("alternatives", 21, "0 to 20"),
        ("alternatives", -1, "0 to 20"),
        ("grammar", "x", "a Grammar"),
    ],
)
def test_what_is_no_grammar_is_refused(field, value, message):
    request = dataclasses.replace(Request([1]), **{field: value})
    with pytest.raises(ValueError, match=f"{field} .*: wanted .*{message}"):
        check_request(request, vocab=9, max_length=9, has_tokenizer=True)
