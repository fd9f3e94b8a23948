"""Filters, selection and fusion data; what needs no model."""

import dataclasses
import json

import pytest

from qwen3 import rewards
from qwen3.curate import files, filters, fusion, selection
from qwen3.data import chat
from qwen3.rewards import Problem
from qwen3.rewards.answers import ScoredAnswer


@pytest.mark.parametrize("each", filters.FILTERS, ids=filters.names())
def test_every_filter_keeps_and_drops_its_examples(each):
    assert {kept for *_, kept in each.examples} == {True, False}
    for question, text, score, kept in each.examples:
        assert each.keeps(filters.example(question, text, score)) is kept, text


def test_the_good_example_passes_all_filters_and_each_bad_one_is_counted_once():
    good, wrong, silly = (
        filters.example(*filters.FILTERS[i].examples[k][:3]) for i, k in ((0, 0), (0, 1), (1, 1))
    )
    kept, dropped = filters.sift([good, wrong, silly, wrong])
    assert kept == [good] and dropped == {"right_answer": 2, "no_repetition": 1}


def test_candidates_near_the_validation_set_are_dropped():
    near = "Tom has 3 apples and buys 4 more at the market on Monday before noon."
    keeps = filters.apart_from([near]).keeps
    text = "<think>\nsome\n</think>\n\n7"
    assert not keeps(filters.example(near.lower(), text, 1.0))
    assert not keeps(filters.example("x", f"<think>\n{near}\n</think>\n\n7", 1.0))
    assert keeps(filters.example("Ann sells 9 pears to each of 12 friends.", text, 1.0))
    assert not filters.apart_from(["What is 2 + 2?"]).keeps(
        filters.example("What is 2 + 2?", text, 1.0)
    )


def test_the_cold_start_has_six_filters_of_which_the_last_knows_the_validation_set():
    question, text, score, _ = filters.FILTERS[0].examples[0]
    good = filters.example(question, text, score)
    six = filters.cold_start_filters([question])
    assert [each.name for each in six] == [*filters.names(), "apart_from_validation"]
    assert filters.sift([good], six) == ([], {"apart_from_validation": 1})
    assert filters.sift([good], filters.cold_start_filters(["other words"])) == ([good], {})


def lock(seed, difficulty=0.5):
    return rewards.get("lock").generate(seed, difficulty)


def test_oracle_answers_of_the_lock_pass_all_filters():
    for seed in range(30):
        problem = lock(seed, difficulty=seed % 6 / 5)
        candidate = ScoredAnswer.from_text(problem, rewards.get("lock").oracle(problem), 1.0)
        assert filters.sift([candidate])[0], candidate.text


def test_selection_takes_unused_learnable_hard_prompts_and_domains_in_turn():
    def problem(task, name):
        return Problem(task, [{"role": "user", "content": name}], {})

    rows = [
        (problem("a", "never"), [0, 0, 0, 0]),
        (problem("a", "always"), [1, 1, 1, 1]),
        (problem("a", "easy"), [1, 1, 1, 0]),
        (problem("a", "hard"), [0, 0, 1, 0]),
        (problem("a", "used"), [0, 1, 0, 0]),
        (problem("a", "no verdict"), [None, None, None, None]),
        (problem("a", "hard"), [0, 0, 1, 0]),
        (problem("a", "half"), [0, 1, None, None]),
        (problem("b", "b easy"), [1, 1, 1, 0]),
        (problem("a", "partly right never counts"), [0.9, 0.9, 0.9, 0.9]),
    ]
    answers = [[ScoredAnswer.from_text(asked, "", score) for score in row] for asked, row in rows]
    used = {selection.key(problem("a", "used"))}
    chosen = selection.select(answers, 9, used=used)
    names = [each.messages[0]["content"] for each in chosen]
    assert names == ["hard", "b easy", "half", "easy"]
    assert len(selection.select(answers, 2, used=used)) == 2
    few = selection.select(answers, 9, used=used, low=0.3, high=0.6)
    assert [each.messages[0]["content"] for each in few] == ["half"]
    with pytest.raises(ValueError, match="from 0.5 to 0.2"):
        selection.select(answers, 3, low=0.5, high=0.2)


def samples(count, thinks):
    reasoning = {"reasoning_content": "thought"} if thinks else {}
    return [
        {
            "messages": [
                {"role": "user", "content": f"q{thinks}{i}"},
                {"role": "assistant", "content": f"a{thinks}{i}", **reasoning},
            ]
        }
        for i in range(count)
    ]


