"""What goes wrong stays with its request: errors in a step, broken weights, aborts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import BUCKETS, LENGTH, PAGES, STEPS, clean, fresh

from qwen3.infer import admission
from qwen3.infer.decode import DecodeOutput
from qwen3.infer.engine import Engine
from qwen3.infer.request_state import RequestState
from qwen3.infer.requests import Request, sampling
from qwen3.infer.stop_strings import StopStrings
from qwen3.model.sizes import DualChunkConfig

BAD = 250  # the id whose embedding is broken


@pytest.fixture
def finished(requests, expected):
    """finished(completions, failed): the requests `failed` were aborted, the others answered."""

    def check(completions, failed, error):
        for i, (completion, tokens) in enumerate(zip(completions, expected, strict=True)):
            if i in failed:
                assert completion.finish == "abort" and error in completion.error
                assert completion.tokens == tokens[: len(completion.tokens)]
            else:
                assert completion.tokens == tokens and completion.error is None

    return check


# --- errors in a step ----------------------------------------------------------------------------


def test_an_error_over_one_answer_ends_that_one_alone(make, requests, finished, monkeypatch, tight):
    def feed(self, ids):
        raise OverflowError("these bytes are cursed")

    monkeypatch.setattr(StopStrings, "feed", feed)
    requests[4] = dataclasses.replace(requests[4], stop_strings=("never",))
    engine = make(**tight)
    finished(engine.generate(requests), {4}, "OverflowError: these bytes are cursed")
    assert clean(engine)


def test_an_error_over_one_admission_ends_that_one_alone(
    make, requests, finished, monkeypatch, tight
):
    add = admission.add

    def fails_for_two(new, state, source, slot):
        if state.request in (requests[2], requests[7]):
            new.history[int(new.count)] = 1  # half written
            raise OverflowError("too large")
        return add(new, state, source, slot)

    monkeypatch.setattr(admission, "add", fails_for_two)
    engine = make(**tight)
    finished(engine.generate(requests), {2, 7}, "OverflowError: too large")
    assert clean(engine)


def failing(engine, name, when):
    """Let the engine's program `name` raise an error once `when(arguments)` holds."""
    table = engine.caches.slot_table
    form = "compiled" if hasattr(table, "compiled") else "programs"
    programs = getattr(table, form)
    program = getattr(programs, name)

    def call(*arguments, **options):
        if when(*arguments, **options):
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return program(*arguments, **options)

    programs = dataclasses.replace(programs, **{name: call})
    setattr(table, form, programs)
    table.release = programs.release
    if form == "compiled":
        engine.caches.prefix_cache.compiled = programs


@pytest.mark.parametrize("form", [{}, {"cache": "paged"}], ids=["rows", "pages"])
def test_a_prefill_that_fails_ends_the_requests_of_its_batch(make, requests, finished, form):
    """Batches hold one prompt here, and every prompt has its own length."""
    engine, length = make(**form), len(requests[3].prompt) - 1
    failing(engine, "prefill", lambda params, tokens, lengths: lengths[0] == length)
    finished(engine.generate(requests), {3}, "RuntimeError: RESOURCE_EXHAUSTED")
    assert clean(engine)


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, STEPS) for name in ("decode", "insert", "resize", "release")]
    + [(name, PAGES) for name in ("decode", "insert", "resize", "release", "store")],
)
def test_an_error_of_the_device_ends_what_it_worked_on(make, requests, finished, name, form):
    """Donated buffers are lost with it; requests that wait are then served from new ones."""
    engine, calls = make(**form), []
    failing(engine, name, lambda *arguments, **options: calls.append(1) or len(calls) == 2)
    states = engine.submit(requests)
    while not all(state.done for state in states):
        engine.step()
    assert len(calls) >= 2
    failed = {i for i, state in enumerate(states) if state.completion.error}
    assert 0 < len(failed) < len(requests)
    finished([state.completion for state in states], failed, "RESOURCE_EXHAUSTED")
    assert clean(engine)


def test_a_device_that_never_works_ends_all_requests(make, requests):
    engine = make()
    failing(engine, "decode", lambda *arguments: True)
    assert {completion.finish for completion in engine.generate(requests)} == {"abort"}
    assert clean(engine)


# --- broken weights ------------------------------------------------------------------------------


