"""A small file of every suite in the shape that its authors publish, with a right and a wrong
answer to its first item. The questions are ours."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import NamedTuple

MCQ = {"question": "What is 2 + 2?", "options": ["3", "4", "5", "6"]}
GSM8K = {"question": "Ann has 2 pens and buys 2. How many?", "answer": "2 + 2 = 4\n#### 4"}
MATH = {
    "problem": "What is $2+2$?",
    "solution": "It is $\\boxed{4}$.",
    "answer": "4",
    "unique_id": "test/a/1.json",
}
PROGRAM = {
    "task_id": "HumanEval/0",
    "prompt": 'def double(x: int) -> int:\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "base_input": [[1], [2]],
    "plus_input": [[-3]],
    "atol": 0,
}
MBPP_PLUS = {
    **PROGRAM,
    "task_id": "Mbpp/3",
    "prompt": '"""\nDouble a number.\nassert double(2) == 4\n"""\n',
    "canonical_solution": "\ndef double(x):\n    return 2 * x\n",
}
MBPP = {
    "text": "Write a function to double a number.",
    "code": "def double(x):\r\n    return 2 * x",
    "task_id": 11,
    "test_setup_code": "",
    "test_list": ["assert double(2) == 4", "assert double(5) == 10"],
    "challenge_test_list": [],
}
AGIEVAL = {"passage": None, "question": "2 + 2 = ?", "options": ["(A)3", "(B)4"], "label": "B"}
LETTERS_B = ('"answer": "B"', '"answer": "A"')
BOXED_4 = ("So it is \\boxed{4}.", "So it is \\boxed{5}.")


class Example(NamedTuple):
    """The file of a suite, and answers to its first item."""

    file: str
    content: list[dict] | dict | str
    right: str = ""
    wrong: str = ""


def lines(file: str, row: dict, right: str = "", wrong: str = "") -> Example:
    return Example(file, [row], right, wrong)


EXAMPLES: dict[str, Example] = {
    "mmlu_redux_base": lines(
        "mmlu_redux/mmlu_redux.jsonl",
        {
            "subject": "abstract_algebra",
            "question": "2 + 2?",
            "choices": "['3', '4', '5', '6']",
            "answer": "1",
            "error_type": "OK",
        },
        *LETTERS_B,
    ),
    "mmlu_base": lines(
        "mmlu/test.jsonl",
        {"question": "2 + 2?", "choices": ["3", "4", "5", "6"], "answer": 1, "subject": "algebra"},
    ),
    "mmlu_pro_base": lines(
        "mmlu_pro/test.jsonl",
        {**MCQ, "question_id": 7, "answer": "B", "answer_index": 1, "category": "math"},
        "Two and two make four. The answer is (B).",
        "The answer is (C).",
    ),
    "gsm8k_base": lines("gsm8k/test.jsonl", GSM8K, " 2 + 2 = 4\n#### 4", " 2 + 3 = 5\n#### 5"),
    "math_base": lines(
        "math500/test.jsonl",
        MATH,
        "Final Answer: The final answer is $4$. I hope it is correct.",
        "Final Answer: The final answer is $5$. I hope it is correct.",
    ),
    "mbpp_base": Example(
        "mbpp/mbpp.jsonl",
        [MBPP, *({**MBPP, "task_id": number} for number in (2, 3, 4))],
        "def double(x):\n    return x + x\n",
        "def double(x):\n    return x\n",
    ),
    "crux_o_base": lines(
        "cruxeval/cruxeval.jsonl",
        {"code": "def f(x):\n    return [x, 2 * x]", "input": "2", "output": "[2, 4]", "id": "s_0"},
        " It holds 2 and 4. The answer is [2,4].",
        " The answer is f(2).",
    ),
    "mgsm_base": Example(
        "mgsm/mgsm_de.tsv", "Was ist 1.000 + 234?\t1,234\n", " Das sind 1.234 Euro.", " 1.235"
    ),
    "bbh_base": Example(
        "bbh/navigate.json",
        {"canary": "none", "examples": [{"input": "Turn. Options:\n- Yes\n- No", "target": "No"}]},
        " We turn. So the answer is No.",
        " So the answer is Yes.",
    ),
    "gpqa_diamond": lines(
        "gpqa/gpqa_diamond.jsonl",
        {
            "Record ID": "rec1",
            "Question": "2 + 2?",
            "Correct Answer": "4",
            "Incorrect Answer 1": "3",
            "Incorrect Answer 2": "5",
            "Incorrect Answer 3": "6",
        },
    ),
    "c_eval": lines(
        "c_eval/val.jsonl",
        {"id": 0, "question": "2 + 2?", "A": "3", "B": "4", "C": "5", "D": "6", "answer": "B"},
        *LETTERS_B,
    ),
    "ifeval": lines(
        "ifeval/input_data.jsonl",
        {
            "key": 1,
            "prompt": "Name three colours without commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{}],
        },
        "Red and green and blue",
        "Red, green, blue",
    ),
    "math_500": lines("math500/test.jsonl", MATH, *BOXED_4),
    "aime24": lines("aime/aime24.jsonl", {"prompt": "2 + 2?", "answer": "4"}, *BOXED_4),
    "aime25": lines("aime/aime25.jsonl", {"prompt": "2 + 2?", "answer": "4"}, *BOXED_4),
    "mt_aime2024": lines(
        "mt_aime2024/de.jsonl", {"question": "2 + 2?", "answer": "4", "language": "de"}, *BOXED_4
    ),
    "polymath": lines(
        "polymath/en/low.jsonl", {"id": "low-en-0", "question": "2 + 2?", "answer": "4"}, *BOXED_4
    ),
    "mmmlu": lines(
        "mmmlu/de.jsonl",
        {"Question": "2 + 2?", "A": "3", "B": "4", "C": "5", "D": "6", "Answer": "B"},
        *LETTERS_B,
    ),
    "include": lines(
        "include/test.jsonl",
        {
            "question": "2 + 2?",
            "option_a": "3",
            "option_b": "4",
            "option_c": "5",
            "option_d": "6",
            "answer": 1,
        },
        *LETTERS_B,
    ),
    "mlogiqa": lines("mlogiqa/en.jsonl", {**MCQ, "context": "Numbers.", "answer": 1}, *LETTERS_B),
    "belebele": lines(
        "belebele/de.jsonl",
        {
            "flores_passage": "Two and two.",
            "question": "How many?",
            "mc_answer1": "3",
            "mc_answer2": "4",
            "mc_answer3": "5",
            "mc_answer4": "6",
            "correct_answer_num": "2",
        },
        *LETTERS_B,
    ),
    "super_gpqa": lines(
        "super_gpqa/all.jsonl", {**MCQ, "uuid": "u1", "answer_letter": "B"}, *LETTERS_B
    ),
    "gsm8k": lines("gsm8k/test.jsonl", GSM8K, *BOXED_4),
    "svamp": lines(
        "svamp/SVAMP.jsonl",
        {"ID": "chal-1", "Body": "Ann has 2 pens", "Question": "And 2 more?", "Answer": 4.0},
        *BOXED_4,
    ),
    "cmath": lines("cmath/cmath_dev.jsonl", {"input": "2 + 2 = ?", "golden": "4"}, *BOXED_4),
    "mgsm": Example("mgsm/mgsm_en.tsv", "What is 2 + 2?\t4\n", *BOXED_4),
    "mmlu_pro": lines(
        "mmlu_pro/test.jsonl", {**MCQ, "question_id": 7, "answer_index": 1}, *LETTERS_B
    ),
    **{
        f"agieval_{name}": lines(f"agieval/{name.replace('_', '-')}.jsonl", AGIEVAL, *LETTERS_B)
        for name in (
            "gaokao_biology",
            "gaokao_chemistry",
            "gaokao_geography",
            "gaokao_history",
            "gaokao_physics",
            "gaokao_mathqa",
            "sat_math",
            "lsat_ar",
        )
    },
    "agieval_gaokao_mathcloze": lines(
        "agieval/gaokao-mathcloze.jsonl", {"question": "2 + 2 = ?", "answer": "4"}, *BOXED_4
    ),
    "xcopa_base": lines(
        "xcopa/test.it.jsonl",
        {"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect"}
        | {"label": 0, "idx": 0},
    ),
    "xquad": Example(
        "xquad/xquad.en.json",
        {
            "data": [
                {
                    "paragraphs": [
                        {
                            "context": "Ann lives in Rome.",
                            "qas": [
                                {
                                    "id": "q1",
                                    "question": "Where does Ann live?",
                                    "answers": [{"text": "Rome", "answer_start": 13}],
                                }
                            ],
                        }
                    ]
                }
            ]
        },
        "Rome.",
        "Paris",
    ),
    "cmrc2018": Example(
        "cmrc2018/cmrc2018_dev.json",
        {
            "data": [
                {
                    "paragraphs": [
                        {
                            "context": "小明住在北京。",
                            "qas": [
                                {
                                    "id": "q1",
                                    "question": "小明住在哪里？",
                                    "answers": [{"text": "北京", "answer_start": 4}],
                                }
                            ],
                        }
                    ]
                }
            ]
        },
        "北京",
        "上海",
    ),
}


def write(folder: Path, example: Example) -> Path:
    """Write the file of an example below `folder`, and the exemplars that its suite needs."""
    path = folder / example.file
    path.parent.mkdir(parents=True, exist_ok=True)
    content = example.content
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    elif isinstance(content, dict):
        content = json.dumps(content)
    path.write_text(content)
    train = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(4)]
    pool = [{"problem": f"${i}+1$?", "solution": f"$\\boxed{{{i + 1}}}$"} for i in range(4)]
    for name, rows in (("gsm8k/train.jsonl", train), ("math_pool/train_pool.jsonl", pool)):
        exemplars = folder / name
        exemplars.parent.mkdir(exist_ok=True)
        exemplars.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if example.file.startswith("bfcl"):
        answers = path.parent / "possible_answer" / path.name
        answers.parent.mkdir(exist_ok=True)
        gold = [{"math.power": {"base": [2], "exponent": [3.0, ""]}}]
        rows = [{"id": row["id"], "ground_truth": gold} for row in example.content]
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if example.file.startswith("arena_hard"):
        baseline = path.parent / "model_answer" / "gpt-4-0314.jsonl"
        baseline.parent.mkdir(exist_ok=True)
        turns = [{"content": "Red and blue.", "token_len": 4}]
        row = {"question_id": "u", "model_id": "gpt-4-0314", "choices": [{"turns": turns}]}
        baseline.write_text(json.dumps(row) + "\n")
    thoughts = folder / "bbh" / "cot-prompts" / "navigate.txt"
    if example.file.startswith("bbh"):
        thoughts.parent.mkdir(parents=True)
        thoughts.write_text("canary\n-----\nFollow.\n\nQ: Stay.\nA: So the answer is Yes.")
    return path


def write_books(folder: Path) -> None:
    """What RULER's contexts are made of: a book and questions on short texts."""
    (folder / "corpus").mkdir()
    text = " ".join(f"Sentence number {i} of the book says little." for i in range(400))
    (folder / "corpus" / "en_book.txt").write_text(text)
    paragraphs = [
        {
            "context": f"Person {i} lives in town {i}.",
            "qas": [
                {
                    "id": f"q{i}",
                    "question": f"Where does person {i} live?",
                    "answers": [{"text": f"town {i}"}],
                }
            ],
        }
        for i in range(40)
    ]
    for name in ("xquad", "cmrc2018"):
        write(folder, EXAMPLES[name]._replace(content={"data": [{"paragraphs": paragraphs}]}))


