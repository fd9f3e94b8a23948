"""Pages that were given up come back from the host's memory, the same bits."""

from collections import Counter

import numpy as np
import pytest
from tiny import LENGTH, PAGES, clean, fresh

from qwen3.config import MeshConfig
from qwen3.infer.engine import Engine
from qwen3.infer.host_pages import GivenUp, HostPages, PageTransfer
from qwen3.infer.kv_pages import NO_PAGE
from qwen3.infer.requests import Request, sampling
from qwen3.mesh import make_mesh

ROOM = {"host_tokens": 64 * LENGTH}


class Pool:
    """Pages of two shards as host arrays."""

    def __init__(self):
        self.pages = np.arange(8).reshape(2, 4)

    def read(self, source):
        return self.pages[np.arange(2), source].copy()

    def write(self, pages, target):
        for shard, page in enumerate(target):
            if page != NO_PAGE:
                self.pages[shard, page] = pages[shard]


@pytest.fixture
def pool():
    return Pool()


def host(pool, most):
    return HostPages(most, 2, PageTransfer(pool.read, pool.write), Counter())


def test_a_given_up_page_goes_to_the_host_and_comes_back_elsewhere(pool):
    pages = host(pool, 8)
    pages.give(0, GivenUp([b"a", b"b"], 3, None))
    pages.give(1, GivenUp([b"a"], 0, np.ones(2)))
    assert (0, b"b") in pages and (1, b"b") not in pages
    pages.save()
    pool.pages[:] = 0
    assert pages.find(1, b"a").experts.tolist() == [1, 1]
    assert pages.find(0, b"b").experts is None and pages.find(1, b"b") is None
    pages.bring(1, pages.find(1, b"a"), 2)
    pages.bring(0, pages.find(0, b"b"), 1)
    assert not pool.pages.any()
    pages.load()
    assert pool.pages.tolist() == [[0, 3, 0, 0], [0, 0, 4, 0]]
    assert pages.stats == {"pages_to_host": 2, "pages_from_host": 2}
    pages.load()
    assert pages.stats["pages_from_host"] == 2, "once"


def test_a_page_can_be_asked_for_before_it_is_saved(pool):
    pages = host(pool, 8)
    pages.give(1, GivenUp([b"a"], 1, None))
    pages.bring(1, pages.find(1, b"a"), 3)
    pool.pages[1, 1] = 0  # its place is taken
    pages.load()
    assert pool.pages[1].tolist() == [4, 0, 6, 5]


def test_a_page_that_is_dropped_as_it_is_saved_is_not_there(pool):
    pages = host(pool, 1)
    pages.give(0, GivenUp([b"a"], 0, None))
    pages.give(0, GivenUp([b"b"], 1, None))
    assert (0, b"a") in pages and pages.find(0, b"a") is None
    assert pages.find(0, b"b") is not None


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_little_room_on_the_host_loses_no_request(make, requests, pages):
    engine = make(**PAGES, host_tokens=8 * pages)
    assert all(answer.error is None for answer in engine.generate(requests)) and clean(engine)


def test_the_page_that_was_not_asked_for_longest_is_dropped_first(pool):
    pages = host(pool, 2)
    for page, key in enumerate([b"a", b"b"]):
        pages.give(0, GivenUp([key], page, None))
    pages.save()
    pages.touch(0, b"a")
    pages.touch(0, b"c")  # not here: no harm
    pages.give(0, GivenUp([b"c"], 2, None))
    pages.save()
    assert [(0, key) in pages for key in (b"a", b"b", b"c")] == [True, False, True]
    pages.give(0, GivenUp([b"c"], 3, None))
    pages.save()
    assert pages.stats["pages_to_host"] == 3, "what is here is not copied again"
    pages.clear()
    assert (0, b"a") not in pages
    none = host(pool, 0)
    none.give(0, GivenUp([b"a"], 0, None))
    none.save()
    assert (0, b"a") not in none and not none.stats


def logs(answers):
    return [(answer.tokens, answer.log_probs, answer.sampling_log_probs) for answer in answers]


def test_preempted_answers_have_the_same_bits(make, requests):
    """Without room on the host, what they had is prefilled again."""
    whole = make(**PAGES | {"cache_tokens": 4 * LENGTH}).generate(requests)
    tight = make(**PAGES, **ROOM)
    assert logs(tight.generate(requests)) == logs(whole) and clean(tight)
    assert tight.stats["preemptions"] > 0 and tight.stats["pages_from_host"] > 0
    without = make(**PAGES, host_tokens=0)
    assert [a.tokens for a in without.generate(requests)] == [a.tokens for a in whole]
    assert without.stats["pages_to_host"] == 0
    assert without.stats["prefilled_tokens"] > tight.stats["prefilled_tokens"]


def test_new_weights_forget_what_the_host_has(make, config, requests):
    engine, other = make(**PAGES, **ROOM), fresh(config, 1)
    engine.generate(requests)
    assert engine.caches.page_cache.host_pages.entries
    engine.update(other, version=1)
    assert not engine.caches.page_cache.host_pages.entries
    again = make(**PAGES, **ROOM)
    again.update(other, version=1)
    assert logs(engine.generate(requests)) == logs(again.generate(requests))


def test_room_on_the_host_must_be_some(make):
    with pytest.raises(ValueError, match="host_tokens -1: wanted at least 0"):
        make(**PAGES, host_tokens=-1)
    with pytest.raises(ValueError, match="host_tokens 64 is for cache='paged', not 'rows'"):
        make(host_tokens=64)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [None, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_on_a_mesh_with_experts_the_same_bits_and_routing(config, shape):
    """Four shards of the pool, each with its own pages on the host."""
    model = config.replace(name="experts", experts=8, active_experts=2, expert_ffn=16)
    params = fresh(model, 0)
    mesh = make_mesh(MeshConfig(**shape)) if shape else None
    ways = 4 if shape else 1
    options = {"cache": "paged", "page_size": 8, "chunk": 32, "slots": 4 * ways, "mesh": mesh}
    options |= {"max_length": LENGTH, "block": 8, "record_experts": True}
    rules = {"sampling": sampling("model", top_k=20), "max_tokens": 40, "stop_ids": ()}
    group = [r for n in range(4) for r in Request([*range(n, n + 9)], **rules).samples(2 * ways)]
    whole = Engine(model, params, **options).generate(group)
    tight = Engine(model, params, cache_tokens=ways * LENGTH, **ROOM, **options)
    found = tight.generate(group)
    assert logs(found) == logs(whole) and clean(tight)
    assert tight.stats["preemptions"] > 0 and tight.stats["pages_from_host"] > 0
    for one, other in zip(found, whole, strict=True):
        np.testing.assert_array_equal(one.experts, other.experts)
