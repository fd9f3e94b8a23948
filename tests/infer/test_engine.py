"""The engine: same answers whatever the schedule, the trainer's log-probs, nothing leaked."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import LENGTH, clean, fresh
from trainer_scores import log_prob_gap

from qwen3.infer import stop_strings
from qwen3.infer.backend import RolloutBackend
from qwen3.infer.requests import Request, sampling


def test_answers_do_not_depend_on_order_slots_block_or_restart(make, requests, expected):
    assert len({tuple(tokens) for tokens in expected}) == len(expected)
    backwards = make(slots=3).generate(requests[::-1])[::-1]
    assert [completion.tokens for completion in backwards] == expected
    alone = make(block=5).generate(requests[4:5])
    assert alone[0].tokens == expected[4]
    other_seed = make(seed=1).generate(requests[:1])
    assert other_seed[0].tokens != expected[0]


def test_memory_bounds_the_slots_and_answers_wait_again_unchanged(make, requests, expected, tight):
    engine = make(**tight)
    completions = engine.generate(requests)
    assert [completion.tokens for completion in completions] == expected
    assert engine.stats["preemptions"] > 0 and clean(engine)
    with pytest.raises(ValueError, match="cache_tokens 63"):
        make(**tight | {"cache_tokens": 63})


def test_no_refill_gives_the_same_answers_in_more_blocks(make, requests, expected):
    refilled, static = make(), make(refill=False)
    refilled.generate(requests)
    assert [completion.tokens for completion in static.generate(requests)] == expected


def test_log_probs_are_the_trainers_before_and_after_an_update(
    make, apply, config, params, requests, tight
):
    engine = make(**tight)
    assert isinstance(engine, RolloutBackend)
    assert log_prob_gap(apply, params, engine.generate(requests), length=LENGTH) < 1e-4
    new = fresh(config, 1)
    engine.update(new, version=7)
    completions = engine.generate(requests)
    assert log_prob_gap(apply, new, completions, length=LENGTH) < 1e-4
    assert log_prob_gap(apply, params, completions, length=LENGTH) > 1e-2
    assert all(set(completion.versions) == {7} for completion in completions)


def test_sampling_log_probs_are_of_the_rules_distribution(make, requests, config, tokenizer):
    plain, thinking, _, greedy = make().generate(requests[:4])
    # Nearly uniform at the start; the padded rows have their share of the full distribution only.
    gain = np.log(config.vocab / tokenizer.vocab_size)
    np.testing.assert_allclose(
        np.subtract(plain.sampling_log_probs, plain.log_probs), gain, atol=0.02
    )
    assert np.mean(thinking.sampling_log_probs) > np.mean(thinking.log_probs)
    assert greedy.sampling_log_probs == [0.0] * len(greedy.tokens)
    assert not any(thinking.forced)


def test_padded_vocabulary_rows_are_never_sampled(make, tokenizer, config, prompts):
    hot = sampling("model", temperature=50.0)
    completions = make().generate([Request(p, sampling=hot, stop_ids=()) for p in prompts])
    assert config.vocab > tokenizer.vocab_size
    assert max(max(completion.tokens) for completion in completions) < tokenizer.vocab_size
    assert all(
        len(completion.tokens) == LENGTH - len(completion.request.prompt)
        and completion.finish == "length"
        for completion in completions
    )


def test_samples_of_a_prompt_share_its_prefill_and_differ(make, prompts):
    engine = make()
    completions = engine.generate(Request(prompts[9], max_tokens=12).samples(9))
    assert engine.stats["prefills"] == 1
    assert len({tuple(completion.tokens) for completion in completions}) == 9
    again = make(slots=2).generate([Request(prompts[9], max_tokens=12, sample=5)])
    assert again[0].tokens == completions[5].tokens
    assert clean(engine)


def test_stop_ids_end_an_answer_and_stay_in_it(make, prompts):
    free = Request(prompts[3], max_tokens=30, stop_ids=())
    (long,) = make().generate([free])
    stop = long.tokens[7]
    (short,) = make().generate([dataclasses.replace(free, stop_ids=(stop,))])
    assert short.tokens == long.tokens[: long.tokens.index(stop) + 1]
    assert (short.finish, long.finish) == ("stop", "length")


def test_stop_strings_across_tokens_end_at_the_completing_token(make, tokenizer, prompts):
    free = Request(prompts[3], max_tokens=30, stop_ids=())
    (long,) = make().generate([free])
    parts = tokenizer.token_bytes
    wanted = parts[long.tokens[4]] + parts[long.tokens[5]] + parts[long.tokens[6]]
    text = wanted.decode("utf-8", "ignore")
    if not text or text.encode() not in wanted:
        pytest.fail("choose another seed: the tokens are no text")
    watch = stop_strings.StopStrings(tokenizer, [text])
    end = watch.feed(long.tokens)
    engine = make()
    short, other = engine.generate(
        [dataclasses.replace(free, stop_strings=("never", text)), dataclasses.replace(free)]
    )
    assert short.tokens == long.tokens[: end + 1] and short.finish == "stop"
    assert other.tokens == long.tokens and clean(engine)


def test_stop_strings_are_found_inside_cut_characters(tokenizer):
    fire = tokenizer.encode(chr(0x1F525))
    watch = stop_strings.StopStrings(tokenizer, [chr(0x1F525) + "!"])
    assert watch.feed(fire) is None
    assert watch.feed(tokenizer.encode("!")) == 0


@pytest.fixture
def backend_compiles():
    """Call it for a list that grows with every program that is compiled from then on."""

    def begin():
        compiled = []
        jax.monitoring.register_event_duration_secs_listener(
            lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
        )
        return compiled

    return begin


def test_nothing_is_compiled_after_the_warm_up(make, requests, params, tight, backend_compiles):
    engine = make(**tight)
    engine.warm_up([len(completion.prompt) for completion in requests])
    compiled = backend_compiles()
    engine.generate(requests)
    engine.update(params, 1)
    engine.generate(requests[::-1])
    assert engine.stats["preemptions"] and engine.stats["resizes"] > 2
    assert not compiled
    jax.jit(lambda x: x * 3 + 1)(np.arange(7))  # the counter counts
    assert compiled
    with pytest.raises(ValueError, match="being worked on"):
        engine.submit(requests)
        engine.warm_up()


def test_nothing_is_compiled_for_turns_after_the_warm_up(make, tight, backend_compiles):
    engine = make(**tight)
    engine.warm_up([10], turns=[3])
    compiled = backend_compiles()
    rules = {"max_tokens": 4, "stop_ids": ()}
    first = engine.generate([Request([n, *range(9)], turn=0, **rules) for n in range(2)])
    dialogues = [[*answer.request.prompt, *answer.tokens, 7, 8, 9] for answer in first]
    before = engine.stats["prefilled_tokens"]
    engine.generate([Request(ids, turn=1, **rules) for ids in dialogues])
    assert engine.stats["prefilled_tokens"] - before < len(dialogues[0])
    assert not compiled


def test_an_update_in_mid_answer_marks_each_token_with_its_version(make, config, prompts):
    engine = make()
    (state,) = engine.submit([Request(prompts[2], max_tokens=20, stop_ids=())])
    engine.step()
    engine.update(fresh(config, 1), version=1)
    while not state.done:
        engine.step()
    versions = state.completion.versions
    assert versions == sorted(versions) and set(versions) == {0, 1} and len(versions) == 20


def test_an_abort_leaves_the_others_and_their_answers_alone(make, requests, expected, tight):
    engine = make(**tight)
    states = engine.submit(requests)
    engine.step()
    running = next(t for t in states if t.slot is not None)
    waiting = next(t for t in reversed(states) if t.slot is None and not t.done)
    engine.abort([running, waiting])
    while not all(state.done for state in states):
        engine.step()
    for state, tokens in zip(states, expected, strict=True):
        if state in (running, waiting):
            assert state.completion.finish == "abort"
            assert state.completion.tokens == tokens[: len(state.completion.tokens)]
        else:
            assert state.completion.tokens == tokens
    assert clean(engine)


def test_closing_a_stream_aborts_and_frees_its_slots(make, requests):
    engine = make()
    for _ in engine.stream(requests):
        break
    assert clean(engine)


def test_a_broken_model_ends_its_answers_with_a_reason(make, params, requests):
    engine = make()
    engine.update(jax.tree.map(lambda x: x * np.nan, params), 1)
    completions = engine.generate(requests[:3])
    assert {completion.finish for completion in completions} == {"abort"}
    assert "not finite" in completions[0].error and clean(engine)


def test_soak_of_mixed_requests_and_aborts_leaks_nothing(make, requests, expected, tight):
    """Fifteen rounds; at the end every slot is free and answers are what they were."""
    engine, rng = make(**tight), np.random.default_rng(0)
    for _ in range(15):
        chosen = rng.permutation(len(requests))[:6]
        states = engine.submit([requests[i] for i in chosen])
        for _ in range(rng.integers(1, 4)):
            engine.step()
        engine.abort([t for t in states if rng.random() < 0.3])
        while not all(state.done for state in states):
            engine.step()
        for i, state in zip(chosen, states, strict=True):
            assert state.completion.finish in ("stop", "length", "abort")
            assert state.completion.tokens == expected[i][: len(state.completion.tokens)]
        assert clean(engine)
