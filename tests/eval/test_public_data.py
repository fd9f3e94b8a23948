"""Verdicts on public data, which are no part of the repository.

    QWEN3_EVAL_DATA=DIR python -m pytest -m slow tests/eval/test_public_data.py

DIR is the folder that `qwen3 eval --data` takes. BFCL_PYTHON names the interpreter of an
environment with `pip install --no-deps bfcl-eval==2025.6.16`.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from qwen3.data.jsonl import read_rows
from qwen3.eval import bfcl
from qwen3.eval.items import Item
from qwen3.eval.suites import SUITES

pytestmark = pytest.mark.slow
SYSTEMS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@pytest.fixture
def data():
    if "QWEN3_EVAL_DATA" not in os.environ:
        pytest.skip("QWEN3_EVAL_DATA names no folder")
    return Path(os.environ["QWEN3_EVAL_DATA"])


def test_labelled_solutions_of_gsm8k(data):
    score, count = SUITES["gsm8k_base"].score, 0
    for _, row in read_rows(data / "gsm8k" / "example_model_solutions.jsonl.gz"):
        item = Item("x", {"answer": row["ground_truth"]})
        for system in SYSTEMS:
            verdict = score(item, row[system]["solution"])
            assert (verdict.score == 1.0) == row[system]["is_correct"], row[system]["solution"]
            count += 1
    assert count > 1800


def test_bfcl_verdicts_are_those_of_its_own_checker(data):
    if "BFCL_PYTHON" not in os.environ:
        pytest.skip("BFCL_PYTHON names no interpreter")
    script = Path(__file__).with_name("bfcl_official.py")
    command = [os.environ["BFCL_PYTHON"], str(script), str(data / "bfcl_v3")]
    records = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert sum(not record["is_gold"] for record in records) > 2000
    verdicts = {True: 0, False: 0}
    for record in records:
        calls = [(name, arguments) for name, arguments in record["calls"]]
        fits = bfcl.calls_fit(record["functions"], calls, record["gold"])
        assert fits == record["valid"], record
        verdicts[fits] += 1
        assert not bfcl.calls_fit(record["functions"], [], record["gold"])
    assert min(verdicts.values()) > 500


@pytest.mark.parametrize("category", ["simple", "multiple", "parallel", "parallel_multiple"])
def test_answers_of_bfcl_as_the_model_writes_them(data, category):
    suite = SUITES[f"bfcl_{category}"]
    for item in suite.items(data):
        assert suite.score(item, "I cannot help.").score == 0.0
    assert len(suite.items(data)) >= 100
