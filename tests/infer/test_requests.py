"""Requests and sampling parameters: what is refused, before anything runs, and what is clamped."""

import dataclasses

import numpy as np
import pytest
from tiny import LENGTH, clean

from qwen3.infer.requests import PRESETS, Request, sampling

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "non-empty list"),
        ({"prompt": list(range(LENGTH))}, "the prompt has 64 tokens"),
        ({"prompt": [1, 999]}, "from 1 to 999"),
        ({"prompt": ["a"]}, "non-empty list"),
        ({"prompt": "abc"}, "non-empty list of token ids, not 'abc'"),
        ({"prompt": None}, "non-empty list of token ids, not None"),
        ({"prompt": [1.0, 2.0]}, "non-empty list"),
        ({"prompt": [1, True]}, "non-empty list"),
        ({"prompt": [[1], [2, 3]]}, "non-empty list"),
        ({"prompt": [10**30]}, "non-empty list"),
        ({"prompt": [NAN]}, "non-empty list"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"max_tokens": -3}, "max_tokens -3"),
        ({"max_tokens": NAN}, "max_tokens nan: wanted at least 1, or None"),
        ({"max_tokens": 10.5}, "max_tokens 10.5"),
        ({"max_tokens": True}, "max_tokens True"),
        ({"max_tokens": "5"}, "max_tokens '5'"),
        ({"budget": -1}, "budget -1"),
        ({"budget": NAN}, "budget nan: wanted at least 0, or None for no limit"),
        ({"budget": INF}, "budget inf"),
        ({"budget": "5"}, "budget '5'"),
        ({"budget": False}, "budget False"),
        ({"answer_reserve": -1}, "answer_reserve -1"),
        ({"answer_reserve": NAN, "budget": 3}, "answer_reserve nan"),
        ({"thinking": "yes"}, "thinking 'yes': wanted True, False or None"),
        ({"thinking": 1}, "thinking 1"),
        ({"stop_text": "poem"}, "unknown stop_text 'poem'; there are docs, report"),
        ({"stop_text": None}, "unknown stop_text None"),
        ({"stop_ids": (1,) * 9}, "at most 8"),
        ({"stop_ids": (999,)}, r"stop_ids \(999,\)"),
        ({"stop_ids": (1.5,)}, r"stop_ids \(1.5,\)"),
        ({"stop_ids": ("a",)}, r"stop_ids \('a',\)"),
        ({"stop_ids": (True,)}, r"stop_ids \(True,\)"),
        ({"stop_ids": 7}, "stop_ids 7"),
        ({"stop_strings": "abc"}, "tuple of strings"),
        ({"stop_strings": 5}, "stop_strings 5: wanted a tuple of strings"),
        ({"stop_strings": ("",)}, "none empty"),
        ({"stop_strings": (b"a",)}, "wanted strings"),
        ({"stop_strings": ("a\ud800",)}, r"'a\\ud800' has a lone surrogate at character 1"),
        ({"prompt_id": b"a"}, "prompt_id b'a': wanted an integer, a string, or None"),
        ({"prompt_id": [1]}, r"prompt_id \[1\]"),
        ({"prompt_id": 1.5}, "prompt_id 1.5"),
        ({"prompt_id": "\ud800"}, r"prompt_id '\\ud800' has a lone surrogate at character 0"),
        ({"sample": None}, "sample None: wanted at least 0"),
        ({"sample": -1}, "sample -1"),
        ({"sample": NAN}, "sample nan"),
        ({"seed": "a"}, "seed 'a': wanted an integer, or None"),
        ({"seed": NAN}, "seed nan"),
        ({"sampling": {"temperature": 1}}, "wanted a SamplingParams"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(make, requests, change, message):
    engine = make()
    (other,) = engine.submit(requests[:1])
    with pytest.raises(ValueError, match=message) as error:
        engine.submit([requests[0], dataclasses.replace(requests[1], **change)])
    assert "request 1" in str(error.value)
    assert list(engine.waiting) == [other]
    engine.abort([other])
    assert clean(engine)


def test_what_is_no_request_is_refused(make):
    with pytest.raises(ValueError, match="request 0: 'hello' is a str; wanted a Request"):
        make().submit(["hello"])


def test_a_generator_of_requests_is_served(make, requests, expected):
    completions = make().generate(request for request in requests)
    assert [completion.tokens for completion in completions] == expected


@pytest.mark.parametrize(
    ("large", "same"),
    [
        ({"max_tokens": 10**12}, {"max_tokens": None}),
        ({"max_tokens": 10**400}, {"max_tokens": None}),
        ({"budget": 2**31}, {"budget": LENGTH}),
        ({"budget": 10**12}, {"budget": LENGTH}),
        ({"budget": 5, "answer_reserve": 2**40}, {"budget": 5, "answer_reserve": LENGTH}),
        ({"seed": 3 + 2**32}, {"seed": 3}),
        ({"prompt_id": 3 + 10 * 2**32}, {"prompt_id": 3}),
        ({"prompt_id": -1}, {"prompt_id": 2**32 - 1}),
        ({"sample": np.int64(2**32 + 1)}, {"sample": 1}),
        ({"prompt": np.arange(9, dtype=np.uint8)}, {"prompt": list(range(9))}),
    ],
)
def test_large_numbers_mean_no_limit_or_wrap_round(make, tokenizer, large, same):
    request = Request([5, 6, tokenizer.think_open, 7], stop_ids=())
    pair = [dataclasses.replace(request, **change) for change in (large, same)]
    one, other = make().generate(pair)
    assert one.tokens == other.tokens and one.forced == other.forced
    assert one.finish == other.finish == "length"


def test_samples_are_counted_from_one():
    with pytest.raises(ValueError, match="samples 0: wanted at least 1"):
        Request([1]).samples(0)
    assert [request.sample for request in Request([1], sample=4).samples(3)] == [4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heat": 1.0}, r"unknown sampling fields \['heat'\]; there are \['temperature'"),
        ({"preset": "wild"}, "unknown preset 'wild'; there are model, greedy, thinking"),
        ({"preset": ["wild"]}, r"unknown preset \['wild'\]"),
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"temperature": NAN}, "temperature nan"),
        ({"temperature": True}, "temperature True"),
        ({"temperature": 1j}, "temperature 1j"),
        ({"temperature": 1e-30}, r"temperature 1e-30: wanted 0 \(greedy\) or at least 1e-06"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_k": 1.5}, "top_k 1.5"),
        ({"top_k": INF}, "top_k inf"),
        ({"min_p": 1.1}, "min_p 1.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0"),
    ],
)
def test_bad_sampling_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        sampling(**changes)


def test_presets_are_the_reports():
    assert PRESETS["thinking"] == sampling(temperature=0.6, top_p=0.95, top_k=20)
    assert PRESETS["non_thinking"] == sampling(
        temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5
    )
