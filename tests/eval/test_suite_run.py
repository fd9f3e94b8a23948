"""Runs of suites: every answer is kept, nothing depends on batches, order or restarts."""

import json
from dataclasses import replace

import numpy as np
import pytest
import suite_files

from qwen3.eval import comparison, suite_report, suites
from qwen3.eval.intervals import Estimate
from qwen3.eval.items import Item, Verdict
from qwen3.eval.suite_answers import Asked, scored
from qwen3.eval.suite_records import Arm, EvalSettings, SuiteRun, arms
from qwen3.eval.suite_run import run
from qwen3.eval.suites import SUITES
from qwen3.infer.requests import Completion, Request
from qwen3.rewards import NoVerdict

NAMES = ["gsm8k", "locks", "crux_o_base", "c_eval", "mmlu_redux_base"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in NAMES:
        if name in suite_files.EXAMPLES:
            example = suite_files.EXAMPLES[name]
            rows = [row | {"id": f"item{i}"} for i, row in enumerate(example.content * 3)]
            suite_files.write(folder, example._replace(content=rows))
    return folder


def settings(**changes):
    return EvalSettings(**{"model": "toy", "limit": 3, "max_tokens": 12, "samples": 2, **changes})


def asked(model, folder, data, **changes):
    options = settings(**changes.pop("settings", {}))
    names = changes.pop("names", NAMES)
    return run(model, suites.chosen(names), options, folder, data=data, **changes)


def content(folder):
    return {file.name: file.read_bytes() for file in sorted((folder / "samples").iterdir())}


def test_slots_order_and_restarts_change_no_byte(model, data, tmp_path, monkeypatch):
    asked(model, tmp_path / "a", data)
    whole = content(tmp_path / "a")
    assert set(whole) == {
        *(f"{name}.{mode}.jsonl" for name in ("gsm8k", "locks", "c_eval") for mode in MODES),
        "crux_o_base.text.jsonl",
        "mmlu_redux_base.choice.jsonl",
    }
    in_order = SuiteRun.missing
    monkeypatch.setattr(SuiteRun, "missing", lambda *args: in_order(*args)[::-1])
    asked(model, tmp_path / "b", data, slots=2, names=NAMES[::-1])
    assert content(tmp_path / "b") == whole
    monkeypatch.undo()
    for name, text in whole.items():
        path = tmp_path / "b" / "samples" / name
        lines = text.splitlines(keepends=True)
        path.write_bytes(b"".join(lines[::2]) + lines[1][:9])  # every second one, and a torn line
    engine = model.engine(slots=16)
    before = engine.stats["generated"]
    runs = asked(model, tmp_path / "b", data)
    assert content(tmp_path / "b") == whole
    assert all(not run.missing(1) for run in runs)
    after = engine.stats["generated"]
    asked(model, tmp_path / "b", data)  # all is there: nothing is asked
    assert engine.stats["generated"] == after >= before and content(tmp_path / "b") == whole


MODES = ("think", "no_think")


def test_records_hold_prompt_thought_answer_extraction_and_verdict(model, data, tmp_path):
    asked(model, tmp_path, data, names=["gsm8k"])
    path = tmp_path / "samples" / "gsm8k.think.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["item"], r["sample"]) for r in records] == [
        (f"test/{i}", s) for i in (1, 2, 3) for s in (0, 1)
    ]
    for record in records:
        assert {"score", "extracted", "thought", "answer", "finish", "tokens"} <= set(record)
        assert "How many?" in record["prompt"]
    assert records[0]["answer"] != records[1]["answer"] or records[0]["thought"]


def test_other_settings_are_not_mixed(model, data, tmp_path):
    asked(model, tmp_path, data, names=["c_eval"])
    with pytest.raises(ValueError, match="other settings .*limit: 3 -> 2"):
        asked(model, tmp_path, data, names=["c_eval"], settings={"limit": 2})
    with pytest.raises(ValueError, match="mode 'maybe' is none of think, no_think"):
        settings(modes=("maybe",))
    with pytest.raises(ValueError, match="budget -1 is below 0"):
        settings(budgets=(-1,))
    with pytest.raises(ValueError, match="limit 0 is below 1"):
        settings(limit=0)


