"""A model that knows nothing is at chance, within the interval, on every suite of choices.

With the public data, which are no part of the repository:

    QWEN3_EVAL_DATA=DIR python -m pytest -m slow tests/eval/test_chance.py
"""

import os
from pathlib import Path
from random import Random

import pytest
import suite_files

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
    assert len({record["extracted"] for record in asked.records.values()}) > 1
    return row.score, chance


@pytest.mark.parametrize("name", CHOICES)
def test_a_random_model_is_at_chance(name, model, tmp_path):
    example = suite_files.EXAMPLES[name]
    [row] = example.content
    varied = next(field for field in VARIED if field in row)
    rows = [row | {varied: f"Number {i}?"} | GOLD[name](i) for i in range(80)]
    if name == "xcopa_base":
        rows = [
            row | {"question": "cause", "choice1": f"{i}.", "choice2": f"{99 - i}."}
            for i, row in enumerate(rows)
        ]
    suite_files.write(tmp_path, example._replace(content=rows))
    assert_at_chance(model, SUITES[name], tmp_path, tmp_path / "out")


def guessed(suite, items, seed):
    """Share of items that a model which writes random letters gets right."""
    random = Random(seed)
    letters = [random.choice(LETTERS[: len(item["options"])]) for item in items]
    answers = [f'So it is this.\n"answer": "{letter}"' for letter in letters]
    found = [suite.score(item, answer) for item, answer in zip(items, answers, strict=True)]
    assert [verdict.extracted for verdict in found] == letters
    return intervals.share(int(sum(verdict.score for verdict in found)), len(items))


@pytest.mark.parametrize("name", LETTERED)
def test_random_letters_are_at_chance(name, tmp_path):
    suite = SUITES[name]
    suite_files.write(tmp_path, suite_files.EXAMPLES[name])
    items = suite.items(tmp_path) * 300
    share = guessed(suite, items, seed=len(name))
    assert share.low <= chances(suite, items) <= share.high


@pytest.fixture
def data():
    if "QWEN3_EVAL_DATA" not in os.environ:
        pytest.skip("QWEN3_EVAL_DATA names no folder")
    return Path(os.environ["QWEN3_EVAL_DATA"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CHOICES, *LETTERED])
def test_chance_on_public_data(name, data, model, tmp_path):
    suite = SUITES[name]
    if not suite.present(data):
        pytest.skip(suite.wanted())
    if name in CHOICES:
        print(name, *assert_at_chance(model, suite, data, tmp_path, limit=400))
        return
    items = suite.items(data)
    share, chance = guessed(suite, items, seed=0), chances(suite, items)
    print(name, share, chance)
    assert share.low <= chance <= share.high
