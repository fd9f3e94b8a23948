"""mean@k, pass@k and weights of items by literal cases, in tables and in comparisons."""

import json
import tomllib
from importlib.resources import files

import pytest

from qwen3.eval import comparison, intervals, suite_report
from qwen3.eval.composites import COMPOSITES, composites
from qwen3.eval.item_scores import by_samples, estimate, item_scores, item_weights, mean_at, pass_at
from qwen3.eval.items import Item
from qwen3.eval.suite_records import Arm, SuiteRun
from qwen3.eval.suites import SUITES


def records(**samples):
    """Records of items by the scores of their samples; None for no verdict."""
    return [
        {"item": item, "sample": number, "score": score, "extracted": "x"}
        for item, scores in samples.items()
        for number, score in enumerate(scores)
    ]


FOUR = records(a=[1.0, 0.0, 0.0, 0.0], b=[0.0, 1.0, 1.0, 1.0], c=[0.0] * 4)


@pytest.mark.parametrize(
    "k, mean, share",
    [
        (1, 1 / 3, (1 / 4 + 3 / 4) / 3),
        (2, (1 / 2 + 1 / 2) / 3, (1 / 2 + 1) / 3),
        (3, (1 / 3 + 2 / 3) / 3, (3 / 4 + 1) / 3),
        (4, (1 / 4 + 3 / 4) / 3, 2 / 3),
    ],
)
def test_mean_at_k_is_of_the_first_k_and_pass_at_k_of_all(k, mean, share):
    assert mean_at(FOUR, k).value == pytest.approx(mean)
    assert pass_at(FOUR, k).value == pytest.approx(share)


def test_counts_are_powers_of_two_and_all_samples():
    assert [at.k for at in by_samples(FOUR)] == [1, 2, 4]
    assert [at.k for at in by_samples(records(a=[0.0] * 10))] == [1, 2, 4, 8, 10]
    assert [at.k for at in by_samples(records(a=[1.0]))] == [1]


def test_samples_without_a_verdict_count_in_neither():
    some = records(a=[None, 1.0, 0.0], b=[None, None, None], c=[0.0, 0.0, None])
    assert mean_at(some, 1).value == 0.0 and mean_at(some, 2).value == 0.5
    assert pass_at(some, 1).value == (1 / 2 + 0) / 2 and pass_at(some, 2).value == 1 / 2
    assert pass_at(some, 3) is None and mean_at(records(b=[None]), 1) is None
    assert estimate({}) is None


def test_scores_are_means_over_samples_then_items_and_no_verdict_does_not_count():
    assert item_scores(records(a=[1.0, 0.0], b=[1.0], c=[None])) == {"a": 0.5, "b": 1.0}
    assert estimate({"a": 1.0, "b": 0.0}).value == 0.5


def test_table_and_page_give_both_by_number_of_samples(tmp_path):
    items = [Item(name, {}) for name in "abc"]
    run = SuiteRun(SUITES["aime24"], Arm("think", "think"), items, [], tmp_path / "x.jsonl")
    run.records = {(record["item"], record["sample"]): record for record in FOUR}
    rows = suite_report.rows([run], "32b")
    [two] = [line for line in suite_report.sample_cells(rows) if line[2] == "2"]
    assert two[:4] == ("AIME'24", "think", "2", "33.3%") and two[5] == "50.0%"
    page = suite_report.write(tmp_path, "toy", rows).read_text()
    for text in (page, (tmp_path / "report.md").read_text()):
        assert "By number of samples" in text and "pass@k" in text and "50.0%" in text
    [row] = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [at["k"] for at in row["by_samples"]] == [1, 2, 4]
    assert row["by_samples"][1]["pass_at"]["value"] == 0.5
    assert [table.row_count for table in suite_report.terminal_tables(rows)] == [1, 3]
    run.records = {("a", 0): FOUR[0]}
    rows = suite_report.rows([run], "32b")
    assert len(suite_report.terminal_tables(rows)) == 1
    assert "samples</h2>" not in suite_report.write(tmp_path, "toy", rows).read_text()


GAMES = [
    {"item": item, "sample": sample, "score": score, "weight": weight}
    for item, sample, score, weight in (
        ("a", 0, 1.0, 3.0),
        ("b", 0, 0.0, 1.0),
        ("b", 1, 0.5, 3.0),
        ("c", 0, None, 1.0),
    )
]


