"""How much caches hold, and which prompts are read together."""

import pytest
from tiny import LENGTH

from qwen3.infer.cache_lengths import CacheLengths, checked, lengths, narrowest
from qwen3.infer.engine import Engine
from qwen3.infer.requests import Request


def test_cache_lengths_are_few_and_shared():
    assert lengths(288) == (128, 192, 256, 320)
    assert lengths(449) == lengths(512) == (128, 192, 256, 384, 512)
    assert lengths(1500)[-4:] == (768, 1024, 1280, 1536) and lengths(4097)[-2:] == (3584, 4160)
    long = lengths(40_960)
    assert long[-1] == 40_960 and len(long) < 30
    assert all(a < b <= a * 3 // 2 for a, b in zip(long, long[1:], strict=False))
    assert checked(None, 40) == (64,)
    for wrong in ((), (64, 32), (32, 32, 64), (32,)):
        with pytest.raises(ValueError, match="buckets"):
            checked(wrong, 64)
    with pytest.raises(ValueError, match="buckets"):
        Engine(None, None, max_length=64, buckets=(64, 32))


def test_long_caches_leave_fewer_slots():
    room = CacheLengths(slots=8, ways=2, buckets=(32, 64), cache_tokens=320, block=8)
    assert (room.rows_at(32), room.rows_at(64), room.tight) == (8, 4, True)
    with pytest.raises(ValueError, match="cache_tokens 127 cannot hold 2 answers of 64"):
        CacheLengths(8, 2, (32, 64), 127, 8)


def test_a_cache_is_cut_only_where_a_block_fits():
    room = CacheLengths(8, 1, (32, 64, 96), 960, block=8)
    assert [room.target(n, 32) for n in (1, 32, 33, 96)] == [32, 32, 64, 96]
    assert [room.target(n, 64) for n in (10, 24, 25, 32)] == [32, 32, 64, 64]


def test_prompts_are_read_in_powers_of_two_or_the_whole_context():
    room = CacheLengths(8, 1, (300,), 2400, 8)
    assert [room.width(n) for n in (0, 32, 33, 100, 256, 299)] == [32, 32, 64, 128, 256, 320]
    splash = CacheLengths(8, 1, (300,), 2400, 8, smallest=128)
    assert [splash.width(n) for n in (1, 129, 299)] == [128, 256, 384]


def test_prefill_batches_are_as_narrow_as_the_caches_suggest():
    assert [narrowest(b, False) for b in ((64,), (96, 160), (128, 192))] == [32, 32, 64]
    assert narrowest((64,), True) == 128


def test_prompts_of_waiting_requests_fill_up_a_batch(make):
    asked = [Request([5, i, 6], max_tokens=3, stop_ids=()) for i in range(20)]
    engine = make(slots=4, cache_tokens=40 * LENGTH)
    tickets = engine.submit(asked)
    engine.step()
    assert engine.stats["admitted"] == 4 and engine.stats["prefills"] == 8
    assert len(engine.prompts.read) == 4
    engine.abort(tickets)
    assert not engine.prompts.read and not engine.prompts.waiting
    small = make(slots=4)  # a batch would be too long beside its caches
    small.submit(asked)
    small.step()
    assert small.stats["prefills"] == 4
