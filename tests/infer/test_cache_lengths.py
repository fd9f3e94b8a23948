"""How much caches hold, and which prompts are read together."""

import pytest
from tiny import LENGTH

from qwen3.infer.cache_lengths import (
    CacheLengths,
    check_buckets,
    default_buckets,
    narrowest_prefill,
)
from qwen3.infer.requests import Request


def test_cache_lengths_are_few_and_shared(make):
    assert default_buckets(288) == (128, 192, 256, 320)
    assert default_buckets(449) == default_buckets(512) == (128, 192, 256, 384, 512)
    assert default_buckets(1500)[-4:] == (768, 1024, 1280, 1536) and default_buckets(4097)[-2:] == (
        3584,
        4160,
    )
    long = default_buckets(40_960)
    assert long[-1] == 40_960 and len(long) < 30
    assert all(a < b <= a * 3 // 2 for a, b in zip(long, long[1:], strict=False))
    assert check_buckets(None, 40) == (64,)
    for wrong in ((), (64, 32), (32, 32, 64), (32,)):
        with pytest.raises(ValueError, match="buckets"):
            check_buckets(wrong, 64)
    with pytest.raises(ValueError, match="buckets"):
        make(buckets=(64, 32))


def test_long_caches_leave_fewer_slots():
    lengths = CacheLengths(slots=8, batch_ways=2, buckets=(32, 64), cache_tokens=320, block=8)
    assert (lengths.slots_at(32), lengths.slots_at(64), lengths.tight) == (8, 4, True)
    with pytest.raises(ValueError, match="cache_tokens 127 cannot hold 2 answers of 64"):
        CacheLengths(8, 2, (32, 64), 127, 8)


def test_a_cache_is_cut_only_where_a_block_fits():
    lengths = CacheLengths(8, 1, (32, 64, 96), 960, block=8)
    assert [lengths.target(n, 32) for n in (1, 32, 33, 96)] == [32, 32, 64, 96]
    assert [lengths.target(n, 64) for n in (10, 24, 25, 32)] == [32, 32, 64, 64]


def test_prompts_are_read_in_powers_of_two_or_the_whole_context():
    lengths = CacheLengths(8, 1, (300,), 2400, 8)
    assert [lengths.prefill_width(n) for n in (0, 32, 33, 100, 256, 299)] == [
        32,
        32,
        64,
        128,
        256,
        320,
    ]
    splash = CacheLengths(8, 1, (300,), 2400, 8, smallest_prefill=128)
    assert [splash.prefill_width(n) for n in (1, 129, 299)] == [128, 256, 384]


def test_prefill_batches_are_as_narrow_as_the_caches_suggest():
    assert [narrowest_prefill(b, False) for b in ((64,), (96, 160), (128, 192))] == [32, 32, 64]
    assert narrowest_prefill((64,), True) == 128


def test_prompts_of_waiting_requests_fill_up_a_batch(make):
    requests = [Request([5, i, 6], max_tokens=3, stop_ids=()) for i in range(20)]
    engine = make(slots=4, cache_tokens=40 * LENGTH)
    states = engine.submit(requests)
    engine.step()
    assert engine.stats["admitted"] == 4 and engine.stats["prefills"] == 8
    assert len(engine.caches.prefix_cache.entries) == 4
    engine.abort(states)
    assert not engine.caches.prefix_cache.entries and not engine.caches.prefix_cache.waiting
    small = make(slots=4)  # a batch would be too long beside its caches
    small.submit(requests)
    small.step()
    assert small.stats["prefills"] == 4