def test_items_that_count_more_weigh_more():
    scores, weights = item_scores(GAMES), item_weights(GAMES)
    assert scores == {"a": 1.0, "b": 1.5 / 4} and weights == {"a": 3.0, "b": 2.0}
    weighted = estimate(scores, weights)
    assert weighted.value == pytest.approx((3 + 0.75) / 5) and weighted.low < 0.75 < weighted.high
    assert estimate(scores, dict.fromkeys(scores, 1.0)) == estimate(scores)


def test_a_comparison_weighs_the_items_as_each_suite_does(tmp_path):
    games = {
        "first": [(1.0, 3.0), (0.0, 1.0), (0.5, 1.0), (0.0, 3.0)],
        "second": [(1.0, 1.0), (1.0, 3.0), (0.5, 1.0), (0.0, 1.0)],
    }
    for name, pairs in games.items():
        folder = tmp_path / name / "samples"
        folder.mkdir(parents=True)
        lines = [
            {"item": str(i), "sample": 0, "score": score}
            | ({} if weight == 1 else {"weight": weight})  # as the records hold it
            for i, (score, weight) in enumerate(pairs)
        ]
        file = folder / "arena_hard.think.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    [found] = comparison.compare(tmp_path / "first", tmp_path / "second")
    assert (found.first, found.second) == (3.5 / 8, 4.5 / 6)
    assert found.difference.value == pytest.approx(4.5 / 6 - 3.5 / 8) and found.difference.n == 4
    assert found.difference.low < found.difference.value < found.difference.high
    assert found.wins.value == (1 + 3 * 0.5) / 4  # of items, each of which counts once
    [same] = comparison.compare(tmp_path / "first", tmp_path / "first")
    assert same.difference[:3] == (0.0, 0.0, 0.0)


def test_even_weights_change_no_interval():
    first, second = [0.0, 1.0, 0.5, 0.25], [1.0, 1.0, 0.0, 0.5]
    plain = intervals.paired(first, second)
    weighted = intervals.paired(first, second, ([2.0] * 4, [3.0] * 4))
    assert weighted == pytest.approx(plain)


@pytest.mark.parametrize("mode, score", [("think", 93.8), ("no_think", 92.8)])
def test_arena_hard_stands_beside_the_reports_score(mode, score):
    title = SUITES["arena_hard"].published
    assert suite_report.published_score(title, Arm(mode, mode), "32b") == score
    assert suite_report.published_score(title, Arm(mode, mode), "0.6b") is None
    assert suite_report.published_score(title, Arm("think@8", "think", 8), "32b") is None
    assert suite_report.published_score("AIME'24", Arm("think", "think"), "8b") == 76.0
    assert suite_report.published_score("LiveBench", Arm("think", "think"), "8b") is None


def test_the_reports_scores_are_one_a_size():
    text = (files("qwen3.eval") / "published.toml").read_text(encoding="utf-8")
    for mode, table in tomllib.loads(text).items():
        sizes = table.pop("sizes")
        assert {len(scores) for scores in table.values()} == {len(sizes)}, mode


def test_evalplus_is_the_mean_of_its_four_parts(tmp_path):
    rows = []
    for name, scores in zip(COMPOSITES["EvalPlus"], ([1.0, 0.0], [0.0], [1.0], [1.0]), strict=True):
        items = [Item(str(number), {}) for number in range(len(scores))]
        run = SuiteRun(SUITES[name], Arm("text"), items, [], tmp_path / "x.jsonl")
        kept = records(**{str(number): [score] for number, score in enumerate(scores)})
        run.records = {(record["item"], record["sample"]): record for record in kept}
        rows += suite_report.rows([run], "0.6b")
    [row] = composites(rows, "0.6b")
    assert row.score.value == (0.5 + 0 + 1 + 1) / 4 and row.score.low < 0.6 < row.score.high
    assert (row.items, row.published, row.title) == (5, 36.23, "EvalPlus, mean of 4")
    assert row.total == 2 * 164 + 2 * 378
    assert composites(rows[:3], "0.6b") == []
    assert suite_report.cells(row)[-1] == "36.2"