def test_budgets_are_arms_of_thinking_alone():
    names = [arm.name for arm in arms(SUITES["gsm8k"], settings(budgets=(8, 16)))]
    assert names == ["think@8", "think@16", "no_think"]
    assert [arm.name for arm in arms(SUITES["gsm8k_base"], settings(budgets=(8,)))] == ["text"]


def test_reports_and_comparisons(model, data, tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        runs = asked(
            model, tmp_path / name, data, settings={"seed": seed, "budgets": (0, 4)}, slots=4
        )
        rows = suite_report.rows(runs, "0.6b")
        page = suite_report.write(tmp_path / name, "toy & model", rows).read_text()
        assert "toy &amp; model" in page and "think@4" in page and "http" not in page
        assert page.count("<polyline") == 3  # accuracy by budget of the suites of chats
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    assert len(results["rows"]) == len(runs)
    by_name = {(row["suite"], row["arm"]): row for row in results["rows"]}
    assert by_name["mmlu_redux_base", "choice"]["published"] == 51.26
    assert by_name["gsm8k", "think@4"]["samples"] == 2
    assert "| Combination locks | think@0 |" in (tmp_path / "a" / "report.md").read_text()
    same = comparison.compare(tmp_path / "a", tmp_path / "a")
    assert all(d.difference == Estimate(0.0, 0.0, 0.0, d.difference.n) for d in same)
    assert comparison.terminal_table(same).row_count == len(runs)
    with pytest.raises(ValueError, match="holds no results"):
        comparison.compare(tmp_path / "a", tmp_path)


def test_accuracy_by_budget_is_a_curve_with_its_intervals(tmp_path):
    rows = []
    for budget, score in ((64, 1.0), (0, 0.0), (32, 1.0), ("auto", 1.0)):
        arm, item = Arm(f"think@{budget}", "think", budget), Item("1", {})
        asked = SuiteRun(SUITES["gsm8k"], arm, [item], [], tmp_path / "x.jsonl")
        asked.records["1", 0] = {"item": "1", "sample": 0, "score": score, "extracted": "x"}
        rows += suite_report.rows([asked], "0.6b")
    [curve] = suite_report.budget_curves(rows)
    points = [(m["budget"], m["x"], m["y"], m["label"]) for m in curve["marks"]]
    assert points == [(0, 20, 110, "0.0%"), (32, 150, 10, "100.0%"), (64, 280, 10, "100.0%")]
    assert all(m["high"] <= m["y"] <= m["low"] for m in curve["marks"])


def test_differences_are_paired_by_item(tmp_path):
    for name, scores in (("a", [0, 0, 1, 1]), ("b", [1, 0, 1, 1])):
        folder = tmp_path / name / "samples"
        folder.mkdir(parents=True)
        records = [{"item": str(i), "sample": 0, "score": s} for i, s in enumerate(scores)]
        if name == "b":
            records = records[::-1] + [{"item": "9", "sample": 0, "score": 1.0}]
        (folder / "x.think.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    [difference] = comparison.compare(tmp_path / "a", tmp_path / "b")
    assert difference.difference.value == 0.25 and difference.difference.n == 4
    assert (difference.first, difference.second) == (0.5, 0.75)
    assert difference.wins.value == (1 + 3 * 0.5) / 4  # a tie is half a win
    [back] = comparison.compare(tmp_path / "b", tmp_path / "a")
    assert back.wins.value == 1 - difference.wins.value


def test_of_twins_both_must_be_right(tmp_path):
    suite = SUITES["tool_use_all"]
    items = suite.items(None, 16)
    suite_run = SuiteRun(suite, arms(suite, settings())[0], items, [], tmp_path / "x.jsonl")
    first = {items[i]["problem"].twin: i for i in range(15, -1, -1)}
    for number, item in enumerate(items):  # the first of all twins, and one pair as a whole
        is_right = (
            number == first[item["problem"].twin] or item["problem"].task == "irrelevant_tool"
        )
        record = {"item": item.id, "sample": 0, "score": float(is_right), "extracted": "x"}
        suite_run.records[item.id, 0] = record
    [row] = suite_report.rows([suite_run], "toy")
    assert row.pairs["irrelevant_tool"] == 1.0 and row.pairs["missing_argument"] == 0.0
    assert set(row.pairs) == {"irrelevant_tool", "missing_argument"}
    cells = dict(zip(suite_report.COLUMNS, suite_report.cells(row), strict=True))
    assert cells["pairs"] == "50.0%"
    plain = SuiteRun(SUITES["locks"], suite_run.arm, SUITES["locks"].items(None, 2), [], tmp_path)
    assert suite_report.rows([plain], "toy")[0].pairs == {}


@pytest.mark.parametrize("score", [lambda item, answer: Verdict(None), lambda item, answer: 1 / 0])
def test_a_grader_that_dies_gives_no_verdict_and_not_0(score, model, tmp_path):
    suite_files.write(tmp_path, suite_files.EXAMPLES["gsm8k"])
    suite = SUITES["gsm8k"]
    dying = suite.__class__(**{**vars(suite), "score": score})
    options = settings(modes=("think",), samples=1)
    [suite_run] = run(model, [dying], options, tmp_path / "out", data=tmp_path)
    [row] = suite_report.rows([suite_run], "toy")
    assert row.score is None and row.no_verdict == 1.0 and np.isfinite(row.tokens)


def test_an_answer_that_the_engine_could_not_finish_has_no_verdict(model, tmp_path):
    suite_files.write(tmp_path, suite_files.EXAMPLES["gsm8k"])
    suite = SUITES["gsm8k"]
    item = suite.items(tmp_path)[0]
    suite_run = SuiteRun(suite, arms(suite, settings())[1], [item], [], tmp_path / "x.jsonl")
    failed = Completion(Request([1]), [5], finish="abort", error="not finite")
    record = scored(model.tokenizer, suite_run, Asked(item, 0), failed)
    assert record["score"] is None and record["error"] == "not finite"


def test_a_question_that_the_context_does_not_hold_has_no_verdict(model, tmp_path):
    rows = [{"question": "How many? " * n, "answer": "#### 1"} for n in (1, 400)]
    suite_files.write(tmp_path, suite_files.Example("gsm8k/test.jsonl", rows))
    options = settings(modes=("no_think",), samples=1)
    [suite_run] = run(model, [SUITES["gsm8k"]], options, tmp_path / "out", data=tmp_path)
    [short, long] = suite_run.records.values()
    if short["item"] == "test/2":
        short, long = long, short
    assert short["score"] is not None and long["score"] is None
    assert long["finish"] == "prompt too long" and long["prompt_tokens"] > model.config.max_length


def test_a_dialogue_goes_on_to_its_last_turn_and_is_kept_whole(model, tmp_path):
    suite_files.write(tmp_path, suite_files.EXAMPLES["multi_if"])
    options = settings(modes=("no_think",), samples=2, max_tokens=6)
    suite = SUITES["multi_if"]
    [whole] = run(model, [suite], options, tmp_path / "a", data=tmp_path, slots=4)
    records = list(whole.records.values())
    assert [record["sample"] for record in records] == [0, 1]
    for record in records:
        roles = [message["role"] for message in record["messages"]]
        assert roles == ["user", "assistant"] * 3 and 0 < record["tokens"] <= 18
        assert 0.0 <= record["score"] <= 1.0
    assert records[0]["messages"] != records[1]["messages"]
    run(model, [suite], options, tmp_path / "b", data=tmp_path, slots=1)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_dialogue_whose_other_side_fails_has_no_verdict(model, tmp_path):
    suite_files.write(tmp_path, suite_files.EXAMPLES["multi_if"])

    def fails(item, messages):
        raise NoVerdict("the sandbox died")

    suite = replace(SUITES["multi_if"], follow=fails)
    options = settings(modes=("no_think",), samples=1, max_tokens=6)
    [failed] = run(model, [suite], options, tmp_path / "out", data=tmp_path)
    [record] = failed.records.values()
    assert record["score"] is None and len(record["messages"]) == 2
