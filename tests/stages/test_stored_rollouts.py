"""Rollouts in a checkpoint: arrays, exact, and the forms of older releases."""

import base64
import json
import zlib

import numpy as np
import post
import pytest

from qwen3.infer.requests import Completion, Request
from qwen3.rewards.answers import ScoredAnswer, Transcript
from qwen3.stages.rollouts import Rollout
from qwen3.stages.stored_rollouts import pack, restore, unpack


def rollout(seed, tokens=5, experts=False):
    random = np.random.default_rng(seed)
    values = random.normal(size=tokens).astype(np.float32).tolist()
    routing = random.integers(0, 4, (tokens + 2, 3, 2)).astype(np.uint8) if experts else None
    completion = Completion(
        Request([1, 2, 3], prompt_id=seed, stop_strings=("a",)),
        random.integers(0, 500, tokens).tolist(),
        log_probs=values,
        forced=(random.random(tokens) < 0.5).tolist(),
        versions=sorted(random.integers(0, 3, tokens).tolist()),
        finish="stop",
        experts=routing,
    )
    problem = post.lock(seed)
    transcript = Transcript([[0, 2]], ["so"], "answered") if experts else None
    return Rollout(
        ScoredAnswer(problem, completion, "text", 0.5, transcript),
        1 / 3,
        -2 / 3,
        [] if seed % 2 else [value / 2 for value in values],
        {"rule": 0.25},
        0.75,
    )


def assert_same(one, other):
    for a, b in ((one.completion, other.completion),):
        np.testing.assert_array_equal(a.experts, b.experts)
        assert (a.experts is None) == (b.experts is None)
        a.experts = b.experts = None
    assert one == other


def old_pack(record):
    """As releases before the arrays stored them."""

    def fields(value):
        if isinstance(value, np.ndarray):
            return {"uint8": base64.b64encode(value.tobytes()).decode(), "shape": value.shape}
        return {k: v for k, v in vars(value).items() if k != "sampling_log_probs"}

    return base64.b64encode(zlib.compress(json.dumps(record, default=fields).encode())).decode()


@pytest.mark.parametrize("form", [pack, old_pack])
def test_every_field_comes_back_exactly(form):
    groups = [[rollout(0), rollout(1, 9)], [rollout(2, 1, experts=True), rollout(3, 4)]]
    text = json.loads(json.dumps(form({"next": 4, "left": groups, "flat": {"low": 1}})))
    record = unpack(text)
    assert (record["next"], record["flat"]) == (4, {"low": 1})
    again = [[restore(stored) for stored in group] for group in record["left"]]
    for one, other in zip(sum(groups, []), sum(again, []), strict=True):
        assert {type(token) for token in other.completion.tokens} == {int}
        assert {type(forced) for forced in other.completion.forced} == {bool}
        assert_same(one, other)


def test_numbers_that_are_no_float32_come_back_exactly():
    odd = rollout(0)
    odd.completion.log_probs[1] = 0.1
    odd.old_log_probs[0] = 1e-300
    assert_same(restore(unpack(pack(odd))), odd)


def test_nothing_is_stored_of_no_rollouts():
    assert unpack(pack({"next": 3, "carry": [], "left": []})) == {
        "next": 3,
        "carry": [],
        "left": [],
    }


def test_a_token_takes_a_third_of_what_its_digits_take():
    """An id, a log-probability and an old one, each 4 bytes before base64; flags almost none."""
    many = [rollout(seed, 400) for seed in range(0, 40, 2)]
    sizes = [len(form(many)) / (400 * len(many)) for form in (pack, old_pack)]
    assert sizes[0] < 14 < 28 < sizes[1], sizes
