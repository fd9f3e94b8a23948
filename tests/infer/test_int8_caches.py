"""KV caches in int8: the bytes they take, and ids that depend on the request only."""

import jax
import numpy as np
import pytest
from tiny import BUCKETS, LENGTH, PAGES, STEPS, clean, fresh

from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request
from qwen3.model.execution import Execution
from qwen3.model.sizes import DualChunkConfig

RUN = Execution.for_mesh(scan=False, cache_dtype="int8")


def held_bytes(engine):
    """Bytes of the arrays of keys, values and their scales."""
    slot_table = engine.caches.slot_table
    cache = getattr(slot_table, "kv_cache", None) or slot_table.pool
    return sum(x.nbytes for x in jax.tree.leaves(cache))


def same_ids(one, other):
    return [answer.tokens for answer in one] == [answer.tokens for answer in other]


def test_ids_are_those_of_rows_in_pages_and_after_preemptions(make, requests):
    rows, pages, full = make(execution=RUN), make(execution=RUN, **PAGES), make()
    for engine in (rows, pages):
        assert held_bytes(engine) == engine.cache_bytes
        head = rows.config.head_dim  # a byte a number and a scale for each head, not four a number
        assert engine.bytes_per_token * 4 * head == full.bytes_per_token * (head + 4)
    want = rows.generate(requests)
    assert same_ids(pages.generate(requests[::-1])[::-1], want)
    assert pages.stats["preemptions"] > 0 and clean(pages) and clean(rows)
    for one, other in zip(full.generate(requests), want, strict=True):
        same = min(len(one.tokens), len(other.tokens))
        first = next((i for i in range(same) if one.tokens[i] != other.tokens[i]), same)
        gap = np.abs(np.subtract(one.log_probs[:first], other.log_probs[:first]))
        assert gap.max(initial=0) < 0.01  # of log-probabilities near -5.7


def test_a_kernel_that_takes_no_int8_is_refused_before_anything_is_sampled(config, params):
    run = RUN.replace(pages="pallas", dtype="bfloat16")
    with pytest.raises(ValueError, match="'pallas' takes no int8 cache: take .*'gathered'"):
        Engine(config, params, slots=2, max_length=LENGTH, cache="paged", execution=run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        STEPS,
        {"slots": 2, "buckets": BUCKETS},
        {"execution": RUN.replace(scan=True)},
        {"execution": RUN.replace(pages="gathered"), **PAGES},
        {"cache": "paged", "page_size": 16, "chunk": 32, "slots": 3},
    ],
)
def test_other_forms_give_the_same_ids(make, requests, options):
    engine = make(**{"execution": RUN, **options})
    assert same_ids(engine.generate(requests), make(execution=RUN).generate(requests))
    assert clean(engine)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"cache": "paged", "page_size": 8}])
def test_turns_in_their_rows_or_pages_are_those_that_begin_anew(make, prompts, options):
    engine = make(execution=RUN, **options)
    rules = {"max_tokens": 10, "stop_ids": ()}
    first = engine.generate([Request(p, turn=0, **rules) for p in prompts[:3]])
    dialogues = [[*answer.request.prompt, *answer.tokens, 7, 8, 9] for answer in first]
    turns = engine.generate([Request(ids, turn=1, **rules) for ids in dialogues])
    anew = make(execution=RUN).generate([Request(ids, **rules) for ids in dialogues])
    assert same_ids(turns, anew)


@pytest.mark.slow
def test_dual_chunk_attention_gives_the_same_ids_in_pages(config):
    model = config.replace(name="dual", dual_chunk=DualChunkConfig(train_length=32, chunk=16))
    settings = {"slots": 2, "max_length": LENGTH, "block": 8, "execution": RUN}
    group = Request([*range(37)], max_tokens=20, stop_ids=()).samples(3)
    want = Engine(model, fresh(model, 0), **settings).generate(group)
    pages = {"cache": "paged", "page_size": 8, "chunk": 32}
    assert same_ids(Engine(model, fresh(model, 0), **pages, **settings).generate(group), want)
