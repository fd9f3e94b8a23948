"""Soaks: engine, sandbox and workdir in long use, with what may leak counted before and after."""

import gc
import os
import random
import threading

import jax
import pytest
from attack_runs import below, wardens
from attacks_on_ends import ORPHANS
from attacks_on_verdicts import FORGERIES
from file_targets import OPTIM, SETTINGS
from text_targets import ANY, REQUEST

from qwen3.data.tokenizer import Tokenizer
from qwen3.infer.engine import Engine
from qwen3.infer.paged_caches import PagedCaches
from qwen3.infer.requests import FINISH, Request, sampling
from qwen3.model import transformer
from qwen3.model.sizes import ModelConfig
from qwen3.sandbox.runner import Limits, Sandbox
from qwen3.train import optim
from qwen3.train.state import abstract, create
from qwen3.train.workdir import Workdir

LENGTH = 64
LONG = pytest.mark.slow


def counters():
    """Open files, threads and child processes of this process, and its resident megabytes."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(below(os.getpid())),
        "megabytes": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
    }


def grown(before, most_megabytes):
    """What grew between `before` and now; {} if nothing did."""
    now = counters()
    more = {name: now[name] - before[name] for name in now if now[name] > before[name]}
    if more.get("megabytes", 0) <= most_megabytes:
        more.pop("megabytes", None)
    return more


# --- engine --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine():
    tokenizer = Tokenizer.train(["the cat and the hat, the bat; one two three 1234\n" * 3], 290)
    sizes = {"head_dim": 8, "vocab": tokenizer.vocab_rows, "tied": True, "max_length": LENGTH}
    config = ModelConfig("test", 2, 32, 64, 4, 2, **sizes)
    params = jax.jit(lambda key: transformer.init(config, key))(jax.random.key(0))
    settings = {"slots": 4, "max_length": LENGTH, "buckets": (32, LENGTH), "block": 8}
    engine = Engine(config, params, tokenizer=tokenizer, cache_tokens=2 * LENGTH, **settings)
    engine.warm_up()
    return engine, params


def random_request(rng):
    preset = rng.choice(("model", "greedy", "thinking", "non_thinking", "tools"))
    fields = {
        "prompt": [rng.randrange(200) for _ in range(rng.randint(1, 40))],
        "sampling": sampling(preset),
        "max_tokens": rng.choice((1, 3, 10, None)),
        "budget": rng.choice((None, None, 0, 2, 10**12)),
        "thinking": rng.choice((None, None, True, False)),
        "stop_strings": rng.choice(((), (), ("a", "the"))),
        "prompt_id": rng.choice((None, "x", 3)),
        "seed": rng.randrange(5),
    }
    if rng.random() < 0.2:
        fields[rng.choice(REQUEST)] = rng.choice(ANY)
    return Request(**fields)


def soak_engine(engine, params, count, rng):
    """Sends `count` requests, bad ones among them, aborts some, steps and updates in between."""
    states, refused, sent = [], 0, 0
    while sent < count or any(not state.done for state in states):
        if sent < count and len(engine.waiting) < 12:
            group = random_request(rng)
            sent += 1
            try:
                states += engine.submit([group])
            except ValueError:
                refused += 1
        if rng.random() < 0.2 and states:
            engine.abort(rng.choices(states, k=2))
        if rng.random() < 0.6 or sent >= count:
            engine.step()
        if rng.random() < 0.02:
            engine.update(params, engine.version + 1)
        states = [state for state in states if not state.done or check_completion(state)]
    return refused


def check_completion(state):
    completion = state.completion
    assert completion.finish in FINISH and completion.error is None, completion.error
    lists = (completion.log_probs, completion.sampling_log_probs, completion.forced)
    assert {len(values) for values in lists} == {len(completion.tokens)}
    return False  # done with


def engine_leaks(engine, params, count):
    rng = random.Random(count)
    soak_engine(engine, params, count, rng)  # what is compiled stays, rare programs too
    before = counters()
    refused = soak_engine(engine, params, count, rng)
    assert refused > 0
    assert not engine.active and not engine.waiting
    caches = engine.caches
    if isinstance(caches, PagedCaches):
        assert not any(pool.used or pool.owned for pool in caches.page_cache.pools)
    else:
        assert not caches.prefix_cache.entries and not caches.prefix_cache.waiting
    assert not jax.device_get(caches.slot_table.slots.active).any()
    return grown(before, 16)


def test_an_engine_in_use_leaks_nothing(engine):
    assert engine_leaks(*engine, 60) == {}


@LONG
def test_an_engine_in_long_use_leaks_nothing(engine):
    assert engine_leaks(*engine, 5_000) == {}


# --- sandbox -------------------------------------------------------------------------------------


def sandbox_leaks(count):
    """Jobs of every kind in two wardens, one of which is killed now and then."""
    box = Sandbox(workers=2, limits=Limits(wall_s=2.0, call_s=0.5, cpu_s=2, memory_mb=96))
    if box.probe()["level"] != "namespaces":
        pytest.skip(f"no namespaces on this machine: {box.probe()['refused']}")
    rng = random.Random(count)
    programs = ["def f(x): return [x] * 9", "def f(x): return 1 // 0", "not a program"]
    programs += [code.replace("double", "f") for code in FORGERIES.values()]
    programs += [*ORPHANS.values()][:3] + ["import time\ndef f(x): time.sleep(9)"]
    jobs = [(f"{rng.choice(programs)}\n# {i}", "f", [(i,)]) for i in range(count)]
    box.run_many(jobs[:10])
    before = counters()
    for start in range(0, count, 25):
        box.run_many(jobs[start : start + 25])
        os.kill(rng.choice(wardens(box)), 9)
        box.run_many([(f"def f(x): return {start}", "f", [(i,)]) for i in range(4)])
    assert {pid for warden in wardens(box) for pid in below(warden)} == set()
    leaks = grown(before, 16)
    box.close()
    return leaks


def test_a_sandbox_in_use_leaks_nothing():
    assert sandbox_leaks(25) == {}


@LONG
def test_a_sandbox_in_long_use_leaks_nothing():
    assert sandbox_leaks(1_000) == {}


# --- workdir -------------------------------------------------------------------------------------


def bytes_below(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def workdir_leaks(path, count):
    """Opens a workdir `count` times, restores, saves twice and closes it."""
    import toy

    tx = optim.build(OPTIM, optim.schedule(OPTIM, 20))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.tree.map(lambda p: p.update(sharding=device), jax.eval_shape(toy.init))
    template, state = abstract(shapes, tx), create(toy.init(0), tx)

    def use(times):
        for _ in range(times):
            with Workdir(path, SETTINGS) as work:
                restored = work.restore(template)
                step = int(restored.state.step) if restored else 0
                for more in (1, 2):
                    work.checkpoints.save(state.replace(step=state.step + step + more))

    use(4)
    before, disk = counters(), bytes_below(path)
    use(count)
    assert len(list((path / "checkpoints").iterdir())) == 3, "the rule keeps three"
    assert bytes_below(path) <= 1.1 * disk + 4096
    return grown(before, 64)  # tensorstore and orbax keep some 0.1 MB a save


def test_a_workdir_in_use_leaks_nothing(tmp_path):
    assert workdir_leaks(tmp_path / "run", 5) == {}


@LONG
def test_a_workdir_in_long_use_leaks_nothing(tmp_path):
    assert workdir_leaks(tmp_path / "run", 200) == {}