FUNCTION = {
    "name": "math.power",
    "description": "A power.",
    "parameters": {
        "type": "dict",
        "properties": {"base": {"type": "integer"}, "exponent": {"type": "float"}},
        "required": ["base"],
    },
}
CALL = '<tool_call>\n{"name": "math.power", "arguments": {"base": 2, "exponent": %s}}\n</tool_call>'
UNANSWERED = {"irrelevance": False, "live_irrelevance": False, "live_relevance": True}
for _name in (
    "simple multiple parallel parallel_multiple irrelevance live_simple live_multiple "
    "live_parallel live_parallel_multiple live_irrelevance live_relevance"
).split():
    _question = [[{"role": "user", "content": "2 to the 3?"}]]
    _right, _wrong = CALL % "3", CALL % "4"
    if _name in UNANSWERED:
        _right, _wrong = (_right, "It is 8.") if UNANSWERED[_name] else ("It is 8.", _right)
    EXAMPLES[f"bfcl_{_name}"] = lines(
        f"bfcl_v3/BFCL_v3_{_name}.json",
        {"id": f"{_name}_0", "question": _question, "function": [FUNCTION]},
        _right,
        _wrong,
    )

HUMANEVAL_FILE, MBPP_FILE = "humaneval_plus/HumanEvalPlus.jsonl", "mbpp_plus/MbppPlus.jsonl"
for _name, _file, _row in (
    ("humaneval", HUMANEVAL_FILE, PROGRAM),
    ("humaneval_plus", HUMANEVAL_FILE, PROGRAM),
    ("mbpp_evalplus", MBPP_FILE, MBPP_PLUS),
    ("mbpp_plus", MBPP_FILE, MBPP_PLUS),
):
    _bodies = [f"def double(x):\n    return {value}\n" for value in ("x + x", "x")]
    EXAMPLES[f"{_name}_base"] = lines(_file, _row, *_bodies)
    if _name.endswith("plus"):
        EXAMPLES[_name] = lines(_file, _row, *(f"```python\n{body}```" for body in _bodies))
