"""The automaton, token by token: what is wanted by the model, what comes out."""

import jax
import numpy as np
import pytest

from qwen3.infer import admission, budget
from qwen3.infer.requests import Request, sampling
from qwen3.infer.slots import FORCED, PADDING, PROMPT, SAMPLED

advance = jax.jit(budget.step)


class Row:
    """One row that wants given tokens."""

    def __init__(self, tokenizer, prompt="", **options):
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        self.tables = budget.tables(tokenizer, tokenizer.vocab_rows)
        fields = budget.start(ids, tokenizer, **options)
        self.state = budget.automaton({name: np.array([value]) for name, value in fields.items()})

    def __call__(self, wanted, left=10_000):
        """(tokens, forced) for as many tokens as are wanted."""
        tokens, forced = [], []
        for i, token in enumerate(wanted):
            made, was_forced, self.state = advance(
                self.state, np.array([token], np.int32), np.array([left - i], np.int32), self.tables
            )
            tokens.append(int(made[0]))
            forced.append(bool(was_forced[0]))
        return tokens, forced


@pytest.fixture(scope="module")
def script(tokenizer):
    return {name: tokenizer.encode(text) for name, text in budget.SCRIPTS.items()}


def natural(tokenizer):
    return tokenizer.think_open, tokenizer.think_close, tokenizer.encode("t")[0]


@pytest.mark.parametrize("stop_text", budget.STOP_TEXTS)
def test_budget_closes_thinking_at_the_limit(tokenizer, script, stop_text):
    think, _, t = natural(tokenizer)
    row = Row(tokenizer, budget=3, stop_text=stop_text)
    forced = script[stop_text]
    tokens, flags = row([think] + [t] * (4 + len(forced)))
    assert tokens == [think, t, t, t, *forced, t]
    assert flags == [False] * 4 + [True] * len(forced) + [False]
    assert int(row.state.phase[0]) == budget.ANSWER and bool(row.state.exhausted[0])


def test_stop_texts_are_the_published_ones():
    sentence = "Considering the limited time by the user, I have to give the solution based on the "
    sentence += "thinking directly now.\n</think>"
    assert budget.SCRIPTS["docs"] == f"\n\n{sentence}\n\n"
    assert budget.SCRIPTS["report"] == f"{sentence}.\n\n"


def test_a_block_closed_on_the_very_step_is_not_closed_twice(tokenizer):
    think, close, t = natural(tokenizer)
    wanted = [think, t, t, close, t, t]
    assert Row(tokenizer, budget=2)(wanted) == (wanted, [False] * 6)


def test_no_budget_forces_nothing(tokenizer):
    think, _, t = natural(tokenizer)
    wanted = [think] + [t] * 50
    assert Row(tokenizer)(wanted) == (wanted, [False] * 51)


def test_budget_zero_makes_the_empty_block(tokenizer, script):
    think, _, t = natural(tokenizer)
    count = len(script["empty"])
    tokens, flags = Row(tokenizer, budget=0)([think] + [t] * (count + 1))
    assert tokens == [think, *script["empty"], t]
    assert flags == [False] + [True] * count + [False]


def test_an_answer_without_thinking_is_left_alone(tokenizer):
    _, _, t = natural(tokenizer)
    assert Row(tokenizer, budget=2)([t] * 9) == ([t] * 9, [False] * 9)


def test_the_limit_waits_for_the_end_of_a_character_but_not_longer_than_three(tokenizer, script):
    think, _, t = natural(tokenizer)
    fire = [tokenizer.encode(chr(0x1F525))[i] for i in range(4)]  # four bytes, four tokens
    assert len(fire) == 4
    tokens, flags = Row(tokenizer, budget=2)([think, t, *fire, t])
    assert tokens[:7] == [think, t, *fire, script["docs"][0]] and flags[6]
    lead = fire[0]
    tokens, flags = Row(tokenizer, budget=1)([think] + [lead] * 5)  # never completed
    assert tokens == [think] + [lead] * 4 + [script["docs"][0]]
    assert flags == [False] * 5 + [True]


def test_only_an_open_block_of_the_current_turn_counts(tokenizer, script):
    _, _, t = natural(tokenizer)
    history = "<|im_start|>assistant\n<think>\nt</think>\n\nt<|im_end|>\n<|im_start|>user\n<think>t"
    closed = history + "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert Row(tokenizer, closed, budget=1)([t] * 5) == ([t] * 5, [False] * 5)
    opened = history + "<|im_end|>\n<|im_start|>assistant\n<think>a</think><think>tt"
    used = len(tokenizer.encode("tt"))
    row = Row(tokenizer, opened, budget=used + 1)
    assert row([t, t])[0] == [t, script["docs"][0]]


def test_a_second_block_has_what_is_left_of_the_budget(tokenizer, script):
    think, close, t = natural(tokenizer)
    row = Row(tokenizer, budget=3)
    tokens, _ = row([think, t, t, close, t, think, t, t])
    assert tokens == [think, t, t, close, t, think, t, script["docs"][0]]
    row = Row(tokenizer, budget=1)
    count = len(script["docs"])
    tokens, flags = row([think] + [t] * (count + 1) + [think, t])
    assert tokens[-2:] == [think, script["docs"][0]] and flags[-1]


def test_a_tool_call_inside_thinking_counts_on(tokenizer, script):
    think, _, t = natural(tokenizer)
    wanted = [think, tokenizer.tool_call_open, t, t]
    assert Row(tokenizer, budget=2)(wanted)[0] == [*wanted[:3], script["docs"][0]]


