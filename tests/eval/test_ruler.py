"""RULER's thirteen tasks: at any length, the same every time, with their answers in the text."""

import json

import pytest
import suite_files

from qwen3.data.tokenizer import Tokenizer
from qwen3.eval import ruler
from qwen3.eval.suite import Generation
from qwen3.eval.suites import SUITES


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    suite_files.write_books(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    words = " ".join([*ruler.ADJECTIVES, *ruler.NOUNS, ruler.FILLER])
    return Tokenizer.train([words * 3], size=500)


COUNTS = {"niah_multivalue": 4, "niah_multiquery": 4, "vt": 5, "cwe": 10, "fwe": 3}


@pytest.mark.parametrize("length", [4096, 8192])
def test_prompts_fill_the_length_and_hold_their_answers(length, data, tokenizer):
    items = ruler.items(length, 26, data, tokenizer)
    assert [item.id for item in items] == [f"{t}/{i}" for i in (0, 1) for t in ruler.TASKS]
    assert items == ruler.items(length, 26, data, tokenizer)
    for item in items:
        tokens = len(tokenizer.encode(item["question"]))
        assert tokens <= length - ruler.RESERVE
        if item["task"] not in ruler.QUESTIONS:  # few documents here
            assert tokens > 0.85 * (length - ruler.RESERVE), item.id
        for gold in item["gold"]:
            assert gold in item["question"]
        assert ruler.score(item, " and ".join(item["gold"])).score == 1.0
        assert ruler.score(item, "I cannot tell.").score == 0.0
        assert ruler.score(item, "").score == 0.0
    first = {item["task"]: item for item in items[:13]}
    for task, count in COUNTS.items():
        assert len(first[task]["gold"]) == count
        assert 0 < ruler.score(first[task], first[task]["gold"][0]).score < 1


def test_counting_tasks_ask_for_the_words_that_are_most_frequent(data, tokenizer):
    by_task = {item["task"]: item for item in ruler.items(4096, 13, data, tokenizer)}
    words = by_task["cwe"]["question"].split()
    assert all(words.count(word) == 30 for word in by_task["cwe"]["gold"])
    coded = by_task["fwe"]["question"].split("\n\n")[1].split()
    most = max(coded.count(word) for word in set(coded) - set(by_task["fwe"]["gold"]))
    assert min(coded.count(word) for word in by_task["fwe"]["gold"]) >= most


def test_the_chain_of_variables_is_in_order(data, tokenizer):
    [item] = [i for i in ruler.items(4096, 13, data, tokenizer) if i["task"] == "vt"]
    text, names = item["question"], item["gold"]
    places = [text.index(f"Let {name} = ") for name in names]
    assert places == sorted(places)


def test_missing_files_and_lengths_without_room_are_named(tmp_path, data, tokenizer):
    with pytest.raises(ValueError, match="corpus/en_.*xquad/xquad.en.json, cmrc2018"):
        ruler.items(4096, 1, tmp_path, tokenizer)
    with pytest.raises(ValueError, match="RULER's niah_single_1 does not fit into 130 tokens"):
        ruler.items(130, 1, data, tokenizer)
    with pytest.raises(ValueError, match="needs the model's tokenizer"):
        SUITES["ruler_4k"].items(data, 3)
    assert len(SUITES["ruler_4k"].generate(Generation(3, data, tokenizer))) == 3
    json.dumps([dict(item.fields) for item in ruler.items(4096, 13, data, tokenizer)])
