"""The paged KV cache: how many pages sequences take, who shares them, and what is copied."""

import dataclasses

import numpy as np
import pytest
from tiny import LENGTH, PAGES, clean, fresh

from qwen3.infer.decode import DecodeOutput
from qwen3.infer.engine import Engine
from qwen3.infer.page_layout import PageLayout
from qwen3.infer.page_pool import PagePool, page_keys
from qwen3.infer.requests import Request
from qwen3.model.execution import Execution
from qwen3.model.sizes import DualChunkConfig


def layout(**changes):
    settings = {"slots": 8, "batch_ways": 2, "max_length": 300, "cache_tokens": 2400, "block": 8}
    settings |= {"host_tokens": 1200}
    return PageLayout(**settings | {"chunk": 512, "page_size": 32} | changes)


def test_a_sequence_takes_what_it_uses_rounded_up_to_pages():
    pages = layout()
    assert [pages.pages_of(n) for n in (0, 1, 32, 33, 300)] == [0, 1, 1, 2, 10]
    assert pages.most == 38  # of one of two shards
    assert pages.host_pages == 37  # of both
    assert layout(chunk=128).chunk_pages == 4
    for wrong in ({"page_size": 24}, {"chunk": 100}, {"chunk": 16}, {"page_size": 64}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} {next(iter(wrong.values()))}"):
            layout(**wrong)
    with pytest.raises(ValueError, match="cache_tokens 599 cannot hold 2 answers of 300"):
        layout(cache_tokens=599)


def test_pools_have_few_lengths():
    pages = layout()
    assert pages.widths == (4, 8, 12, 16, 20, 24, 28, 32, 38)  # four slots a shard
    assert [pages.width(n) for n in (0, 4, 5, 33)] == [4, 4, 8, 38]
    long = layout(slots=8, batch_ways=1, max_length=40_960, cache_tokens=8 * 40_960)
    assert len(long.widths) == 27 and long.widths[-1] == 8 * 1280
    assert long.prefixes == (4, 16, 64, 256, 1024, 1280) and long.prefix_width(17) == 64


def test_prompts_are_read_in_powers_of_two_up_to_a_chunk():
    pages = layout(chunk=128)
    assert [pages.prefill_width(n) for n in (0, 32, 33, 100, 128)] == [32, 32, 64, 128, 128]
    assert [pages.suffix_width(n) for n in (1, 32, 33, 128)] == [32, 32, 128, 128]
    splash = layout(chunk=256, smallest_prefill=128)
    assert [splash.prefill_width(n) for n in (1, 129)] == [128, 256]


def test_a_form_of_the_cache_takes_its_own_options_only(make):
    with pytest.raises(ValueError, match="cache 'blocks': wanted one of rows, paged"):
        make(cache="blocks")
    with pytest.raises(ValueError, match="page_size 16 is for cache='paged', not 'rows'"):
        make(page_size=16)
    with pytest.raises(ValueError, match="buckets .* is for cache='rows', not 'paged'"):
        make(cache="paged", buckets=(64,))


def pool(most):
    return PagePool(most, lambda pages: next(n for n in (2, 3, 8) if n >= pages))


def test_a_page_is_free_when_it_has_no_user_and_kept_while_it_holds_a_prefix():
    pages, keys = pool(3), page_keys(range(10), 4)
    assert len(keys) == 3 and len(set(keys)) == 3 and keys[:2] == page_keys(range(9), 4)[:2]
    first, second = pages.take(2)
    assert pages.width == 2, "a pool is as long as what was taken"
    pages.register(keys[0], first)
    assert pages.share(keys[0]) == first and pages.share(keys[1]) is None
    pages.register(keys[1], second)
    pages.release([first, second])
    assert (pages.used, pages.available) == (1, 2)
    assert pages.take(3) is None
    pages.release([first])
    assert (pages.used, pages.available) == (0, 3)
    assert len(pages.take(1)) == 1 and pages.share(keys[1]) is None, "the least recently used goes"
    assert pages.width == 2, "what no one uses is given up before the pool grows"
    assert pages.share(keys[0]) == first and len(pages.take(1)) == 1 and pages.width == 3
    pages.clear()
    pages.release([first])
    assert pages.take(1) == [first], "what is forgotten is free without users"


def test_a_pool_that_shrinks_moves_the_pages_that_are_used():
    pages, keys = pool(8), page_keys(range(12), 4)
    taken = pages.take(6)
    for key, page in zip(keys, taken[3:], strict=True):
        pages.register(key, page)
    pages.owned.add(5)
    pages.release([0, 1, 3])  # 3 stays as a prefix without users
    assert pages.shrink(3) == {4: 0, 5: 1}
    assert pages.owned == {1} and pages.used == 3 and pages.available == 5
    assert [pages.share(key) for key in keys] == [None, 0, 1]


