"""`qwen3 task check`: a user's rewards and tasks against the contract of a family."""

import json
import re
from pathlib import Path

import pytest

from qwen3 import cli, rewards
from qwen3.environments import world_contract
from qwen3.rewards import contract
from qwen3.workflows import own_rewards, task_check

PAGE = (Path(__file__).parents[2] / "docs" / "own_model_and_data.md").read_text()
GSM8K = re.search(r"```python\n# gsm8k_reward.py\n(.*?)```", PAGE, re.DOTALL)[1]
LENIENT = GSM8K.replace("LINE.fullmatch(answer.strip().split", "LINE.match(answer.strip().split")


def outcomes(path):
    (task,) = task_check.tasks(task_check.Checked(path)).values()
    sizes = contract.Sizes(problems=10, guesses=60, fuzzed=20)
    return {o.check: o for o in contract.outcomes(task, sizes)}


def write(tmp_path, text):
    path = tmp_path / "my_tasks.py"
    path.write_text(text)
    return path


def test_the_worked_example_keeps_every_promise(tmp_path):
    found = outcomes(write(tmp_path, GSM8K))
    assert list(found) == list(contract.CHECKS)
    assert [o for o in found.values() if o.state != "holds"] == []


def test_a_rule_that_pays_for_hedging_is_told_with_the_answer_that_shows_it(tmp_path):
    broken = [o for o in outcomes(write(tmp_path, LENIENT)).values() if o.state != "holds"]
    assert [(o.check, o.state) for o in broken] == [("examples score as written", "broken")]
    assert "scores 1.0, not 0.0: 'Answer: 12 or 13'" in broken[0].what


def test_a_reward_alone_is_told_what_a_check_needs(tmp_path):
    found = outcomes(write(tmp_path, "def reward(answer): return 0.0"))
    assert found["oracle scores 1"].state == "not given"
    assert "generate(rng, difficulty) -> a row" in found["oracle scores 1"].what


def test_problems_of_a_file_stand_for_a_generator(tmp_path):
    path = write(tmp_path, GSM8K[: GSM8K.index("def generate")] + GSM8K[GSM8K.index("def solve") :])
    rows = [{"q": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(60)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    checked = task_check.Checked(path, str(tmp_path / "p.jsonl"), {"prompt": "q"})
    (task,) = task_check.tasks(checked).values()
    held = {task.generate(seed, 0.5, "heldout").messages[0]["content"] for seed in range(40)}
    train = {task.generate(seed, 0.5).messages[0]["content"] for seed in range(40)}
    assert held and not held & train
    contract.oracle_scores_one(task, contract.Sizes(problems=5))


def test_a_task_of_its_own_file_is_found_and_trained_on_by_name(tmp_path):
    path = write(
        tmp_path,
        "from dataclasses import replace\nfrom qwen3.rewards import countdown\n"
        "mine = replace(countdown.expression, name='mine')\n",
    )
    assert list(task_check.tasks(task_check.Checked(path))) == ["mine"]
    assert own_rewards.register(f"{path}:mine") == "mine" and rewards.get("mine").paired is False


def test_a_file_without_either_is_refused_with_what_it_has(tmp_path):
    path = write(tmp_path, "def score(answer): return 1")
    with pytest.raises(ValueError, match=r"neither a Task nor a function 'reward' in \['score'\]"):
        task_check.tasks(task_check.Checked(path))


def test_a_built_in_family_or_world_is_checked_by_its_name_and_a_users_world_too(tmp_path):
    def names(path):
        checked = task_check.Checked(Path(path))
        return {
            name: list(task_check.checks_of(t)) for name, t in task_check.tasks(checked).items()
        }

    path = write(tmp_path, "from qwen3.environments import WORLDS\nmine = WORLDS['key_value']\n")
    of_world = {"key_value": list(world_contract.CHECKS)}
    assert names("lock_digits") == {"lock_digits": list(contract.CHECKS)}
    assert names("key_value") == names(path) == of_world


@pytest.mark.slow
def test_the_command_checks_a_built_in_world(capsys):
    assert cli.main(["task", "check", "key_value"]) == 0
    assert capsys.readouterr().out.count("holds") == len(world_contract.CHECKS)


@pytest.mark.slow
def test_the_command_prints_a_table_and_ends_a_reward_that_hangs(tmp_path, capsys):
    assert cli.main(["task", "check", str(write(tmp_path, GSM8K))]) == 0
    assert capsys.readouterr().out.count("holds") == len(contract.CHECKS)
    hangs = GSM8K.replace(
        "    gold =", "    while '9' * 400 in answer:\n        pass\n    gold =", 1
    )
    assert cli.main(["task", "check", str(write(tmp_path, hangs)), "--limit", "5"]) == 1
    printed = capsys.readouterr().out
    assert "hostile answers score 0: broken: no end after 5 s" in printed
    assert printed.count("holds") == 2
