"""Prefill and decode of the engine, compiled for slices that are not here."""

import dataclasses

import pytest

pytest.importorskip("libtpu")

from qwen3.config import MeshConfig
from qwen3.model import sizes
from qwen3.plan import fit
from qwen3.plan.compiling import plan
from qwen3.plan.steps import Setting

MODEL = sizes.ModelConfig("small-decode", 2, 256, 512, 4, 2, vocab=1024)
LENGTH = 256


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sizes.SIZES, MODEL.name, MODEL)
        yield


def setting(**changes):
    base = Setting("small-decode", "v5e:2x2", MeshConfig(fsdp=2, tensor=2), length=LENGTH)
    return dataclasses.replace(base, batch_per_device=4, **changes)


def bytes_of(model, slots, length):
    """(weights, caches) in bf16."""
    caches = 2 * 2 * model.layers * model.kv_heads * model.head_dim * slots * length
    return 2 * sizes.count_parameters(model).total, caches


def test_decode_holds_weights_and_caches_and_changes_the_caches_in_place():
    step = plan(setting(step="decode"))
    weights, caches = bytes_of(MODEL, 16, LENGTH)
    assert step.fits and step.tokens == 4
    # Slots add counts and seen tokens: 5 bytes a slot and vocabulary row.
    rows = 16 * 5 * MODEL.vocab
    assert step.memory["arguments"] == pytest.approx((weights + caches + rows) / 4, rel=0.1)
    assert step.memory["aliased"] > 0.95 * caches / 4, "the caches are donated"
    assert step.flops_ratio == pytest.approx(1.0, abs=0.05)


def test_decode_reads_caches_in_rows_once_though_parts_of_them_are_fetched_ahead():
    step = plan(setting(step="decode", length=16 * LENGTH))
    assert step.bytes_accessed < 1.4 * step.memory["arguments"]


def test_decode_reads_the_pages_that_there_are_and_writes_them_in_place():
    """A pool of three quarters of what rows would take, for the kernel of a TPU."""
    step = plan(setting(step="decode", cache="paged", cache_tokens=16 * LENGTH * 3 // 4))
    weights, caches = bytes_of(MODEL, 16, LENGTH * 3 // 4)
    assert step.fits and step.tokens == 4
    rows = 16 * 5 * MODEL.vocab
    assert step.memory["arguments"] == pytest.approx((weights + caches + rows) / 4, rel=0.1)
    assert step.memory["aliased"] > 0.95 * caches / 4, "the pool is donated"
    # Nothing moves the pool: it is read once, beside the weights.
    assert step.bytes_accessed < 2.5 * step.memory["arguments"]
    assert step.flops["attention"] == 4 * MODEL.layers * 2 * 128 * (8 * LENGTH * 3 // 4)
    assert step.flops_ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"cache": "paged"}])
def test_caches_and_weights_in_int8_are_counted(form):
    """A byte a number, and 4 for the scale of a head's 128 or of an output channel."""
    run = (("cache_dtype", "int8"), ("weights", "int8"), ("pages", "gathered"))
    step = plan(setting(step="decode", execution=run, length=8 * LENGTH, **form))
    weights, caches = bytes_of(MODEL, 16, 8 * LENGTH)
    floats = 2 * 2 * MODEL.vocab * MODEL.hidden  # embedding and output matrix
    rows = 16 * 5 * MODEL.vocab
    held = floats + (weights - floats) / 2 + caches / 2 * 132 / 128 + rows
    assert step.memory["arguments"] == pytest.approx(held / 4, rel=0.03)
    assert step.memory["aliased"] > 0.95 * caches / 2 / 4, "caches and scales are donated"


def test_prefill_gives_caches():
    step = plan(setting(step="prefill"))
    weights, caches = bytes_of(MODEL, 16, LENGTH)
    assert step.fits and step.tokens == 4 * LENGTH
    # Only keys and values of the last layer are wanted: not its queries, output, feed-forward, nor
    # the head.
    heads = 2 * MODEL.heads * MODEL.head_dim
    unused = 2 * MODEL.hidden * (heads + 3 * MODEL.ffn + MODEL.vocab)
    assert step.memory["arguments"] == pytest.approx((weights - unused) / 4, rel=0.1)
    assert step.memory["outputs"] == pytest.approx(caches / 4, rel=0.05)
    assert step.flops["attention"] > 0, "splash attention"


def test_what_generation_cannot_do_is_refused():
    with pytest.raises(ValueError, match="decode step has no microbatches, so not 2"):
        plan(setting(step="decode", microbatches=2))
    with pytest.raises(ValueError, match="cache 'blocks': wanted one of rows, paged"):
        plan(setting(step="decode", cache="blocks"))
    with pytest.raises(ValueError, match="cache_tokens 128 cannot hold 2 answers of 256 tokens"):
        plan(setting(step="decode", cache="paged", cache_tokens=128))
    with pytest.raises(ValueError, match="'pallas' takes no int8 cache: take .*'gathered'"):
        plan(setting(step="decode", cache="paged", execution=(("cache_dtype", "int8"),)))
    with pytest.raises(ValueError, match="does not divide positions: context 2"):
        plan(setting(step="decode", mesh=MeshConfig(context=2)))
    with pytest.raises(ValueError, match="2 kv heads do not divide over a tensor axis of 4"):
        plan(setting(step="prefill", mesh=MeshConfig(tensor=4)))
    with pytest.raises(ValueError, match="--fit cannot estimate the decode step"):
        fit.search(setting(step="decode"))


@pytest.mark.slow
def test_decode_of_a_released_size():
    model = sizes.size("0.6b")
    step = plan(Setting("0.6b", "v5e:2x2", MeshConfig(tensor=4), "decode", 8))
    weights, caches = bytes_of(model, 32, 4096)
    assert step.fits and step.tokens == 8
    assert step.memory["arguments"] == pytest.approx((weights + caches) / 4, rel=0.1)