def broken(params, value):
    """Parameters whose embedding of BAD holds a NaN or an infinity."""
    return {**params, "embed": params["embed"].at[BAD, 3].set(value)}


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"experts": 8, "active_experts": 2, "expert_ffn": 16},
        {"dual_chunk": DualChunkConfig(train_length=32, chunk=16)},
    ],
    ids=["dense", "experts", "dual chunk"],
)
def test_an_answer_that_is_not_finite_leaves_the_next_in_its_slot_alone(
    config, tokenizer, changes, value
):
    config = config.replace(name="untied", tied=False, **changes)
    params = fresh(config, 0)
    options = {"slots": 2, "max_length": LENGTH, "buckets": BUCKETS, "block": 8}
    clean_requests = [Request([7, 8 + i], max_tokens=30, sample=i) for i in range(4)]
    want = Engine(config, params, **options).generate(clean_requests)
    engine = Engine(config, broken(params, value), **options)
    poisoned = Request([*range(40, 75), BAD, *range(20)], stop_ids=())
    completions = engine.generate([poisoned, clean_requests[0], poisoned, *clean_requests[1:]])
    for completion in (completions[0], completions[2]):
        assert (completion.finish, completion.tokens) == ("abort", [])
        assert "not finite" in completion.error
    for completion, same in zip([completions[1], *completions[3:]], want, strict=True):
        assert completion.error is None and completion.tokens == same.tokens
        assert completion.log_probs == same.log_probs
    assert clean(engine)


def test_a_last_token_that_no_step_has_read_leaves_the_next_answer_alone(config, tokenizer):
    """A slot whose answer is finished goes on computing while its neighbour decodes."""
    config = config.replace(name="untied", tied=False)
    params = fresh(config, 0)
    newline = tokenizer.encode("\n")[-1]
    params["embed"] = params["embed"].at[newline].set(jnp.nan)
    forced = Request(list(range(40, 80)), thinking=True, max_tokens=2)
    neighbour = Request([3], max_tokens=60, stop_ids=())
    following = Request([7, 8], max_tokens=30, stop_ids=(), sampling=sampling("greedy"))
    options = {"tokenizer": tokenizer, "slots": 2, "max_length": 2 * LENGTH, "block": 8}
    engine = Engine(config, params, **options)
    first, *_, last = engine.generate([forced, neighbour, following])
    assert first.tokens == [tokenizer.think_open, newline] and first.finish == "length"
    if newline not in last.tokens:
        assert last.finish == "length" and last.error is None
    (alone,) = Engine(config, params, **options).generate([following])
    assert last.tokens == alone.tokens and len(last.tokens) > 1


@pytest.mark.parametrize("block", [1, 3, 16])
def test_answers_end_at_the_same_token_for_the_same_reason_in_any_block(
    make, params, tokenizer, block
):
    """A budget may run out behind the stop string in its block."""
    stops = ("the", "a", "q", "1")
    thinker = Request([5, 6, 7], thinking=True, budget=5, stop_strings=stops, prompt_id="p0")
    requests = [dataclasses.replace(thinker, seed=seed) for seed in range(8)]
    reference = make(max_length=128, buckets=(128,), block=2).generate(requests)
    completions = make(max_length=128, buckets=(128,), block=block).generate(requests)
    assert [(c.tokens, c.finish) for c in completions] == [(c.tokens, c.finish) for c in reference]
    assert {c.finish for c in reference} == {"stop", "budget-then-stop"}


@pytest.mark.parametrize(
    ("not_finite", "tokens", "finish"),
    [(None, 3, "stop"), (3, 3, "stop"), (2, 2, "abort"), (0, 0, "abort")],
)
def test_a_token_that_is_not_finite_counts_only_before_the_stop_string(
    tokenizer, not_finite, tokens, finish
):
    ids = tokenizer.encode("the cat, the bat")
    end = tokenizer.token_bytes[ids[2]].decode()
    request = Request([1], stop_strings=(end,))
    assert [tokenizer.token_bytes[i].decode().count(end) for i in ids[:3]] == [0, 0, 1]
    state = RequestState(request, 0, max_length=LENGTH, tokenizer=tokenizer, engine_seed=0)
    state.slot = 0
    column = np.ones((len(ids), 1), bool)
    log_probs = np.full(column.shape, -1.0)
    if not_finite is not None:
        log_probs[not_finite:] = np.nan
    output = DecodeOutput(
        np.array(ids)[:, None], log_probs, log_probs, ~column, column, ~column, None
    )
    count, ending = state.take(output, 0, active=True)
    assert (count, len(state.completion.tokens), ending.finish) == (tokens, tokens, finish)
    assert np.isfinite(state.completion.log_probs).all()


# --- aborts --------------------------------------------------------------------------------------


def test_an_abort_takes_duplicates_and_finished_requests(make, requests, expected):
    engine = make()
    states = engine.submit(requests)
    engine.step()
    decoding = next(state for state in states if state.slot is not None)
    waiting = next(state for state in reversed(states) if state.slot is None)
    engine.abort([waiting, decoding, waiting, decoding])
    engine.abort([waiting, decoding])
    assert waiting.completion.finish == decoding.completion.finish == "abort"
    while not all(state.done for state in states):
        engine.step()
    engine.abort(states + states)
    for state, tokens in zip(states, expected, strict=True):
        if state not in (decoding, waiting):
            assert state.completion.tokens == tokens
    assert clean(engine)