def test_pages_that_a_waiting_turn_needs_are_given_up_last_and_move():
    pages = PagePool(6, lambda count: next(n for n in (4, 6) if n >= count))
    keys = page_keys([*range(12)], 4)
    pages.take(4)
    for page, key in zip((3, 1, 0), keys, strict=True):
        pages.register(key, page)
    pages.release(range(4))  # 2 holds nothing
    pages.keep(keys[0], True)
    assert (list(pages.unused), list(pages.kept)) == ([0, 1], [3])
    assert pages.take(4) == [0, 1, 2, 4] and pages.width == 6, "it grows before it gives up"
    assert list(pages.kept) == [3] and pages.available == 2
    pages.release([0, 1, 2])
    assert pages.shrink(2) == {3: 0, 4: 1} and pages.share(keys[0]) == 0
    pages.release([0])
    pages.keep(keys[0], True)
    pages.keep(keys[0], False)
    assert (list(pages.unused), list(pages.kept)) == ([0], [])
    pages.keep(keys[0], True)
    assert len(pages.take(5)) == 5 and not pages.kept and pages.share(keys[0]) is None


def test_samples_and_turns_prefill_once_and_later_ones_copy(make):
    engine = make(cache="paged", page_size=8)
    states = engine.submit(Request([*range(20)], max_tokens=12, stop_ids=()).samples(3))
    assert engine.caches.schedule(engine.params) == {}
    assert engine.stats["prefills"] == 1
    first, *others = [state.copies for state in states]
    # The first one goes on in the pages of the prefill; of the last, only places are zeroed.
    assert [i for i, page in first if page != states[0].pages[i]] == []
    for copies in others:
        assert copies[:3] == [(i, states[0].pages[i]) for i in range(3)]
    while not all(state.done for state in states):
        engine.step()
    dialogue = [*range(20), *states[1].completion.tokens, 7, 8, 9]
    engine.stats.clear()
    (second,) = engine.generate([Request(dialogue, max_tokens=5, stop_ids=())])
    assert engine.stats["prefills"] == 0, "none began with its first token"
    (alone,) = make().generate([Request(dialogue, max_tokens=5, stop_ids=())])
    assert second.tokens == alone.tokens and clean(engine)
    np.testing.assert_allclose(second.log_probs, alone.log_probs, atol=1e-4)
    engine.update(fresh(engine.config, 1), 1)
    assert all(not pool.page_of for pool in engine.caches.page_cache.pools)


def test_a_part_page_that_holds_a_longer_prefix_is_copied(make):
    """Prompt, its answer as a turn, and the prompt again while the turn is prefilled."""
    engine = make(cache="paged", page_size=16, slots=2)
    short = Request([*range(5)], max_tokens=20, stop_ids=())
    (first,) = engine.generate([short])
    turn = Request([*range(5), *first.tokens, 3, 4], max_tokens=8, stop_ids=())
    again, other = engine.generate([short, turn])
    assert again.tokens == first.tokens
    assert other.tokens == make().generate([turn])[0].tokens and clean(engine)
    assert engine.generate([turn])[0].tokens == other.tokens


def test_long_prompts_are_prefilled_between_decode_calls(make):
    short = Request([5, 6], max_tokens=40, stop_ids=())
    long = Request(list(range(50, 110))[: LENGTH - 4], max_tokens=3, stop_ids=())
    engine = make(cache="paged", page_size=8, chunk=32, block=8)
    (other,) = engine.submit([short])
    engine.step()
    (state,) = engine.submit([long])
    engine.step()
    assert state.slot is None and len(other.completion.tokens) == 16
    while not (state.done and other.done):
        engine.step()
    for answer, request in ((state, long), (other, short)):
        (alone,) = make().generate([request])
        assert answer.completion.tokens == alone.tokens
    assert clean(engine)


def without_a_model(engine):
    """An engine whose device programs do nothing: every slot generates tokens up to its limit."""
    slot_table = engine.caches.slot_table

    def decode(params, slots, pool, table, tables, allowed, most, finish):
        left = np.array([0 if s is None else s.tokens_left for s in slot_table.states])
        generated = np.arange(engine.block)[:, None] < left
        zeros = np.zeros(generated.shape)
        output = DecodeOutput(
            token_ids=zeros.astype(int),
            log_probs=zeros,
            sampling_log_probs=zeros,
            forced=zeros.astype(bool),
            generated=generated,
            exhausted=zeros.astype(bool),
            expert_ids_TLSA=None,
        )
        return slots._replace(active=left > engine.block), pool, output

    slot_table.programs = dataclasses.replace(
        slot_table.programs,
        prefill=lambda *arguments: (None, None),
        store=lambda pool, *arguments: pool,
        resize=lambda layer, source: layer,
        insert=lambda slots, new: slots,
        decode=decode,
    )
    slot_table.release = lambda slots, keep: slots
    return engine


