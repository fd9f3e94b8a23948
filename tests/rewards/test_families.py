"""What single families promise beyond the table: files, verifiers that die, checks, values."""

import gzip
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen3.rewards import (
    TASKS,
    coding,
    coding_files,
    constraints,
    ifeval,
    maths,
    response,
    return_values,
    text_statistics,
)
from qwen3.rewards import constraint_checks as checks
from qwen3.rewards.structured_output import same_json
from qwen3.rewards.task import GROUPS, NoVerdict, draw_in_split, in_split

SHARED = Path(__file__).parents[3] / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.exists(), reason="the public data files are not here")


def write(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


TURNS = [
    ("<think>\na\n</think>\n\nb", response.Response("a", "b")),
    ("<think>\n\n</think>\n\nb<|im_end|>\n", response.Response("", "b")),
    ("b<|endoftext|>", response.Response(None, "b")),
    ("<think>\nstop.\n</think>.\n\nb", response.Response("stop.", "b")),  # the report's stop text
    ("<think>a</think>b", None),
    ("<think>\na\n</think>\n\n", response.Response("a", "")),
    ("x<think>\na\n</think>\n\nb", None),
    ("<think>\na", None),
    ("a\n</think>\n\nb", None),
    ("<think>\n<think>\na\n</think>\n\nb", None),
    ("<think>\na\n</think>\n\nb</think>", None),
    ("b<|im_end|>c", None),
]


@pytest.mark.parametrize("turn, expected", TURNS)
def test_a_turn_is_read_strictly(turn, expected):
    assert response.read(turn) == expected


def test_one_content_key_in_ten_is_held_out():
    held = sum(in_split(str(i), "heldout") for i in range(5000)) / 5000
    assert held == pytest.approx(0.1, abs=0.02)
    with pytest.raises(AssertionError, match="no content for split"):
        draw_in_split(lambda: 0, str, "heldout" if in_split("0", "train") else "train")


# --- mathematics


BOXES = [
    ("so \\boxed{3}", "3"),
    ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
    ("\\boxed{3} = \\boxed{3}", "3"),
    ("\\boxed{2} or \\boxed{3}", None),
    ("\\boxed{3", None),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    ("3", None),
]


@pytest.mark.parametrize("answer, expected", BOXES)
def test_the_final_answer_is_the_one_box(answer, expected):
    assert maths.boxed(answer) == expected


def test_gsm8k_and_math_files_are_read(tmp_path):
    rows = [{"question": "How many?", "answer": "2 + 2 = 4\n#### 1,004"}]
    (problem,) = maths.read_gsm8k(write(tmp_path / "a.jsonl.gz", rows))
    assert problem.answer["gold"] == "1004"
    assert maths.final_answer.score(problem, maths.final_answer.oracle(problem)) == 1.0
    rows = [
        {"problem": "p", "solution": "so $\\boxed{\\frac{1}{3}}$", "level": "Level 5"},
        {"problem": "q", "solution": "no box", "level": "Level 1"},
    ]
    (problem,) = maths.read_math(write(tmp_path / "b.jsonl", rows))
    assert (problem.answer["gold"], problem.difficulty) == ("\\frac{1}{3}", 1.0)


def test_bad_files_are_named_with_line_and_field(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "a", "answer": "#### 1"}\n{"question": ')
    with pytest.raises(ValueError, match="x.jsonl, line 2: not JSON"):
        maths.read_gsm8k(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match=r"y.jsonl, line 1: no field \['answer'\]"):
        maths.read_gsm8k(write(tmp_path / "y.jsonl", [{"question": "a"}]))
    with pytest.raises(ValueError, match="no number after ####"):
        maths.read_gsm8k(write(tmp_path / "z.jsonl", [{"question": "a", "answer": "four"}]))


# --- code


PAIRS = [
    (1, 1.0, True),
    (True, 1, True),
    ([1, 2], (1, 2), False),
    ("1", 1, False),
    ({1}, {1}, True),
    (float("nan"), float("nan"), True),
    ({"a": [1]}, {"a": [1]}, True),
    (1.0, 1.0001, False),
    (None, 0, False),
    ([], (), False),
    (10**400, 1.5, False),
    (1j, 1j, True),
    (1j, 1.0, False),
]


@pytest.mark.parametrize("got, wanted, same", PAIRS)
def test_values_are_compared_as_python_does(got, wanted, same):
    assert return_values.equal(got, wanted) is same


def test_a_tolerance_covers_floats_only():
    assert return_values.equal([1.0, {"a": 2.0}], [1.0000001, {"a": 2.0}], 1e-6)
    assert not return_values.equal(1.1, 1.0, 1e-6)


def test_mbpp_and_humaneval_files_are_read_and_scored(tmp_path):
    rows = [
        {
            "task_id": 1,
            "text": "Add.",
            "code": "def add(a, b):\r\n  return a + b",
            "test_list": ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"],
        },
        {"task_id": 2, "text": "Node.", "code": "x", "test_list": ["assert f(Node(1)) == 2"]},
        {"task_id": 3, "text": "Not.", "code": "x", "test_list": ["assert not f(1)"]},
    ]
    (problem,) = coding_files.read_mbpp(write(tmp_path / "mbpp.jsonl.gz", rows))
    assert problem.answer["task_id"] == 1 and "`add(1, 2)`" in problem.messages[0]["content"]
    assert "3" not in problem.messages[0]["content"]
    task = coding.unit_tests
    assert task.score(problem, task.oracle(problem)) == 1.0
    assert task.score(problem, "```python\ndef add(a, b):\n    return 3\n```") == 0.0
    prompt = 'import math\n\n\ndef root(x):\n    """Square root."""\n'
    rows = [
        {
            "task_id": "H/0",
            "prompt": prompt,
            "entry_point": "root",
            "atol": 1e-6,
            "canonical_solution": "    return math.sqrt(x)\n",
            "base_input": [[4], [2]],
            "plus_input": [[0.25]],
        }
    ]
    (problem,) = coding_files.read_humaneval_plus(write(tmp_path / "h.jsonl", rows))
    assert (
        task.score(problem, "```python\ndef root(x):\n    return math.exp(math.log(x) / 2)\n```")
        == 1
    )
    assert task.score(problem, "```python\ndef root(x):\n    return x / 2\n```") == 0.0


# --- texts


COUNTS = [
    ("Dr. Ng's well-known dog runs 3.5 km. Really? Yes!", 9, 3),
    ("one", 1, 1),
    ("", 0, 0),
    ("... !!", 0, 0),
    ("He waits... She comes.", 4, 2),
]


@pytest.mark.parametrize("sample, words, sentences", COUNTS)
def test_words_and_sentences_are_counted(sample, words, sentences):
    assert (len(text_statistics.words(sample)), text_statistics.sentences(sample)) == (
        words,
        sentences,
    )


CHECKS = [
    (checks.words, {"compare": "at least", "n": 3}, "a b c", "a b"),
    (checks.sentences, {"compare": "less than", "n": 2}, "One.", "One. Two."),
    (checks.paragraphs, {"n": 2}, "a\n\nb", "a\nb"),
    (checks.paragraph_start, {"n": 2, "index": 2, "word": "so"}, "a\n\nSo it is", "so\n\na"),
    (checks.lowercase, {}, "abc 1", "aBc"),
    (checks.uppercase, {}, "ABC 1", "ABc"),
    (checks.capital_words, {"compare": "exactly", "n": 1}, "a BC d", "A BC"),
    (checks.no_comma, {}, "a b", "a, b"),
    (checks.keywords, {"words": ["cat"]}, "The Cat.", "concat"),
    (checks.forbidden, {"words": ["cat"]}, "concat", "a cat"),
    (checks.frequency, {"word": "cat", "compare": "exactly", "n": 2}, "cat Cat cats", "cat"),
    (checks.letter, {"letter": "!", "compare": "at most", "n": 1}, "a!", "a!!"),
    (checks.bullets, {"n": 2}, "- a\n* b", "- a\n- b\n- c"),
    (checks.highlights, {"n": 2}, "*a* and **b c**", "*a* and ** **"),
    (checks.placeholders, {"n": 1}, "Dear [name]", "Dear []"),
    (checks.sections, {"mark": "Part", "n": 2}, "Part 1\na\nPart 2\nb", "Part 1 and Part 2"),
    (checks.title, {}, "<<On rain>>\nIt", "<< >>\nIt"),
    (checks.postscript, {"mark": "P.S."}, "a\nP.S. b", "a\nP.S."),
    (checks.end_phrase, {"phrase": "The end."}, "So. The end.", "The end. So."),
    (checks.quotation, {}, '"a b"', '"a b'),
    (checks.two_answers, {}, "a\n******\nb", "a\n******\na"),
    (checks.repeats, {"prompt": "Say hi."}, "Say hi.\nHi!", "Say hi."),
    (checks.one_of, {"options": ["yes", "no!"]}, "yes", "yes no!"),
    (checks.json_only, {}, '```json\n{"a": 1}\n```', "{a: 1}"),
    (checks.script, {"language": "hi"}, "नमस्ते दुनिया", "hello"),
]


@pytest.mark.parametrize(
    "check, options, good, bad", CHECKS, ids=lambda v: getattr(v, "__name__", "")
)
def test_each_check_accepts_and_refuses(check, options, good, bad):
    assert check(good, **options) is True
    assert check(bad, **options) is False


@pytest.mark.parametrize(
    "check, options, good, bad", CHECKS, ids=lambda v: getattr(v, "__name__", "")
)
def test_each_check_is_quick_on_long_hostile_texts(check, options, good, bad):
    for unit in ("\n", " ", "**a", "*a", "[a", "```\n ", "a", "<<", "{", '"', "Part ", "- ", "A. "):
        start = time.monotonic()
        check(good[:2] + unit * (50_000 // len(unit)), **options)
        assert time.monotonic() - start < 2, unit


def test_every_check_has_such_a_case():
    used = {kind.check for kind in constraints.KINDS.values()}
    used |= {row.check for row in ifeval.INSTRUCTIONS.values()}
    assert used <= {check for check, *_ in CHECKS}


def test_train_and_heldout_stack_different_constraints():
    def stacks(split):
        problems = [constraints.stacked.generate(s, s % 4 / 3, split) for s in range(300)]
        return {tuple(p.answer["constraints"]) for p in problems}

    train, heldout = stacks("train"), stacks("heldout")
    assert not train & heldout and len(train) > 100 and len(heldout) > 50
    with pytest.raises(ValueError, match="constraint 'rhyme' is none of"):
        constraints.problem("rain", {"rhyme": {}})


def test_ifeval_files_are_read_and_scored(tmp_path):
    rows = [
        {
            "key": 1,
            "prompt": "Short, please.",
            "instruction_id_list": [
                "length_constraints:number_words",
                "language:response_language",
            ],
            "kwargs": [{"relation": "less than", "num_words": 4}, {"language": "fr"}],
        }
    ]
    (problem,) = ifeval.read_ifeval(write(tmp_path / "i.jsonl", rows))
    assert ifeval.verdicts(problem, "un deux") == [True, None]
    assert ifeval.grade(problem, "un deux trois quatre") == 0.0
    with pytest.raises(NoVerdict):
        ifeval.grade(problem, "un deux")
    rows[0]["kwargs"][0] = {}
    with pytest.raises(ValueError, match="number_words lacks"):
        ifeval.read_ifeval(write(tmp_path / "j.jsonl", rows))
    rows[0]["instruction_id_list"][0] = "length_constraints:number_lines"
    with pytest.raises(ValueError, match="number_lines' is none of"):
        ifeval.read_ifeval(write(tmp_path / "k.jsonl", rows))


def test_json_values_keep_their_types():
    same = [(2, 2.0), ([{"a": 1.5}], [{"a": 1.5}]), (None, None)]
    different = [
        (True, 1),
        (1, True),
        ("1", 1),
        (2.0, 2),
        ([1], [1, 2]),
        ({}, {"a": None}),
        (None, 0),
    ]
    assert all(same_json(a, b) for a, b in same)
    assert not any(same_json(a, b) for a, b in different)


# --- real files


@real_data
def test_every_gsm8k_answer_scores_one_and_labels_of_model_answers_are_reproduced():
    task = maths.final_answer
    problems = maths.read_gsm8k(SHARED / "gsm8k" / "train.jsonl.gz")
    assert all(task.score(p, task.oracle(p)) == 1.0 for p in problems)
    with gzip.open(SHARED / "gsm8k" / "example_model_solutions.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    seen = 0
    for row in rows:
        gold = row["ground_truth"].rpartition("A:")[2].strip().replace(",", "")
        for solution in (value for value in row.values() if isinstance(value, dict)):
            answer = solution["solution"].rpartition("A:")[2].strip()
            score = task.score(maths.problem("?", gold), f"\\boxed{{{answer}}}")
            assert (score == 1.0) == solution["is_correct"], (gold, answer)
            seen += 1
    assert seen > 1800


@real_data
@pytest.mark.slow
def test_reference_solutions_of_the_real_files_score_one():
    task = maths.final_answer
    for name in ("math500/test.jsonl", "math_pool/train_pool.jsonl.gz"):
        for problem in maths.read_math(SHARED / name):
            gold = problem.answer["gold"]
            assert task.score(problem, f"$\\boxed{{{gold}}}$. Also \\boxed{{ {gold} }}") == 1.0
    task = coding.unit_tests
    problems = coding_files.read_mbpp(SHARED / "mbpp" / "mbpp.jsonl.gz")
    plus = SHARED / "humaneval_plus" / "HumanEvalPlus-Mini.jsonl"
    problems += coding_files.read_humaneval_plus(plus)
    failed = [p.answer["task_id"] for p in problems if task.score(p, task.oracle(p)) != 1.0]
    assert len(problems) > 850 and len(failed) < 5, failed
    assert len(ifeval.read_ifeval(SHARED / "ifeval" / "input_data.jsonl")) == 325


def test_no_family_imports_jax():
    code = "import sys, qwen3.rewards; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert {group: set(names.split()) for group, names in FAMILIES.items()} == {
        group: {name for name, task in TASKS.items() if task.group == group} for group in GROUPS
    }


FAMILIES = {
    "instruction": "length_control constraints ifeval compositions numbered_questions "
    "answer_language lexicon",
    "format": "mode_following format template exact_stop edit_record",
    "preference": "planted_style",
    "agent": "tool_call irrelevant_tool missing_argument parallel_calls",
    "special": "grounded_answer abstention conflicting_sources counterfactual_context "
    "false_premise",
    "reasoning": "lock lock_digits word_problems maths countdown coding logic code_repair "
    "output_prediction spell_backward letter_counting caesar_cipher word_sorting "
    "bracket_completion number_sorting base_conversion roman_numerals number_sequence calendar "
    "time_intervals shortest_path mini_sudoku",
}
