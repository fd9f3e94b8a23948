"""Every row of the table of suites: read, asked and scored on a small file of its shape."""

import ast
from pathlib import Path

import jinja2
import lm_eval
import pytest
import suite_files
from lm_eval.tasks._yaml_loader import load_yaml

from qwen3.eval import multipl_e, suites
from qwen3.eval.items import Item
from qwen3.eval.suite_answers import right_option
from qwen3.eval.suites import SUITES

UNCALLED = ("bfcl_irrelevance", "bfcl_live_irrelevance")  # no call is right
EXTRACTIVE = ("xquad", "cmrc2018")  # the answer stands in the text
LACKING = [
    f"multipl_e_{name}_base" for name, language in multipl_e.LANGUAGES.items() if language.missing
]
UNJUDGED = ["arena_hard", "writing_bench", *LACKING]  # no judge, no interpreter: no verdict
DIALOGUES = [name for name, suite in SUITES.items() if suite.follow is not None]
FILES = [name for name, suite in SUITES.items() if suite.generate is None and name not in DIALOGUES]
GENERATED = [n for n, suite in SUITES.items() if suite.generate is not None and not suite.needs]


def read(name, folder):
    suite = SUITES[name]
    suite_files.write(folder, suite_files.EXAMPLES[name])
    items = suite.items(folder)
    return suite, items, suite.shots_for(folder, items)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_the_suites_shape_is_read_asked_and_scored(name, tmp_path):
    suite, items, shots = read(name, tmp_path)
    item, example = items[0], suite_files.EXAMPLES[name]
    assert len({i.id for i in items}) == len(items)
    if suite.kind == "choice":
        options = suite.options(item)
        assert 0 <= right_option(item) < len(options)
        assert all(option.startswith(" ") for option in options)
        return
    if name == "gpqa_diamond":
        right, wrong = (f'"answer": "{letter}"' for letter in _letters(item))
    else:
        right, wrong = example.right, example.wrong
    if name in UNJUDGED:
        assert suite.score(item, right).score is suite.score(item, wrong).score is None
    else:
        assert suite.score(item, right).score == 1.0
        assert suite.score(item, wrong).score == 0.0
        assert name in UNCALLED or suite.score(item, "").score == 0.0
    prompt = suite.ask(item)[-1]["content"] if suite.kind == "chat" else suite.text(item, shots)
    assert prompt and (right not in prompt or name in EXTRACTIVE or name in UNJUDGED)


def _letters(item):
    index = item["options"].index("4")
    return "ABCD"[index], "ABCD"[(index + 1) % 4]


@pytest.mark.parametrize("name", GENERATED)
def test_generated_suites_are_the_same_every_time_and_their_oracle_is_right(name):
    suite = SUITES[name]
    items, again = suite.items(None, 6), suite.items(None, 6)
    assert items == again and len(suite.items(None, 3)) == 3
    for item in items:
        from qwen3 import rewards

        problem = item["problem"]
        _, answer = rewards.get(problem.task).solve(problem)
        assert suite.score(item, answer).score == 1.0
        assert suite.score(item, "I cannot tell.").score == 0.0


def test_every_row_says_where_it_comes_from_and_what_it_departs_from():
    for suite in SUITES.values():
        assert suite.source and suite.title and suite.group in suites.GROUPS
        assert (suite.generate is None) == bool(suite.files)
        if suite.kind == "chat":
            assert suite.ask and (suite.score or (suite.follow and suite.score_dialogue))
        else:
            assert suite.text and (suite.score or suite.options)


def test_few_shot_prompts_hold_their_exemplars_and_not_the_item(tmp_path):
    suite, items, shots = read("gsm8k_base", tmp_path)
    text = suite.text(items[0], shots)
    assert text.count("Question:") == 5 and text.count("####") == 4 and text.endswith("Answer:")
    suite, items, shots = read("mbpp_base", tmp_path)
    assert [item.id for item in items] == ["11"] and [shot.id for shot in shots] == ["2", "3", "4"]
    assert suite.text(items[0], shots).count("[DONE]") == 3


def lm_eval_prompt(file, item, shots):
    """A prompt as lm-eval's file of the task renders it: description, exemplars, question."""
    path = Path(lm_eval.__file__).parent / "tasks" / file
    config = load_yaml(path, resolve_func=False)

    def rendered(field, item, **fields):
        template = config[field]
        if "{" not in template:  # the path of a function
            # The function alone: its module imports what the rendering does not need.
            tree = ast.parse((path.parent / "utils.py").read_text())
            wanted = template.rpartition(".")[2]
            tree.body = [part for part in tree.body if getattr(part, "name", "") == wanted]
            names = {}
            exec(compile(tree, str(path), "exec"), names)
            return names[wanted](item.fields)
        template = jinja2.Template(template, keep_trailing_newline=True)
        return template.render(**item.fields, **fields)

    delimiter = config.get("target_delimiter", " ")
    few = {"is_fewshot": True, "few_shot": True}
    asked = [
        f"{rendered('doc_to_text', s)}{delimiter}{rendered('doc_to_target', s, **few)}\n\n"
        for s in shots
    ]
    return config.get("description", "") + "".join(asked) + rendered("doc_to_text", item)


