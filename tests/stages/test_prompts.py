"""Which prompts a run draws, and which of a file's it refuses."""

import dataclasses
import logging

import numpy as np
import post
import pytest

from qwen3 import rewards
from qwen3.curate.files import write_problems
from qwen3.data import chat
from qwen3.data.tokenizer import Tokenizer
from qwen3.rewards import Problem
from qwen3.stages.prompts import Prompts, Share, fitting_problems, prompt_ids


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(post.tokenizer_folder())


def thinks(prompt):
    return chat.mode_of(prompt.problem.messages)


def test_prompts_are_a_function_of_seed_and_number(tokenizer):
    shares = (Share("lock", 3.0, (0.0, 0.4), ("think", "no_think")), Share("countdown", 1.0))
    one, same, other = (Prompts(shares, tokenizer, seed=s) for s in (1, 1, 2))
    drawn = [one[i] for i in range(200)]
    assert drawn == [same[i] for i in range(200)] != [other[i] for i in range(200)]
    names = [prompt.problem.task for prompt in drawn]
    assert 120 < names.count("lock") < 180
    locks = [prompt for prompt in drawn if prompt.problem.task == "lock"]
    assert 0.3 < np.mean([thinks(prompt) for prompt in locks]) < 0.7
    assert max(prompt.problem.difficulty for prompt in locks) <= 0.4
    assert len({prompt.ids for prompt in drawn}) > 190
    assert tokenizer.decode(one[0].ids).endswith("<|im_start|>assistant\n")


def test_weights_difficulty_modes_and_the_training_split_reach_the_tasks(tokenizer, monkeypatch):
    asked = []

    class Spy(post.Letters):
        def generate(self, seed, difficulty=0.5, split="train", mode="any"):
            asked.append((difficulty, split, mode))
            return super().generate(seed, difficulty, split, mode)

    monkeypatch.setitem(rewards.TASKS, "letters", Spy())
    shares = (
        Share("letters", 4.0, (0.25, 0.5), ("no_think",)),
        Share("lock", 1.0, (0.0, 0.0)),
        Share("countdown", 0.0),
    )
    prompts = Prompts(shares, tokenizer, seed=3)
    drawn = [prompts[i].problem for i in range(250)]
    assert 180 < len(asked) < 220 and {problem.task for problem in drawn} == {"letters", "lock"}
    difficulties, splits, modes = zip(*asked, strict=True)
    assert 0.25 <= min(difficulties) < 0.27 and 0.48 < max(difficulties) <= 0.5
    assert set(splits) == {"train"} and set(modes) == {"any"}  # the flag is put on here
    texts = {p.task: p.messages[-1]["content"] for p in drawn}
    assert texts["letters"].endswith(" /no_think") and "think" not in texts["lock"]


def test_a_task_that_sets_its_own_mode_gets_no_other_flag(tokenizer):
    flagged = [post.lock(seed, mode="think") for seed in range(3)]
    prompts = Prompts((Share("file", modes=("no_think",)),), tokenizer, seed=0, problems=flagged)
    assert all(thinks(prompts[i]) for i in range(3))


def test_a_file_of_problems_is_gone_through_once_before_any_comes_again(tokenizer):
    problems = [post.lock(seed) for seed in range(7)]
    prompts = Prompts((Share("file"),), tokenizer, seed=0, problems=problems)
    epochs = [[prompts[e * 7 + i].problem for i in range(7)] for e in range(2)]
    for epoch in epochs:
        assert sorted(map(repr, epoch)) == sorted(map(repr, problems))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(
    "shares, message",
    [
        ((Share("nonsense"),), "task 'nonsense' does not exist; there are"),
        ((Share("lock", modes=("maybe",)),), "modes \\('maybe',\\) of 'lock'"),
        ((Share("lock", 0.0),), "needs weights above 0"),
        ((Share("lock", difficulty=(0.5, 0.1)),), "no range in 0..1"),
        ((Share("file"),), '"file" is the name of their share'),
    ],
)
def test_mixtures_that_cannot_be_drawn_are_refused(tokenizer, shares, message):
    with pytest.raises(ValueError, match=message):
        Prompts(shares, tokenizer, seed=0)


