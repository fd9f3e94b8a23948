"""A model that knows nothing is at chance, within the interval, on every suite of choices.

With the public data, which are no part of the repository:

    QWEN3_EVAL_DATA=DIR python -m pytest -m slow tests/eval/test_chance.py
"""

import os
from collections import Counter
from pathlib import Path
from random import Random

import jax
import pytest
import suite_files

import qwen3
from qwen3.eval import intervals, suite_report, verdicts
from qwen3.eval.item_readers import LETTERS
from qwen3.eval.suite_records import EvalSettings
from qwen3.eval.suite_run import run
from qwen3.eval.suites import SUITES

# Options by their likelihood, and letters that the model writes.
CHOICES = [name for name, suite in SUITES.items() if suite.kind == "choice"]
LETTERED = [name for name, suite in SUITES.items() if suite.score is verdicts.choice]
# Field of the right option in a suite's file, from its number; the other fields are the example's.
GOLD = {
    "mmlu_redux_base": lambda number: {"answer": str(number % 4)},
    "mmlu_base": lambda number: {"answer": number % 4},
    "xcopa_base": lambda number: {"label": number % 2},
}
VARIED = ("question", "premise")  # fields that make the questions differ


@pytest.fixture(scope="module")
def ignorant(model):
    """Random weights, so large that the answer follows the question and not the letter alone."""
    random = qwen3.create(model.config, seed=7, tokenizer=model.tokenizer)
    random.params = jax.tree.map(lambda x: 6 * x if x.ndim > 1 else x, random.params)
    return random


def chances(suite, items):
    """The score that guessing gives, over all items."""
    sizes = [len(suite.options(i) if suite.kind == "choice" else i["options"]) for i in items]
    return sum(1 / size for size in sizes) / len(sizes)


def assert_at_chance(model, suite, data, out, limit=None):
    settings = EvalSettings("toy", limit=limit)
    [asked] = run(model, [suite], settings, out, data=data)
    [row] = suite_report.rows([asked], "toy")
    chance = chances(suite, asked.items)
    assert row.score.low <= chance <= row.score.high, (row.score, chance)
    extracted = Counter(record["extracted"] for record in asked.records.values())
    assert len(extracted) > 1, extracted
    print(extracted.most_common(5))
    return row.score, chance


@pytest.mark.parametrize("name", CHOICES)
def test_a_random_model_is_at_chance(name, ignorant, tmp_path):
    example = suite_files.EXAMPLES[name]
    row = example.content[0]
    varied = next(field for field in VARIED if field in row)
    rows = [row | {varied: f"Number {i}?"} | GOLD[name](i) for i in range(80)]
    if name == "xcopa_base":
        rows = [
            row | {"question": "cause", "choice1": f"{i}.", "choice2": f"{99 - i}."}
            for i, row in enumerate(rows)
        ]
    suite_files.write(tmp_path, example._replace(content=rows))
    assert_at_chance(ignorant, SUITES[name], tmp_path, tmp_path / "out")


def guessed(suite, items):
    """Share of items that a model gets right which writes all letters equally often, at random."""
    numbers = list(range(len(items)))
    Random(0).shuffle(numbers)
    pairs = [
        (item, number % len(item["options"])) for item, number in zip(items, numbers, strict=True)
    ]
    verdicts_on = [
        suite.score(item, f'So it is this.\n"answer": "{LETTERS[n]}"') for item, n in pairs
    ]
    assert [verdict.extracted for verdict in verdicts_on] == [LETTERS[n] for _, n in pairs]
    return intervals.share(int(sum(verdict.score for verdict in verdicts_on)), len(items))


@pytest.mark.parametrize("name", LETTERED)
def test_random_letters_are_at_chance(name, tmp_path):
    suite = SUITES[name]
    suite_files.write(tmp_path, suite_files.EXAMPLES[name])
    items = suite.items(tmp_path) * 60
    assert guessed(suite, items).value == pytest.approx(chances(suite, items))


@pytest.fixture
def data():
    if "QWEN3_EVAL_DATA" not in os.environ:
        pytest.skip("QWEN3_EVAL_DATA names no folder")
    return Path(os.environ["QWEN3_EVAL_DATA"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHOICES, *LETTERED])
def test_chance_on_public_data(name, data, ignorant, tmp_path):
    suite = SUITES[name]
    if not suite.present(data):
        pytest.skip(suite.wanted())
    if name in CHOICES:
        print(name, *assert_at_chance(ignorant, suite, data, tmp_path, limit=400))
        return
    items = suite.items(data)
    share, chance = guessed(suite, items), chances(suite, items)
    print(name, share, chance)
    assert share.low <= chance <= share.high
