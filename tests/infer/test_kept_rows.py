"""Rows that a finished turn left: who goes on in them, and who takes their slots."""

from dataclasses import dataclass

import numpy as np
import pytest

from qwen3.infer.kept_rows import KeptRows
from qwen3.infer.requests import Request


def state(*sequence, prompt=1, experts=False):
    ids = [np.zeros((len(sequence) - 1, 1, 1), np.uint8)] if experts else []
    return FinishedRequest(list(sequence), prompt, ids)


@dataclass(eq=False)
class FinishedRequest:
    """What a row needs of a request."""

    sequence: list
    prompt_length: int
    expert_ids: list


@pytest.fixture
def kept():
    rows = KeptRows()
    rows.keep(2, state(1, 2, 3, experts=True), 8)
    rows.keep(0, state(1, 2, 3, 4, 5), 8)
    return rows


def test_a_turn_goes_on_in_the_row_with_the_most_of_its_tokens_and_only_one_does(kept):
    longest, shorter, third, other, same = (
        state(*ids)
        for ids in ((1, 2, 3, 4, 6, 7), (1, 2, 3, 4, 6), (1, 2, 3, 4, 8, 9), (1, 9, 3), (1, 2, 3))
    )
    for turn in (longest, shorter, third, other, same):
        kept.claim(turn)
    assert kept.slot_of == {longest: 0, shorter: 2}
    kept.leave(longest)
    kept.claim(third)
    assert kept.slot_of == {shorter: 2, third: 0}


def test_slots_without_a_row_are_taken_first_and_those_that_are_waited_for_last(kept):
    assert kept.in_order([0, 1, 2, 3]) == [1, 3, 2, 0]
    turn = state(1, 2, 3, 4)
    kept.claim(turn)
    assert kept.slot_of == {turn: 2} and kept.in_order([0, 1, 2, 3]) == [1, 3, 0, 2]
    kept.drop([2, 3])
    assert kept.slot_of == {} and kept.in_order([0, 1, 2]) == [1, 2, 0] and not kept.experts


def test_the_last_place_of_a_full_row_is_not_the_turns_any_more():
    rows = KeptRows()
    rows.keep(1, state(*range(9)), 8)  # eight places, written up to the last one
    assert rows.tokens == {1: [*range(7)]}
    rows.keep(1, state(*range(5)), 8)
    assert rows.tokens == {1: [*range(4)]}


def test_a_row_that_holds_no_more_than_a_prompt_is_not_kept():
    """Its samples would go on in it: they have a prefill of their own."""
    rows = KeptRows()
    rows.keep(1, state(1, 2, 3, prompt=3), 8)
    assert not rows.tokens


def test_rows_move_with_the_slots_and_are_cut_with_the_caches(kept):
    turn = state(1, 2, 3, 4, 5, 6)
    kept.claim(turn)
    kept.move([5, 0], 4)
    assert (kept.tokens, kept.slot_of, kept.experts) == ({1: [1, 2, 3]}, {turn: 1}, {})
    kept.clear()
    assert not kept.tokens and not kept.slot_of


@pytest.mark.parametrize("turn", [-1, 1.5, True])
def test_a_turn_is_a_number(make, turn):
    with pytest.raises(ValueError, match=f"turn {turn}"):
        make().submit([Request([1], turn=turn)])


def test_a_turn_waits_for_its_row_in_front_of_others_and_new_weights_end_that(make):
    """One slot: the turn is admitted before the request that was there first."""
    engine = make(slots=1)
    first = Request([1, 2, 3], max_tokens=3, stop_ids=(), turn=0)
    (done,) = engine.generate([first])
    second = Request([1, 2, 3, *done.tokens, 7, 8], max_tokens=3, stop_ids=(), turn=1)
    (alone,) = make(slots=1).generate([second])
    before = engine.stats["prefilled_tokens"]
    (other,) = engine.submit([Request([9, 9], max_tokens=3, stop_ids=())])
    (turn,) = engine.submit([second])
    engine.step()
    assert turn.done and not other.done and turn.completion.tokens == alone.tokens
    assert engine.stats["prefilled_tokens"] - before == 2
    (given_up,) = engine.submit([Request([*second.prompt, *alone.tokens, 5], turn=2)])
    kept = engine.caches.slot_table.kept
    assert kept.slot_of == {given_up: 0}
    engine.abort([given_up])
    assert not kept.slot_of and kept.tokens
    engine.caches.clear()  # new weights
    assert not kept.tokens
