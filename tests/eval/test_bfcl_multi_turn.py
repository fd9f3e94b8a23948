"""BFCL of several turns: the dialogue, and the official code in the sandbox.

By default a package of ours of the official one's shape. The official verdicts:

    QWEN3_EVAL_DATA=DIR BFCL_PYTHON=PYTHON pytest -m slow tests/eval/test_bfcl_multi_turn.py
"""

import ast
import os
import subprocess
from pathlib import Path

import bfcl_package
import pytest

from qwen3.eval import bfcl_multi_turn
from qwen3.eval.suites import SUITES
from qwen3.rewards import NoVerdict


@pytest.fixture
def item(tmp_path):
    bfcl_package.write(tmp_path, "base")
    [item] = SUITES["bfcl_multi_turn_base"].items(tmp_path)
    return item


def calls(*named):
    functions = [{"function": {"name": name, "arguments": values}} for name, values in named]
    return {"role": "assistant", "content": "", "tool_calls": functions}


SAID = {"role": "assistant", "content": "Done."}


def test_the_dialogue_of_an_item(item):
    messages = bfcl_multi_turn.first(item)
    names = [tool["function"]["name"] for tool in bfcl_multi_turn.tools(item, messages)]
    assert names == ["add"]  # the other one comes in the second turn
    messages.append(calls(("add", {"a": 1, "b": 2}), ("exec", {"source": "1/0"})))
    more = bfcl_multi_turn.follow(item, messages)
    assert [message["role"] for message in more] == ["tool", "tool"]
    assert more[0]["content"] == "{'result': 3}"
    assert "no_such_function" in more[1]["content"]
    messages += [*more, SAID]
    more = bfcl_multi_turn.follow(item, messages)
    assert [message["content"] for message in more] == [bfcl_multi_turn.NEW_FUNCTIONS]
    messages += more
    tools = bfcl_multi_turn.tools(item, messages)
    assert [tool["function"]["name"] for tool in tools] == ["add", "halve"]
    assert "response" not in tools[0]["function"]
    assert bfcl_multi_turn.follow(item, [*messages, SAID]) is None


def answered(item, *turns):
    """The messages of a dialogue whose turns have these steps of calls."""
    messages = []
    for question, steps in zip(item["question"], turns, strict=False):
        messages += question or [{"role": "user", "content": bfcl_multi_turn.NEW_FUNCTIONS}]
        for step in steps:
            messages += [calls(*step), *[{"role": "tool", "content": "3"} for _ in step]]
        messages.append(SAID)
    return messages


def test_verdicts_are_the_official_checkers(item):
    add, halve = ("add", {"a": 1, "b": 2}), ("halve", {"a": 3})

    def score(*turns):
        return bfcl_multi_turn.score(item, answered(item, *turns)).score

    assert score([[add]], [[halve]]) == 1.0
    assert score([[add]], []) == 0.0
    assert score([[halve]], [[add]]) == 0.0
    assert score([[add]]) == 0.0  # ended before the second turn
    assert score([[add]] * (bfcl_multi_turn.MOST_STEPS + 1)) == 0.0


def test_calls_are_literals_or_nothing():
    text = bfcl_multi_turn.as_text
    assert text({"name": "add", "arguments": {"a": "x'\n", "b": [1.5, None]}}, {"add"}) == (
        'add(a="x\'\\n", b=[1.5, None])'
    )
    for name, arguments in (
        ("__import__", {"name": "os"}),
        ("add", {"a=1)+exit(": 1}),
        ("add", {"lambda": 1}),
        ("add", [1]),
        (["add"], {}),
    ):
        assert text({"name": name, "arguments": arguments}, {"add"}) == "no_such_function()"


def test_official_code_that_fails_gives_no_verdict(item):
    package = item["folder"] / bfcl_multi_turn.PACKAGE
    (package / "multi_turn_checker.py").write_text("raise SystemExit")
    bfcl_multi_turn._sources.cache_clear()
    messages = answered(item, [[("add", {"a": 1, "b": 2})]], [])
    assert bfcl_multi_turn.score(item, messages).score is None
    with pytest.raises(NoVerdict, match="the official code ended with"):
        bfcl_multi_turn.follow(item, messages[:2])


def test_a_missing_package_is_named(item, tmp_path):
    checker = item["folder"] / bfcl_multi_turn.PACKAGE / "multi_turn_checker.py"
    checker.unlink()
    with pytest.raises(ValueError, match="bfcl_multi_turn_base has no data .*multi_turn_checker"):
        SUITES["bfcl_multi_turn_base"].items(tmp_path)
    with pytest.raises(ValueError, match="wanted is the wheel bfcl-eval==2025.6.16"):
        bfcl_multi_turn.reader([item["folder"] / "BFCL_v3_multi_turn_base.json"])


# --- the official package


def as_call(text, item):
    """(name, arguments by name) of a call of the possible answers."""
    node = ast.parse(text, mode="eval").body
    [document] = [one for one in item["documents"] if one["name"] == node.func.id]
    names = list(document["parameters"]["properties"])
    values = {n: ast.literal_eval(a) for n, a in zip(names, node.args, strict=False)}
    return node.func.id, values | {k.arg: ast.literal_eval(k.value) for k in node.keywords}


@pytest.mark.slow
@pytest.mark.parametrize("category", ["base", "miss_func", "miss_param", "long_context"])
def test_gold_is_valid_and_no_calls_are_not(category, tmp_path):
    if "QWEN3_EVAL_DATA" not in os.environ or "BFCL_PYTHON" not in os.environ:
        pytest.skip("QWEN3_EVAL_DATA or BFCL_PYTHON names nothing")
    folder = tmp_path / "bfcl_v3"
    folder.mkdir()
    for path in (Path(os.environ["QWEN3_EVAL_DATA"]) / "bfcl_v3").iterdir():
        (folder / path.name).symlink_to(path)
    where = [os.environ["BFCL_PYTHON"], "-c", "import bfcl_eval; print(bfcl_eval.__path__[0])"]
    package = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    (folder / "bfcl_eval").symlink_to(package)
    items = SUITES[f"bfcl_multi_turn_{category}"].items(tmp_path)
    assert len(items) >= 100
    for item in items:
        gold = [[[as_call(text, item) for text in turn]] if turn else [] for turn in item["gold"]]
        assert bfcl_multi_turn.score(item, answered(item, *gold)).score == 1.0, item.id
        nothing = [[] for _ in item["gold"]]
        assert bfcl_multi_turn.score(item, answered(item, *nothing)).score == 0.0, item.id