@pytest.mark.parametrize("reasoning", (None, 0.4))
def test_twins_are_drawn_one_after_the_other_and_weights_stay(tokenizer, reasoning):
    shares = (
        Share("abstention", 2.0, modes=("think", "no_think"), twins=True),
        Share("exact_stop", 2.0),
        Share("lock", 4.0),
    )
    prompts = Prompts(shares, tokenizer, seed=3, reasoning=reasoning)
    drawn = [prompts[i].problem for i in range(400)]
    names = [problem.task for problem in drawn]
    part = reasoning or 0.5
    assert names.count("lock") == pytest.approx(400 * part, abs=1 if reasoning else 45)
    assert names.count("abstention") == pytest.approx(400 * (1 - part) / 2, abs=40)
    if reasoning:
        drawn = [problem for problem in drawn if problem.task != "lock"]
    where = [i for i, problem in enumerate(drawn) if problem.task == "abstention"]
    assert len(where) > 40 and where[::2] == [i - 1 for i in where[1::2]]
    first, second = [[drawn[i] for i in where[side::2]] for side in (0, 1)]
    assert [p.twin for p in first] == [p.twin for p in second]
    assert [p.mode for p in first] == [p.mode for p in second]
    assert all(a.messages != b.messages for a, b in zip(first, second, strict=True))


def test_twins_of_a_file_follow_each_other_and_none_comes_twice(tokenizer):
    task = rewards.get("abstention")
    problems = [task.generate(seed) for seed in (0, 2, 4, 1, 3, 5)] + [post.lock(0), post.lock(1)]
    prompts = Prompts((Share("file", twins=True),), tokenizer, seed=1, problems=problems)
    drawn = [prompts[i].problem for i in range(16)]
    assert drawn[:8] != drawn[8:]
    for epoch in (drawn[:8], drawn[8:]):
        assert len({str(problem.messages) for problem in epoch}) == 8
        twins = [problem.twin for problem in epoch if problem.twin]
        assert twins[::2] == twins[1::2] and len(set(twins)) == 3


def test_twins_of_no_pairs_are_refused(tokenizer):
    with pytest.raises(ValueError, match="twins: 'lock' is no family of pairs"):
        Prompts((Share("lock", twins=True),), tokenizer, seed=0)
    with pytest.raises(ValueError, match="no two of the file's 1 problems are twins"):
        Prompts((Share("file", twins=True),), tokenizer, seed=0, problems=[post.lock(0)])


def test_control_tokens_that_a_problem_holds_are_text(tokenizer):
    text = "say <|im_end|> and <think>"
    ids = prompt_ids(Problem("", [{"role": "user", "content": text}], {}), tokenizer)
    assert ids.count(tokenizer.im_end) == 1 and tokenizer.think_open not in ids
    assert text in tokenizer.decode(ids)


# A file of problems, looked at when a run begins.


@pytest.fixture
def file(tmp_path, tokenizer):
    """(path, tokens of the longest prompt of four); problem 3 has it."""
    problems = [post.lock(seed) for seed in range(4)]
    messages = [{"role": "user", "content": "Where does it end? " * 9}]
    problems[2] = dataclasses.replace(problems[2], messages=messages)
    path = tmp_path / "problems.jsonl"
    write_problems(path, problems)
    lengths = [len(prompt_ids(problem, tokenizer)) for problem in problems]
    assert max(lengths) == lengths[2]
    return str(path), lengths[2]


def read(path, tokenizer, most, too_long="error", modes=("any",), scored=True):
    shares = (Share("file", modes=modes), Share("lock", modes=("think",)))
    options = {"most": most, "too_long": too_long, "scored": scored}
    return fitting_problems(path, shares, tokenizer, **options)


def test_a_prompt_that_leaves_no_room_is_named_before_anything_is_sampled(file, tokenizer):
    path, longest = file
    assert len(read(path, tokenizer, longest)) == 4
    with pytest.raises(ValueError, match=r"problems.jsonl: .* 1 of 4 .*: problem 3\. .*too_long"):
        read(path, tokenizer, longest - 1)
    # A flag makes a prompt longer, if a share of the file puts one on; a task's share does not.
    with pytest.raises(ValueError, match="problem 3"):
        read(path, tokenizer, longest, modes=("any", "no_think"))


def test_prompts_that_leave_no_room_may_be_left_out_with_their_names(file, tokenizer, caplog):
    path, longest = file
    with caplog.at_level(logging.WARNING, "qwen3"):
        problems = read(path, tokenizer, longest - 1, "drop")
    assert [problem.messages for problem in problems] == [
        post.lock(seed).messages for seed in (0, 1, 3)
    ]
    assert "1 of 4 problems" in caplog.text and "problem 3. They are left out" in caplog.text
    with pytest.raises(ValueError, match="4 of 4 problems"):
        read(path, tokenizer, 3, "drop")
    with pytest.raises(ValueError, match="too_long 'cut' is none of error, drop"):
        read(path, tokenizer, 3, "cut")


def test_problems_without_a_task_are_refused_where_answers_are_scored(tmp_path, tokenizer):
    path = tmp_path / "bare.jsonl"
    problems = [post.lock(0), Problem("", post.lock(1).messages, {})]
    write_problems(path, problems)
    with pytest.raises(ValueError, match=r"1 of 2 problems have no task .* problem 2"):
        read(str(path), tokenizer, 100)
    assert len(read(str(path), tokenizer, 100, scored=False)) == 2
