"""Evaluation items are found in every disguise, and clean texts are not accused."""

import json
import random
import re
import textwrap

import pytest

from qwen3.eval.items import Item
from qwen3.pipeline.decontamination import ItemIndex, build, places, reduce
from qwen3.pipeline.evaluation_items import question_of
from qwen3.pipeline.text_record import TextRecord

ITEMS = [
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?",
    "Write a function that returns the longest word of a sentence; of several, the first.",
    "设有一个等差数列，它的前十项之和为一百二十，第一项为三，求它的公差以及第二十项的值，并说明你的理由和所有步骤。",
    "Tiny?",
]
FILLER = (
    "The museum opens at nine. Visitors leave their coats at the entrance and follow the yellow "
    "line through the halls, where guides answer questions about the pictures. "
)
DISGUISES = {
    "alone": lambda item: item,
    "in a paragraph": lambda item: FILLER + item + " " + FILLER,
    "in short lines": lambda item: textwrap.fill(FILLER + item, 40),
    "quoted": lambda item: "\n".join(f"> {line}" for line in textwrap.wrap(item, 50)),
    "in capitals, without marks": lambda item: re.sub(r"[^\w\s]", "", item).upper(),
    "other numbers": lambda item: re.sub(r"\d+", lambda m: str(int(m.group()) * 7 + 113), item),
}


@pytest.mark.parametrize("disguise", DISGUISES)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_an_item_is_found_in_its_disguise_with_its_span(disguise, number):
    text = DISGUISES[disguise](ITEMS[number])
    (match,) = ItemIndex(ITEMS).matches(text)
    assert match.item == number and match.coverage > 0.95
    span = reduce(text[match.begin : match.end])
    assert span in reduce(text) and len(span) >= 0.95 * len(reduce(ITEMS[number]))


def test_half_an_item_and_filler_are_no_match():
    index = ItemIndex(ITEMS)
    assert index.matches(FILLER * 20) == []
    assert index.matches(FILLER + ITEMS[0][:60] + FILLER) == []
    assert index.matches("") == [] and index.matches("?!") == []


def test_items_that_are_too_short_to_look_for_are_listed():
    index = ItemIndex(ITEMS)
    assert index.too_short == [3]
    assert index.matches("Tiny? Tiny? Tiny? Tiny? Tiny? Tiny? Tiny?") == []


@pytest.mark.parametrize(
    "text",
    [
        "İstanbul 3.5",
        "Straße ﬁn ² x_1",
        "\\frac{1}{2} and 1,000",
        "한국어 कि सुन्दर",
        "a１b 3-4",
        "³\u0301",
    ],
)
def test_every_character_that_is_compared_has_its_place(text):
    assert len(places(text)) == len(reduce(text))
    assert sorted(places(text)) == list(places(text))


def test_positions_survive_letters_that_change_their_number_in_lower_case():
    text = "İİİ " + ITEMS[1]  # lower case of İ has two code points
    (match,) = ItemIndex(ITEMS).matches(text)
    assert text[match.begin : match.end].startswith("Write a function")


def test_the_step_drops_with_suite_item_and_span(tmp_path):
    path = tmp_path / "items.jsonl"
    rows = [{"suite": "demo", "id": f"q{i}", "text": text} for i, text in enumerate(ITEMS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = build(str(path))
    dropped = step(TextRecord("0" * 32, FILLER + ITEMS[0], "test")).dropped
    assert (dropped.step, dropped.reason, dropped.evidence["item"]) == (
        "decontaminate",
        "demo",
        "q0",
    )
    begin, end = dropped.evidence["span"]
    assert (FILLER + ITEMS[0])[begin:end] == ITEMS[0].rstrip("?")
    assert step(TextRecord("0" * 32, FILLER, "test")).dropped is None
    with pytest.raises(ValueError, match=r"coverage 2 is not in \(0, 1\]"):
        build(str(path), coverage=2)


def test_a_thousand_random_texts_are_not_accused():
    words = (FILLER + " ".join(ITEMS[:2])).split()
    choose, index = random.Random(1), ItemIndex(ITEMS)
    assert not any(index.matches(" ".join(choose.choices(words, k=60))) for _ in range(1000))


def test_the_question_of_an_item_is_what_is_asked():
    assert question_of(Item("a", {"options": ["x"], "question": "Why?"})) == "Why?"
    assert question_of(Item("a", {"turns": ["One?", "Two?"]})) == "One?\nTwo?"
    assert question_of(Item("a", {"answer": "x"})) == ""