TASKS = [
    ("gsm8k_base", "gsm8k/gsm8k.yaml"),
    ("math_base", "minerva_math/minerva_math_algebra.yaml"),
    ("mbpp_base", "mbpp/mbpp.yaml"),
]


@pytest.mark.parametrize("name, file", TASKS)
def test_prompts_are_those_of_lm_eval(name, file, tmp_path):
    suite, items, shots = read(name, tmp_path)
    if name == "mbpp_base":
        for item in (*items, *shots):
            item.fields["test_list"] = [f"assert double({i}) == {2 * i}" for i in range(3)]
            item.fields["code"] = item["code"].replace("\r", "")
    if name == "math_base":
        shots = [Item(shot.id, {**shot.fields, "answer": ""}) for shot in shots]
    assert suite.text(items[0], shots) == lm_eval_prompt(file, items[0], shots)


def test_the_prompt_of_bbh_is_that_of_lm_eval():
    file = "bbh/cot_fewshot/navigate.yaml"
    path = Path(lm_eval.__file__).parent / "tasks" / file
    config = load_yaml(path, resolve_func=False)
    shots = [Item("shot", fields) for fields in config["fewshot_config"]["samples"]]
    asked = [f"Q: {s['input']}\nA: Let's think step by step.\n{s['target']}" for s in shots]
    exemplars = "\n\n".join([config["description"].strip(), *asked])
    item = Item("1", {"exemplars": exemplars, "input": "Turn. Do you return?"})
    assert SUITES["bbh_base"].text(item, []) == lm_eval_prompt(file, item, shots)


def test_the_order_of_gpqas_options_is_fixed_and_not_that_of_the_file(tmp_path):
    suite, [item], _ = read("gpqa_diamond", tmp_path)
    row = suite_files.EXAMPLES["gpqa_diamond"].content[0]
    rows = [row | {"Question": str(i), "Record ID": str(i)} for i in range(9)]
    example = suite_files.Example("gpqa/gpqa_diamond.jsonl", rows)
    suite_files.write(tmp_path, example)
    golds = [item["gold"] for item in suite.items(tmp_path)]
    assert golds == [item["gold"] for item in suite.items(tmp_path)] and len(set(golds)) > 1


def test_unknown_suites_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="no suite 'gsm9k'; there are mmlu_redux_base"):
        suites.chosen(["gsm9k"])
    with pytest.raises(ValueError, match="Wanted is gsm8k/test.jsonl from openai/gsm8k"):
        SUITES["gsm8k"].items(tmp_path)
    with pytest.raises(ValueError, match="give their folder .--data."):
        SUITES["gsm8k"].items(None)
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "test.jsonl").write_text('{"question": "2 + 2?"}\n')
    with pytest.raises(ValueError, match="line 1.*'answer'"):
        SUITES["gsm8k"].items(tmp_path)
    with pytest.raises(ValueError, match="exemplars gsm8k/train.jsonl are missing"):
        SUITES["gsm8k_base"].shots_for(tmp_path, [])
    there, missing = suites.present(suites.chosen(["gsm8k", "aime24", "locks"]), tmp_path)
    assert [suite.name for suite in there] == ["gsm8k", "locks"] and "aime24" in missing[0]
    assert len(suites.chosen(["all"])) == len(SUITES)
    assert {suite.group for suite in suites.chosen(["base"])} == {"base"}


def test_two_items_of_one_name_are_refused(tmp_path):
    example = suite_files.EXAMPLES["crux_o_base"]
    suite_files.write(tmp_path, example._replace(content=example.content * 2))
    with pytest.raises(ValueError, match="two items are called 's_0'"):
        SUITES["crux_o_base"].items(tmp_path)


def test_options_out_of_place_are_refused_with_file_and_line(tmp_path):
    path = suite_files.write(tmp_path, suite_files.EXAMPLES["c_eval"])
    path.write_text(path.read_text().replace('"answer": "B"', '"answer": "E"'))
    with pytest.raises(ValueError, match="val.jsonl, line 1: option 4 of 4"):
        SUITES["c_eval"].items(tmp_path)


def test_an_item_is_scored_by_values_and_not_by_text():
    crux = SUITES["crux_o_base"].score
    item = Item("1", {"output": "[2, 4]"})
    assert crux(item, "The answer is [2,  4]").score == 1.0
    assert crux(item, "The answer is (2, 4)").score == 0.0
    assert crux(item, "The answer is [1 + 1, 4]").score == 0.0
    assert crux(Item("1", {"output": "True"}), "The answer is 1").score == 0.0
