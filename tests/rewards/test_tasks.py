"""Every row of the table keeps the promises of a Task."""

import json
import random
import re
from dataclasses import asdict, replace

import pytest

from qwen3.rewards import TASKS, contract, get, response, score_all
from qwen3.rewards.task import GROUPS, NoVerdict, Problem

RUNS_CODE = {"coding", "code_repair"}
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def sizes(task):
    if task.name in RUNS_CODE:
        return contract.Sizes(problems=4, guesses=10, fuzzed=10)
    return contract.Sizes(problems=20)


@EVERY
@pytest.mark.parametrize("check", contract.CHECKS.values(), ids=contract.CHECKS)
def test_the_contract_holds(task, check):
    check(task, sizes(task))


@EVERY
@pytest.mark.slow
def test_two_thousand_fuzzed_answers_are_scored(task):
    contract.fuzzed_answers_get_a_score(task, contract.Sizes(fuzzed=2000))


@pytest.mark.parametrize("share, holds", [(0.08, True), (0.12, False), (0.3, False)])
def test_what_a_random_policy_earns_by_chance_is_told_from_what_it_always_earns(share, holds):
    """`lock_digits` has .111 by chance on its first 300 problems, and .1 in all."""
    rng = random.Random(7)
    by_chance = replace(get("lock"), grade=lambda problem, answer: rng.random() < share)
    if holds:
        contract.random_policy_earns_little(by_chance, contract.Sizes(guesses=300))
        contract.random_policy_earns_little(get("lock_digits"), contract.Sizes(guesses=300))
    else:
        with pytest.raises(contract.BrokenContract, match="the random policy scores 0"):
            contract.random_policy_earns_little(by_chance, contract.Sizes(guesses=300))


@EVERY
def test_oracle_scores_one_in_the_mode_asked_for_and_zero_in_the_other(task):
    problem = task.generate(3)
    if problem.mode == "any":
        problems = [problem.flagged("think"), problem.flagged("no_think")]
        assert [p.messages[-1]["content"].split()[-1] for p in problems] == ["/think", "/no_think"]
    else:
        problems = [problem]
    for problem in problems:
        answer = task.solve(problem)[1]
        full, empty = response.render("A thought.", answer), response.render("", answer)
        expected = [1.0, 0.0] if problem.mode == "think" else [0.0, 1.0]
        assert [task.score(problem, full), task.score(problem, empty)] == expected
        assert task.score(problem, task.oracle(problem)) == 1.0
        assert task.score(problem, answer) == 0.0


# What a problem is about, wording apart, where that is not all of its answer's record.
CONTENT = {
    "lock": lambda p: [row[1:] for row in p.answer["locks"]],
    "lock_digits": lambda p: [row[1:] for row in p.answer["locks"]],
    "word_problems": lambda p: [row[1:] for row in p.answer["locks"]],
    "mode_following": lambda p: [row[1:] for row in p.answer["locks"]],
    "maths": lambda p: re.findall(r"\d+", p.messages[0]["content"]) + [p.answer["gold"]],
    "countdown": lambda p: p.answer["numbers"] + [p.answer["target"]],
    "coding": lambda p: p.answer["solution"].split("\n")[1:],
    "format": lambda p: list(p.answer["rows"][0]),
    "length_control": lambda p: p.answer["keywords"],
    "constraints": lambda p: list(p.answer["constraints"]),
    "ifeval": lambda p: [[n, kw.get("compare")] for n, kw in p.answer["instructions"]],
    "tool_call": lambda p: p.answer["name"],
    "logic": lambda p: [p.answer["people"], p.answer["solution"]],
}


@EVERY
def test_train_and_heldout_never_share_content(task):
    def contents(split):
        problems = [task.generate(seed, d / 4, split) for seed in range(40) for d in range(5)]
        content = CONTENT.get(task.name, lambda problem: problem.answer)
        return {repr(content(problem)) for problem in problems}

    assert not contents("train") & contents("heldout")


@EVERY
def test_difficulty_makes_problems_and_answers_longer(task):
    def size(difficulty):
        problems = [task.generate(seed, difficulty) for seed in range(30)]
        return sum(len(repr([p.messages[-1:], p.tools, task.solve(p)])) for p in problems)

    assert size(0.0) < size(0.5) < size(1.0)


def test_a_group_that_the_report_does_not_have_is_refused():
    assert {task.group for task in TASKS.values()} == set(GROUPS)
    with pytest.raises(ValueError, match="task countdown: group 'puzzles' is none of .*'special'"):
        replace(get("countdown"), group="puzzles")


def test_an_unknown_task_split_difficulty_or_mode_is_named_with_the_choices():
    with pytest.raises(ValueError, match="'soduku' does not exist; there are .*'countdown'"):
        get("soduku")
    task = get("countdown")
    with pytest.raises(ValueError, match="split 'test' is none of"):
        task.generate(0, split="test")
    with pytest.raises(ValueError, match="difficulty 3 is not in 0..1"):
        task.generate(0, difficulty=3)
    with pytest.raises(ValueError, match="mode 'fast' is none of"):
        task.generate(0, mode="fast")
    with pytest.raises(ValueError, match="already asks for mode"):
        get("mode_following").generate(0, mode="think")


def test_a_mixed_batch_is_scored_in_order():
    problems = [task.generate(seed) for seed in range(2) for task in TASKS.values()]
    pairs = [(p, get(p.task).oracle(p)) for p in problems] + [(p, "no") for p in problems]
    assert score_all(pairs, threads=4) == [1.0] * len(problems) + [0.0] * len(problems)


def test_a_problem_survives_json():
    for task in TASKS.values():
        problem = task.generate(1)
        again = Problem(**json.loads(json.dumps(asdict(problem))))
        assert again == problem and task.score(again, task.oracle(again)) == 1.0


def test_a_broken_verifier_is_no_verdict_and_a_bug_is_not_hidden(caplog):
    def broken(problem, answer):
        raise NoVerdict("the verifier is gone")

    task = replace(get("countdown"), grade=broken)
    problem = task.generate(0)
    assert task.score(problem, "Answer: 1") is None and "verifier is gone" in caplog.text
    assert task.score(problem, "<think>\nunclosed") == 0.0
    with pytest.raises(ZeroDivisionError):
        replace(task, grade=lambda problem, answer: 1 / 0).score(problem, "Answer: 1")
    with pytest.raises(AssertionError):
        replace(task, grade=lambda problem, answer: float("nan")).score(problem, "Answer: 1")


@pytest.mark.parametrize("name", TASKS)
def test_the_record_of_a_family_is_what_all_of_its_problems_hold(name):
    task = TASKS[name]
    for seed in range(20):
        answer = task.generate(seed, seed / 20).answer
        assert set(task.record) <= set(answer)
        for field, kind in task.record.items():
            assert kind is None or isinstance(
                answer[field], kind | (int if kind is float else kind)
            )
