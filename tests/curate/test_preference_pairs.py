"""Pairs of answers in the forms that files of the field have."""

import json
import logging

import pytest

from qwen3.curate.preference_pairs import Pair, of_source, read_pair, read_pairs

QUESTION = [{"role": "user", "content": "2 + 2?"}]
FOUR, FIVE = ([{"role": "assistant", "content": text}] for text in ("4", "5"))
SHAREGPT = [{"from": "human", "value": "2 + 2?"}]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"question": "2 + 2?", "chosen": FOUR, "rejected": FIVE[0]},
        {"prompt": QUESTION, "chosen": FOUR, "rejected": FIVE},
        {"prompt": json.dumps(QUESTION), "chosen": QUESTION + FOUR, "rejected": QUESTION + FIVE},
        {"chosen": QUESTION + FOUR, "rejected": QUESTION + FIVE, "score_chosen": 9.0},
        {
            "conversations": SHAREGPT,
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {
            "chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4",
            "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5",
        },
        {"input": "2 + 2?", "output_1": "4", "output_2": "5", "label": 1},
        {"input": "2 + 2?", "output_1": "5", "output_2": "4", "label": 2},
        {
            "instruction": "2 + 2?",
            "input": "",
            **{"response1": 5, "response2": 4},
            **{"annotator1": 2, "annotator2": 0, "annotator3": 2},
        },
    ],
    ids=lambda row: ",".join(row),
)
def test_forms_of_one_pair(row):
    assert read_pair(row) == Pair(QUESTION, FOUR, FIVE)


def test_a_dialogue_is_parted_where_the_answers_differ():
    start = [*QUESTION, *FOUR, {"role": "user", "content": "And 3 + 3?"}]
    six, seven = ([{"role": "assistant", "content": text}] for text in ("6", "7"))
    pair = read_pair({"chosen": start + six, "rejected": start + seven, "system": "Be brief."})
    assert pair.question == [{"role": "system", "content": "Be brief."}, *start]
    assert (pair.chosen, pair.rejected) == (six, seven)
    tail = [{"role": "user", "content": "Sure?"}, *FOUR]
    longer = read_pair({"chosen": QUESTION + FOUR, "rejected": QUESTION + FOUR + tail})
    assert (longer.question, longer.chosen, longer.rejected) == (QUESTION, FOUR, FOUR + tail)


def test_instruction_and_input_are_one_question_and_a_row_names_its_source_and_margin():
    row = {"instruction": "Add.", "input": "2, 2", "chosen": "4", "rejected": "5"}
    pair = read_pair({**row, "source": "sums", "margin": 2}, source="file")
    assert pair.question[0]["content"] == "Add.\n\n2, 2"
    assert (pair.source, pair.margin) == ("sums", 2.0)
    assert read_pair(row, source="file").source == "file"


@pytest.mark.parametrize(
    "labels", [{"label": 0}, {"annotator1": 1, "annotator2": 2}, {"annotator1": 0, "annotator2": 1}]
)
def test_without_a_majority_neither_wins(labels):
    assert read_pair({"input": "q?", "output_1": "a", "output_2": "b", **labels}) is None


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "q?", "chosen": "a"}, "a pair has chosen and rejected.*this row has prompt"),
        ({"chosen": "a", "rejected": "b"}, "no prompt, and the answers hold none"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "the prompt is empty"),
        ({"input": "q?", "output_1": "a", "output_2": "b"}, "label missing: wanted 1 or 2"),
        ({"input": "q?", "output_1": "a", "output_2": "b", "label": "A"}, "wanted 1 or 2"),
        ({"prompt": "q?", "chosen": QUESTION, "rejected": FIVE}, "does not end with"),
        (
            {"prompt": "q?", "chosen": "a", "rejected": "b", "margin": "x"},
            "margin 'x' is no number",
        ),
        ({"prompt": "q?", "chosen": "a", "rejected": "b", "margin": float("nan")}, "no number"),
        ({}, "has nothing"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(row, message):
    with pytest.raises(ValueError, match=message):
        read_pair(row)


def test_a_file_counts_what_it_leaves_out_and_names_its_bad_line(tmp_path, caplog):
    good = {"prompt": "q?", "chosen": "a", "rejected": "b"}
    rows = [good, {**good, "rejected": "a"}, {**good, "source": "other"}]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with caplog.at_level(logging.WARNING, "qwen3"):
        pairs = read_pairs(path)
    assert of_source(pairs) == {"mine": [0], "other": [1]}
    assert "1 pairs left out" in caplog.text
    path.write_text(json.dumps(good) + "\n" + json.dumps({"prompt": "q?"}) + "\n")
    with pytest.raises(ValueError, match="mine.jsonl, line 2: a pair has"):
        read_pairs(path)
    path.write_text(json.dumps({**good, "rejected": "a"}) + "\n")
    with pytest.raises(ValueError, match="holds no pair"):
        read_pairs(path)
