"""Twins: how they are drawn, and the metric that only counts both."""

import pytest

from qwen3.rewards import TASKS, Problem, pairs

PAIRED = [task for task in TASKS.values() if task.paired]


@pytest.mark.parametrize("task", PAIRED, ids=lambda task: task.name)
def test_two_seeds_in_a_row_are_twins_and_a_policy_that_sees_no_difference_has_no_pair(task):
    problems = [task.generate(seed, 0.3) for seed in range(12)]
    assert [p.twin for p in problems[::2]] == [p.twin for p in problems[1::2]]
    assert len({p.twin for p in problems}) == 6
    assert task.generate(0, 0.4).twin != problems[0].twin
    right = [(p, task.score(p, task.oracle(p))) for p in problems]
    assert pairs.pair_accuracy(right) == 1.0
    # The same answer to both twins: that of the first.
    same = [(p, task.score(p, task.oracle(problems[i // 2 * 2]))) for i, p in enumerate(problems)]
    assert [score for _, score in same] == [1.0, 0.0] * 6
    assert pairs.pair_accuracy(same) == 0.0


def test_a_pair_counts_by_the_chance_that_an_answer_to_each_problem_is_right():
    def problem(text, twin="k"):
        return Problem("abstention", [{"role": "user", "content": text}], {}, twin=twin)

    first, second, third = problem("a"), problem("b"), problem("c", twin="other")
    assert pairs.pair_accuracy([(first, 1.0), (second, 1.0), (third, 0.0)]) == 1.0
    assert pairs.pair_accuracy([(first, 1.0), (second, 1.0), (second, 0.0)]) == 0.5
    assert pairs.pair_accuracy([(first, 1.0), (second, 0.5)]) == 0.0  # half right is not right
    assert pairs.pair_accuracy([(first, 1.0), (second, None)]) is None
    assert pairs.pair_accuracy([(problem("a", twin=""), 1.0)]) is None


def test_families_of_pairs_are_counted_apart():
    scored = []
    for name, right in (("abstention", 1.0), ("irrelevant_tool", 0.0)):
        problems = [TASKS[name].generate(seed, 0.0) for seed in range(4)]
        scored += [(problem, (1.0, right)[number % 2]) for number, problem in enumerate(problems)]
    scored.append((TASKS["lock"].generate(0), 1.0))
    assert pairs.pairs_by_family(scored) == {"abstention": 1.0, "irrelevant_tool": 0.0}
