"""Every row of the table keeps the promises of a Task."""

import json
import re
import time
from dataclasses import asdict, replace

import pytest

from qwen3.rewards import TASKS, get, response, score_all
from qwen3.rewards.task import SPLITS, NoVerdict, Problem

RUNS_CODE = {"coding"}
EVERY = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


def seeds(task, many, few=4):
    return range(few if task.name in RUNS_CODE else many)


@EVERY
def test_worked_and_adversarial_examples_score_as_written(task):
    assert {score for _, _, score in task.examples} >= {0.0, 1.0}
    for problem, text, score in task.examples:
        assert task.score(problem, text) == score, text[:200]


@EVERY
@pytest.mark.parametrize("split", SPLITS)
def test_oracle_scores_one_at_every_difficulty(task, split):
    for seed in seeds(task, 40):
        problem = task.generate(seed, difficulty=(seed % 11) / 10, split=split)
        assert task.score(problem, task.oracle(problem)) == 1.0, problem


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


@EVERY
def test_a_random_policy_scores_near_zero(task):
    scores = []
    for seed in seeds(task, 150, few=15):
        problem = task.generate(seed, difficulty=(seed % 11) / 10)
        scores.append(task.score(problem, task.random_answer(problem, seed)))
    assert sum(scores) / len(scores) < CHANCE.get(task.name, 0.0) + 0.1


CHANCE = {"lock_digits": 0.1}  # one digit in ten is right by chance


@EVERY
def test_the_same_seed_gives_the_same_problem_and_another_seed_another(task):
    assert task.generate(7) == task.generate(7)
    assert len({repr(task.generate(seed)) for seed in range(20)}) > 10


@EVERY
def test_train_and_heldout_never_share_a_prompt(task):
    asked = {
        split: {
            repr(task.generate(seed, d / 4, split).messages) for seed in range(60) for d in range(5)
        }
        for split in SPLITS
    }
    assert not asked["train"] & asked["heldout"]


# What a problem is about, wording apart.
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
        return {repr(CONTENT[task.name](problem)) for problem in problems}

    assert not contents("train") & contents("heldout")


@EVERY
def test_difficulty_makes_problems_and_answers_longer(task):
    def size(difficulty):
        problems = [task.generate(seed, difficulty) for seed in range(30)]
        return sum(len(repr([p.messages[-1:], p.tools, task.solve(p)])) for p in problems)

    assert size(0.0) < size(0.5) < size(1.0)


def adversarial(task, problem):
    """Texts that must earn nothing."""
    asked, (thinking, right) = problem.messages[-1]["content"], task.solve(problem)
    block = (
        "<think>\n\n</think>\n\n" if problem.mode == "no_think" else "<think>\nHm.\n</think>\n\n"
    )
    numbers = [str(n) for n in range(1, 1001)]
    bodies = [
        "",
        "   \n",
        asked,
        f"{asked}\n{asked}",
        "The answer is any of " + ", ".join(numbers) + ".",
        "Answer: " + " or ".join(numbers),
        " ".join(f"\\boxed{{{n}}}" for n in numbers),
        "\\boxed{" + ",".join(numbers) + "}",
        "9" * 5000,
        "Answer: " + "9" * 5000,
        "\\boxed{10^{10^{10^{10}}}}",
        "".join(chr(c) for c in range(0x250, 0x2B0)) + "\u202e\u0000\ud83d 🤷 ٣٤٥ ４２",
        "The lock ends at ٣٤٦. \\boxed{３} Answer: ７",
        "I cannot answer that.",
        "null",
    ]
    return [block + body for body in bodies] + [
        f"<think>\n<think>\n{thinking}\n</think>\n</think>\n\n{right}",
        f"<think>\n{thinking}\n</think>\n\n<think>\n{thinking}\n</think>\n\n{right}",
        f"<think>\n{thinking}\n{right}",
        f"{thinking}\n</think>\n\n{right}",
        f"<think>\n{right}\n</think>\n\n",
        f"<think>\n{right}\n</think>",
        f"{block}{right}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>",
        f"{right}\n<think>\n\n</think>\n\n",
        block,
        "",
        "<|im_end|>",
    ]


@EVERY
@pytest.mark.parametrize("split", SPLITS)
def test_adversarial_answers_score_zero(task, split):
    for seed in range(3):
        problem = task.generate(seed, difficulty=seed / 2, split=split)
        for text in adversarial(task, problem):
            assert task.score(problem, text) == 0.0, text[:200]


LONG = [
    piece + unit * (60_000 // len(unit)) + end
    for piece, unit, end in [
        ("**", "a", ""),
        ("[", "a", ""),
        ("", "\n", "x"),
        ("", " ", "x"),
        ("```\n", " ", "```x"),
        ("", "<tool_call>", ""),
        ("<tool_call>", "\n", "</tool_call>"),
        ("", "<think>", ""),
        ("<think>\n", "\n</think>", ""),
        ("", "\\boxed{", ""),
        ("\\boxed{", "{", ""),
        ("\\boxed{", " ", "}"),
        ("\\boxed{", "x=", "}"),
        ("\\boxed{", "9", "}"),
        ("", "Answer:", ""),
        ("Answer: ", "(", ""),
        ("", "a-", ""),
        ("", "1,", ""),
        ("", "*a", ""),
        ("", "<a>", ""),
        ("", "| a ", "|"),
        ("", "[", ""),
        ("", '{"a":', ""),
        ("", '"', ""),
        ("", "A. ", ""),
        ("```python\n", "(", "\n```"),
        ("```python\n", "x = 1\n", "```"),
        ("<<", "<", ">>"),
    ]
]


@EVERY
def test_long_hostile_answers_are_scored_at_once(task):
    problem = task.generate(0, 0.5)
    for text in LONG:
        start = time.monotonic()
        assert task.score(problem, text) == 0.0, text[:20]
        assert time.monotonic() - start < 5, text[:20]


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