IF_TURN = {
    "prompt": json.dumps({"role": "user", "content": "Name colours without commas."}),
    "instruction_id_list": json.dumps(["punctuation:no_comma"]),
    "kwargs": json.dumps(["{}"]),
}
IF_ROW = {f"turn_{turn}_{name}": text for turn in (1, 2, 3) for name, text in IF_TURN.items()} | {
    "key": "1:1:en",
    "language": "English",
}


def csv_text(row: dict) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row))
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()


SCRIPTS = {  # prompt, tests, right and wrong continuation
    "cpp": (
        "#include <assert.h>\n#include <iostream>\nint twice(int x) {\n",
        "}\nint main() {\n    auto candidate = twice;\n    assert(candidate(2) == (4));\n}\n",
        "    return 2 * x;",
        "    return 5;",
    ),
    "cs": (
        "using System;\nusing System.Diagnostics;\nclass Problem {\n"
        "    public static long Twice(long x) {\n",
        "    }\n    public static void Main(string[] args) {\n"
        "    Debug.Assert(Twice((2L)) == (4L));\n    }\n\n}\n",
        "        return 2 * x;",
        "        return 5;",
    ),
    "java": (
        "import org.javatuples.*;\nclass Problem {\n    public static long twice(long x) {\n",
        "    }\n    public static void main(String[] args) {\n"
        "    assert(twice((2l)) == (4l));\n    }\n\n}\n",
        "        return Unit.with(2 * x).getValue0();",
        "        return 5l;",
    ),
    "ts": (
        "function twice(x: number): number {\n",
        "declare var require: any;\nconst assert = require('node:assert');\n"
        "function test() {\n  assert.deepEqual(twice(2),4);\n}\n\ntest();",
        "  return 2 * x;\n}",
        "  return 5;\n}",
    ),
    "js": ("function twice(x) {\n", "require('assert')(twice(2) === 4)", "return 2 * x\n}", "}"),
    "php": (
        "<?php\nfunction twice($x) {\n",
        "if (twice(2) !== 4) { exit(1); }",
        "return 2 * $x;\n}",
        "}",
    ),
    "sh": (
        "#!/bin/bash\ntwice() {\n",
        "}\nset -e\n[[ $(twice 2) = 4 ]]",
        "  echo $((2 * $1))",
        "  echo 5",
    ),
}
for _name in ("cpp", "cs", "java", "js", "php", "sh", "ts"):
    _prompt, _tests, *_answers = SCRIPTS[_name]
    EXAMPLES[f"multipl_e_{_name}_base"] = lines(
        f"multipl_e/humaneval-{_name}.jsonl",
        {"name": "HumanEval_0_twice", "language": _name, "prompt": _prompt, "tests": _tests},
        *_answers,
    )