def test_the_memory_of_pages_is_near_that_of_the_tokens_alive(config, params):
    """Lognormal lengths whose mean is an eighth of the longest; all that is allocated counts."""
    longest, rng = 4096, np.random.default_rng(0)
    lengths = np.exp(rng.normal(np.log(longest / 8) - 0.32, 0.8, 128)).astype(int)
    assert 0.9 < lengths.mean() / (longest / 8) < 1.1
    lengths = np.clip(lengths, 4, longest - 40)
    requests = [
        Request(rng.integers(0, 200, 32).tolist(), max_tokens=int(n), stop_ids=()) for n in lengths
    ]
    config = config.replace(max_length=longest)
    engine = without_a_model(Engine(config, params, slots=16, cache="paged"))
    states, held, alive, rows = engine.submit(requests), 0, 0, 0
    while engine.waiting or engine.active:
        engine.step()
        if engine.waiting:  # all slots are in use
            sequences = [len(state.sequence) for state in engine.caches.requests]
            held += engine.cache_bytes // engine.bytes_per_token
            alive += sum(sequences)
            rows += engine.slots * max(sequences)
    assert all(len(state.completion.tokens) == n for state, n in zip(states, lengths, strict=True))
    assert held <= 1.3 * alive < rows / 2


def spied(engine):
    """The numbers of rows of an engine's prefill batches, as they come."""
    rows, prefill = [], engine.caches.page_cache.prefill
    run = prefill.prefill
    prefill.prefill = lambda params, tokens, *more: (
        rows.append(len(tokens)) or run(params, tokens, *more)
    )
    return rows


def test_waiting_prompts_fill_up_a_batch_and_are_not_read_again(make):
    requests = [Request([n, *range(20)], max_tokens=3 + n, stop_ids=()) for n in range(12)]
    engine = make(cache="paged", page_size=8, cache_tokens=16 * LENGTH)
    rows = spied(engine)
    states = engine.submit(requests)
    engine.step()
    assert rows == [8]
    assert [state.ahead for state in states] == [False] * 4 + [True] * 4 + [False] * 4
    pool = engine.caches.page_cache.pools[0]
    assert len(pool.kept) == 4 * 3, "they are given up last"
    unused = len(pool.unused)
    engine.abort(states[5:6])
    assert len(pool.kept) == 3 * 3 and len(pool.unused) == unused + 3
    while not all(state.done for state in states):
        engine.step()
    assert rows == [8, 1, 1, 1, 1] and engine.stats["prefills"] == 12 and clean(engine)
    want = make().generate(requests)
    for state, answer in zip(states, want, strict=True):
        if state is not states[5]:
            assert state.completion.tokens == answer.tokens


def test_nothing_is_read_ahead_without_room_or_for_episodes(make):
    def batches(turn=None, **options):
        engine = make(cache="paged", page_size=8, **options)
        rows = spied(engine)
        engine.submit([Request([n, *range(20)], turn=turn, stop_ids=()) for n in range(12)])
        engine.step()
        return rows

    assert batches(cache_tokens=16 * LENGTH) == [8]
    assert batches(cache_tokens=4 * LENGTH) == [1] * 4
    assert batches(turn=0, cache_tokens=16 * LENGTH) == [1] * 4
    assert batches(turn=0, slots=16, cache_tokens=16 * LENGTH) == [1] * 12
    assert batches(slots=12, cache_tokens=16 * LENGTH) == [8] + [1] * 4


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["rows", "paged"])
def test_a_kv_cache_in_bfloat16_takes_half_and_is_near(make, requests, cache):
    run = Execution.for_mesh(scan=False)
    full = make(cache=cache, execution=run)
    half = make(cache=cache, execution=run.replace(cache_dtype="bfloat16"))
    assert full.bytes_per_token == 2 * half.bytes_per_token
    for one, other in zip(full.generate(requests), half.generate(requests), strict=True):
        same = min(len(one.tokens), len(other.tokens))
        first = next((i for i in range(same) if one.tokens[i] != other.tokens[i]), same)
        gap = np.abs(np.subtract(one.log_probs[:first], other.log_probs[:first]))
        assert gap.max(initial=0) < 0.05
    assert clean(half)


@pytest.mark.slow
def test_gathered_pages_give_the_same_ids(make, requests, expected):
    """The kernel of a GPU, with preemptions, chunks and pages that are full."""
    run = Execution.for_mesh(scan=False, pages="gathered")
    engine = make(execution=run, **PAGES)
    answers = engine.generate(requests)
    assert [answer.tokens for answer in answers] == expected and clean(engine)
    assert engine.stats["preemptions"] > 0


@pytest.mark.slow
def test_dual_chunk_attention_and_experts_give_the_same_ids_in_pages(config):
    changes = {
        "dual": {"dual_chunk": DualChunkConfig(train_length=32, chunk=16)},
        "experts": {"experts": 8, "active_experts": 2, "expert_ffn": 16},
    }
    for name, change in changes.items():
        model = config.replace(name=name, **change)
        params = fresh(model, 0)
        settings = {"slots": 2, "max_length": LENGTH, "block": 8}
        if name == "experts":
            settings["record_experts"] = True
        group = Request([*range(37)], max_tokens=20, stop_ids=()).samples(3)
        want = Engine(model, params, **settings).generate(group)
        got = Engine(model, params, cache="paged", page_size=8, chunk=32, **settings).generate(
            group
        )
        for one, other in zip(want, got, strict=True):
            assert one.tokens == other.tokens
            np.testing.assert_allclose(one.log_probs, other.log_probs, atol=1e-4)
            if name == "experts":
                np.testing.assert_array_equal(one.experts, other.experts)