def test_fusion_uses_every_answer_once_and_each_obeys_the_flags_before_it():
    thinking, plain = samples(200, True), samples(200, False)
    found = fusion.fuse(thinking, plain, seed=1)
    answers, kinds = [], set()
    for sample in found:
        messages = sample["messages"]
        chat.validate(messages)
        for i, message in enumerate(messages):
            if message["role"] == "assistant":
                answers.append(message["content"])
                assert chat.mode_of(messages[:i]) == bool(message.get("reasoning_content"))
        asks = [m["content"] for m in messages if m["role"] == "user"]
        flags = [next((f for f in ("/think", "/no_think") if a.endswith(f)), "") for a in asks]
        kinds.add((len(asks) > 1, messages[0]["role"], flags[-1], len(set(flags) - {""})))
    given = [s["messages"][1]["content"] for s in [*thinking, *plain]]
    assert sorted(answers) == sorted(given)
    for wanted in (
        (False, "user", "/think", 1),
        (False, "user", "/no_think", 1),
        (False, "user", "", 0),  # a default sample
        (False, "system", "", 0),  # its flag is in the system message
        (True, "user", "/no_think", 2),  # several flags
        (True, "user", "", 1),  # no flag at the last turn after an earlier one
    ):
        assert wanted in kinds, wanted
    assert found == fusion.fuse(thinking, plain, seed=1) != fusion.fuse(thinking, plain, seed=2)


@pytest.mark.parametrize(
    "changes, seen",
    [
        (dict(default=0.0, dialogues=0.0, system=0.0), lambda k: k == {("user", True)}),
        (dict(default=1.0, dialogues=0.0, system=0.0), lambda k: ("user", False) in k),
        (dict(default=0.0, dialogues=0.0, system=1.0), lambda k: k == {("system", True)}),
    ],
)
def test_shares_decide_where_flags_stand(changes, seen):
    found = fusion.fuse(samples(20, True), samples(20, False), fusion.Shares(**changes), seed=0)
    kinds = {
        (s["messages"][0]["role"], any("think" in m["content"] for m in s["messages"]))
        for s in found
    }
    assert seen(kinds), kinds


def test_fusion_refuses_data_that_contradict_their_mode():
    for bad, message in (
        ((samples(1, False), []), "thinking conversation 0 has reasoning None"),
        (([], samples(1, True)), "plain conversation 0 has reasoning 'thought'"),
    ):
        with pytest.raises(ValueError, match=message):
            fusion.fuse(*bad, seed=0)
    flagged = samples(1, True)
    flagged[0]["messages"][0]["content"] += " /think"
    with pytest.raises(ValueError, match="already has a flag"):
        fusion.fuse(flagged, [], seed=0)
    with pytest.raises(ValueError, match="default 2 is no share"):
        fusion.Shares(default=2)


def test_rejection_sampling_keeps_a_few_different_right_answers():
    problem = lock(1)
    good = rewards.get("lock").oracle(problem)
    other = good.replace("<think>\n", "<think>\nLook: ")
    wrong = "<think>\nI add them all up.\n</think>\n\nThe lock ends at 1."
    group = [
        ScoredAnswer.from_text(problem, text, rewards.get("lock").score(problem, text))
        for text in (wrong, good, good, other)
    ]
    found = fusion.rejection_sample([group, group[:1]], per_problem=2)
    assert len(found) == 2
    assert found[0]["messages"][-1]["reasoning_content"] in good
    assert len(fusion.rejection_sample([group])) == 1


def test_equal_answers_are_kept_once():
    problem = lock(1)
    good = ScoredAnswer.from_text(problem, rewards.get("lock").oracle(problem), 1.0)
    assert len(fusion.rejection_sample([[good, good, good]], per_problem=3)) == 1


def test_problems_survive_a_file_and_bad_lines_are_named(tmp_path):
    odd = [{"role": "user", "content": "a\u2028b\u0085c\x0bd\re"}]  # what splitlines() cuts at
    problems = [*(lock(seed) for seed in range(3)), dataclasses.replace(lock(3), messages=odd)]
    path = tmp_path / "problems.jsonl"
    files.write_problems(path, problems)
    assert files.read_problems(path) == problems
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    row = {"messages": [{"role": "user", "content": "hi"}], "tools": json.dumps([tool]), "id": 7}
    path.write_text("\ufeff" + json.dumps(row) + "\r\n\r\n", encoding="utf-8")
    (problem,) = files.read_problems(path)
    assert problem.task == "" and problem.tools == [tool]
    files.write_problems(tmp_path / "problems.jsonl.gz", problems)
    assert files.read_problems(tmp_path / "problems.jsonl.gz") == problems
    problem = dataclasses.replace(problem, task="maths", answer={"gold": "4"})
    files.write_problems(tmp_path / "problems.parquet", [problem])
    assert files.read_problems(tmp_path / "problems.parquet") == [problem]
    for line, message in (
        ('{"task": "nonsense", "messages": [{"role": "user", "content": "a"}]}', "'nonsense'"),
        ('{"messages": []}', "line 1"),
        ('{"prompt": "a"}', r"problems.jsonl, line 1: no field .'messages'."),
        (
            '{"messages": [{"role": "user", "content": "a"}], "awnser": {"gold": "4"}}',
            r"problems.jsonl, line 1: a problem has no field .'awnser'.; it may have task, ",
        ),
        (
            '{"messages": [{"role": "user", "content": "a", "text": "b"}]}',
            r"line 1: message 0: a message has no field .'text'.; it may have role, content",
        ),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": "x"}', "not JSON: 'x'"),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": "lookup"}', "line 1: tools"),
        ("{", "line 1"),
        ("", "holds no problem"),
    ):
        path.write_text(line)
        with pytest.raises(ValueError, match=message):
            files.read_problems(path)
