"""The leaderboard in the recipe's report."""

from types import SimpleNamespace

import pytest

from qwen3.recipe.report import content, html_page, markdown_page
from qwen3.recipe.report.content import Report
from qwen3.recipe.stages import leaderboard

SCORED = {"score": 0.5, "low": -0.001, "high": 0.95, "n": 4}
BOARD = {
    "cold_start": {"locks.think": SCORED},
    "general_rl": {"locks.think": SCORED, "countdown.think": {"score": None}},
}


def test_rows_are_stages_and_columns_suites_in_every_seed():
    rows = content.leaderboard([{"leaderboard": BOARD}, {"leaderboard": BOARD}])
    assert rows[0] == ("seed", "model after", "countdown.think", "locks.think")
    assert rows[1] == ("0", "cold_start", "-", "50% [0 to 95]")
    assert [row[:2] for row in rows[3:]] == [("1", "cold_start"), ("1", "general_rl")]
    assert content.leaderboard([{}]) == []


@pytest.mark.parametrize("boards", [[{"leaderboard": BOARD}], [{}]])
def test_pages_have_a_leaderboard_where_there_is_one(boards):
    rows = content.leaderboard(boards)
    report = Report([], None, [], [], [], [], [], rows)
    for page, cell in ((html_page, "<td>general_rl</td>"), (markdown_page, "| general_rl |")):
        text = page.render(report)
        assert ("Leaderboard" in text) == (cell in text) == bool(rows)


def test_every_stages_model_is_asked():
    run = SimpleNamespace(
        long=True, budget=SimpleNamespace(students=True), teacher="large", student="small"
    )
    models = dict(leaderboard.checkpoints(run))
    assert list(models)[:2] == ["long", "cold_start"] and models["student_kl"] == "small"
    run.long, run.budget.students = False, False
    assert [name for name, _ in leaderboard.checkpoints(run)] == [
        *("pretrain", "cold_start", "reasoning_rl", "fusion", "general_rl"),
    ]