def test_nothing_is_forced_inside_an_open_tool_call_of_the_answer(tokenizer):
    think, close, t = natural(tokenizer)
    wanted = [think, close, tokenizer.tool_call_open, t, think, t, t, tokenizer.tool_call_close]
    assert Row(tokenizer, budget=1)(wanted) == (wanted, [False] * len(wanted))
    # Nor where the prompt already holds the opened call.
    row = Row(tokenizer, "<|im_start|>assistant\n<think>\n\n</think>\n\n<tool_call>", budget=0)
    assert row([think, t])[1] == [False, False]


def test_the_tag_written_as_text_does_not_close(tokenizer, script):
    think, _, t = natural(tokenizer)
    spelled = tokenizer.encode("</think>", allow_special=False)
    assert len(spelled) > 1
    row = Row(tokenizer, budget=len(spelled))
    assert row([think, *spelled, t])[0] == [think, *spelled, script["docs"][0]]


def test_a_budget_beyond_the_limit_leaves_room_for_stop_text_and_answer(tokenizer, script):
    think, _, t = natural(tokenizer)
    count = len(script["docs"])
    left = 1 + 4 + count + 6
    tokens, flags = Row(tokenizer, budget=1000, reserve=6)([think] + [t] * (left - 1), left=left)
    assert tokens == [think] + [t] * 4 + script["docs"] + [t] * 6
    assert sum(flags) == count


def test_thinking_true_forces_the_tag_unless_a_block_is_open(tokenizer, script):
    think, _, t = natural(tokenizer)
    count = len(script["open"])
    row = Row(tokenizer, "<|im_start|>assistant\n", thinking=True)
    assert row([t] * (count + 1)) == (script["open"] + [t], [True] * count + [False])
    assert int(row.state.phase[0]) == budget.THINK
    assert Row(tokenizer, "<think>", thinking=True)([t]) == ([t], [False])


def test_end_inside_thinking_is_the_models_unless_at_the_limit(tokenizer, script):
    think, _, t = natural(tokenizer)
    end = tokenizer.im_end
    assert Row(tokenizer, budget=2)([think, t, end])[0] == [think, t, end]
    assert Row(tokenizer, budget=1)([think, t, end])[0] == [think, t, script["docs"][0]]


# --- in the engine -------------------------------------------------------------------------------


def test_the_engine_forces_records_and_finishes(make, tokenizer, script):
    """Forced tokens are flagged, have sampling log-prob 0 and pass every rule."""
    prompt, count = [5, 6, tokenizer.think_open], len(script["docs"])
    harsh = sampling("model", top_k=1, presence_penalty=50.0, repetition_penalty=50.0)
    first = Request(
        prompt, sampling=harsh, budget=3, answer_reserve=0, max_tokens=count + 9, stop_ids=()
    )
    engine = make(max_length=192, buckets=(192,), slots=2)
    (probe,) = engine.generate([first])
    start = probe.forced.index(True)
    assert start == 3 and probe.tokens[start : start + count] == script["docs"]
    assert probe.forced == [3 <= i < 3 + count for i in range(len(probe.tokens))]
    assert all(probe.sampling_log_probs[i] == 0 for i in range(start, start + count))
    assert all(value < 0 for value in probe.log_probs)
    assert probe.finish == "length"
    stops = (probe.tokens[start + count],)
    (found,) = engine.generate([Request(**{**vars(first), "stop_ids": stops})])
    assert found.tokens == probe.tokens[: start + count + 1]
    assert found.finish == "budget-then-stop"


def test_penalties_count_what_the_model_wrote_and_not_what_was_forced(make, tokenizer, script):
    """A negative presence penalty makes the tokens that count the likeliest ones."""
    request = Request(
        [5, 6, tokenizer.think_open, 7],
        sampling=sampling("model", top_k=1, presence_penalty=-100.0),
        budget=2,  # one token of which the prompt has
        answer_reserve=0,
        max_tokens=len(script["docs"]) + 5,
        stop_ids=(),
    )
    (answer,) = make(max_length=192, buckets=(192,), slots=2).generate([request])
    first, *forced = answer.tokens[:-4]
    assert forced == script["docs"] and first not in forced
    assert answer.tokens[-4:] == [first] * 4


def test_forced_tokens_do_not_count_for_presence_and_frequency_penalties(make, config):
    engine = make(slots=1, block=2)
    (state,) = engine.submit([Request([5, 6], thinking=True, max_tokens=4, stop_ids=())])
    engine.step()
    completion, slots = state.completion, engine.caches.slot_table.slots
    assert completion.forced == [True, True]
    assert int(slots.counts_SV.sum()) == 0
    assert set(np.flatnonzero(slots.seen_SV[0])) == {5, 6, *completion.tokens}
    engine.step()
    counts = np.bincount(completion.tokens[2:], minlength=config.vocab)
    np.testing.assert_array_equal(engine.caches.slot_table.slots.counts_SV[0], counts)
    # Nor when the answer is read again after a preemption.
    again = admission.add(admission.empty(1, 8), state, 0, 0)
    assert again.kinds[0].tolist() == [PROMPT] * 2 + [FORCED] * 2 + [SAMPLED] * 2 + [PADDING] * 3


def test_forbidden_thinking_never_opens_a_block(make, config, params, tokenizer):
    boosted = dict(params)
    boosted["embed"] = params["embed"].at[tokenizer.think_open].mul(40.0)
    request = Request([5, 6, 7], max_tokens=40, stop_ids=())
    engine = make()
    engine.update(boosted, 1)
    free, forbidden = engine.generate([request, Request(**{**vars(request), "thinking": False})])
    assert tokenizer.think_open in free.tokens
    assert tokenizer.think_open not in forbidden.tokens