ZEBRA = '{"solution": {"House 1": {"Name": "%s"}, "House 2": {"Name": "Bo"}}}'
CHECKS = {
    "Inputs_Check_code": "def inputs_check(inputs):\n    return set(inputs) == {'a', 'b'}",
    "Constraint_List_code": "constraint_list = [lambda inputs: inputs['a'] < inputs['b']]",
}
STDIN = {
    "question_id": "1873_A",
    "question_content": "Print twice the number.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "2\n", "output": "4\n", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "5", "output": "10", "testtype": "stdin"}]),
    "metadata": "{}",
}
EXAMPLES |= {
    "multi_if": Example("multi_if/multiIF.csv", csv_text(IF_ROW), "Red and blue", "Red, blue"),
    "arena_hard": lines("arena_hard/question.jsonl", {"uid": "u", "prompt": "Name two colours."}),
    "writing_bench": lines(
        "writingbench/all.jsonl",
        {
            "index": 1,
            "query": "Write a line.",
            "checklist": [{"name": "Form", "criteria_description": "It is one line."}],
        },
    ),
    "mt_bench": lines(
        "mt_bench/question.jsonl",
        {"question_id": 81, "category": "writing", "turns": ["Name a colour.", "And another?"]},
    ),
    "live_bench": lines(
        "livebench/reasoning/zebra_puzzle/question.jsonl",
        {
            "question_id": "q1",
            "category": "reasoning",
            "task": "zebra_puzzle",
            "turns": ["Who lives where? End with <solution>a, b</solution>."],
            "ground_truth": "ann, bo",
        },
        "<solution>Ann, Bo</solution>",
        "<solution>Bo, Ann</solution>",
    ),
    "zebra_logic": lines(
        "zebra_logic/test.jsonl",
        {
            "id": "z1",
            "size": "2*1",
            "puzzle": "There are 2 houses. Bo is in the second house; who lives in the first?",
            "solution": {"header": ["House", "Name"], "rows": [["1", "Ann"], ["2", "Bo"]]},
        },
        ZEBRA % "ann ",
        ZEBRA % "Eve",
    ),
    "autologi": lines(
        "autologi/AutoLogi_en.jsonl",
        {"idx": 0, "prompt": "Give a and b numbers, a below b.", "code": CHECKS},
        "So it is\n```python\ninputs = {'a': 1, 'b': 2}\n```",
        "```python\n{'a': 2, 'b': 1}\n```",
    ),
    "live_code_bench": lines(
        "livecodebench/test5.jsonl",
        STDIN,
        "```python\nprint(2 * int(input()), end=' ')\n```",
        "```python\nprint(4)\n```",
    ),
}

# Other forms of suites that stand above.
for _name in ("ifeval_loose", "ifeval_checks"):
    EXAMPLES[_name] = EXAMPLES["ifeval"]
EXAMPLES["mmlu_redux"] = EXAMPLES["mmlu_redux_base"]
